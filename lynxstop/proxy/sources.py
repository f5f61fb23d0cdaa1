"""Where the configuration comes from: flag over environment over file over default."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from lynxstop.errors import ConfigError
from lynxstop.proxy.config import PolicyConfig, ProxyConfig, UpstreamConfig

FILE = Path("lynxstop.toml")
"""Read from the working folder when no other file is named."""

PREFIX = "LYNXSTOP_"

SHARED = {
    "LYNXSTOP_BUNDLE": "policy.bundle",
    "LYNXSTOP_RISK": "policy.risk",
    "LYNXSTOP_MODE": "policy.mode",
    "LYNXSTOP_UNCERTIFIED": "policy.uncertified",
    "LYNXSTOP_GRACE_DAYS": "policy.grace_days",
}
"""Variables of the plugin in vLLM that mean the same here; the key's own variable wins."""

BACKEND = "backend"
"""Name of the tables of backends, which only the file has."""

_OF_ONE_MODEL = ("policy.bundle", "upstream.model")
"""Keys that a backend does not take over from the sections."""

_ELSEWHERE = frozenset(
    f"LYNXSTOP_{name}"
    for name in ("RECORD", "RECIPE", "LOOP_GUARD", "CLOSE_OPEN_THINKING", "REPORTS", "FUSED_KERNEL")
)
"""Variables that only the plugin in vLLM has."""


_ADDRESS = re.compile(r"(tcp|udp|sctp)://[^/]+:\d+$")
"""How the variable of a service says where it is."""


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, and where each value of it comes from.

    Attributes
    ----------
    config : ProxyConfig
    origins : dict
        By key, as in "serve.port": "flag", the name of a variable, the path of a file, or "default".
    """

    config: ProxyConfig
    origins: dict[str, str]


def keys() -> Iterator[tuple[str, FieldInfo]]:
    """Give every key, as in "serve.port", and its field."""
    for section, outer in ProxyConfig.model_fields.items():
        model = outer.annotation
        if section == BACKEND:
            continue
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        for name, field in model.model_fields.items():
            yield f"{section}.{name}", field


def variable(key: str) -> str:
    """Name the environment variable of a key."""
    return PREFIX + key.replace(".", "_").upper()


def load(
    path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> LoadedConfig:
    """Read the configuration.

    Parameters
    ----------
    path : Path, optional
        The file; by default `lynxstop.toml` in the working folder, if there is one.
    flags : mapping, optional
        Values of flags by key; None is not given.
    environment : mapping
        Looked up for `LYNXSTOP_SECTION_KEY`. Lists are written with commas, tables as `a=1,b=2`.

    Raises
    ------
    ConfigError
        When the file cannot be read, a key does not exist or a value is wrong.
    """
    values: dict[str, Any] = {}
    origins = {key: "default" for key, _ in keys()}
    for found, origin in (
        _from_file(path),
        _from_environment(environment),
        ({key: value for key, value in (flags or {}).items() if value is not None}, "flag"),
    ):
        for key, value in found.items():
            values[key] = value
            origins[key] = _variable_of(key, environment) if origin == PREFIX else origin
    nested: dict[str, dict[str, Any]] = {}
    tables = values.pop(BACKEND, ())
    for key, value in values.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    backends = [_backend(table, values, str(path or FILE)) for table in tables]
    try:
        return LoadedConfig(ProxyConfig.model_validate({**nested, BACKEND: backends}), origins)
    except ValidationError as error:
        # The value itself is not shown: it may be a key.
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"][:2])
        where = f" ({origins[key]})" if key in origins else ""
        if first["loc"][:1] == (BACKEND,):
            # The sections of a backend are ours: in the file all of its keys stand side by side.
            named = [part for part in first["loc"][2:] if part not in ("upstream", "policy")]
            key = f"{(named or first['loc'])[0]} of [[backend]] number {int(first['loc'][1]) + 1}"
        raise ConfigError(
            f"{key or 'The configuration'}{where} is wrong: {_said(first)}.",
            hint="`lynxstop config show` lists all keys.",
        ) from None


def show(config: ProxyConfig, key: str) -> Any:
    """Return the value of a key as plain data; secrets as stars."""
    section, _, name = key.partition(".")
    value: Any = getattr(getattr(config, section), name)
    if isinstance(value, SecretStr | Path):
        return str(value)
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return value


def _from_file(path: Path | None) -> tuple[dict[str, Any], str]:
    if path is None:
        if not FILE.exists():
            return {}, str(FILE)
        path = FILE
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {path} is not TOML: {error}.") from error
    known = {key for key, _ in keys()}
    flat: dict[str, Any] = {}
    for section, table in content.items():
        if section == BACKEND:
            if not isinstance(table, list) or not all(isinstance(one, dict) for one in table):
                raise ConfigError(f"{path}: backends are tables.", hint="Write each under [[backend]].")
            flat[BACKEND] = table
            continue
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} stands outside of a section.", hint=_sections())
        flat |= {f"{section}.{name}": value for name, value in table.items()}
        if section not in ProxyConfig.model_fields:
            raise ConfigError(f"{path}: there is no section [{section}].", hint=_sections())
    if unknown := sorted(set(flat) - known - {BACKEND}):
        raise ConfigError(f"{path}: there is no key {unknown[0]}.", hint=meant(unknown[0], known))
    return flat, str(path)


def _backend(table: Mapping[str, Any], values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Write a backend's table as its sections; what it leaves out is as in the file's own sections."""
    sections = {"upstream": UpstreamConfig.model_fields, "policy": PolicyConfig.model_fields}
    own = {name: section for section, fields in sections.items() for name in fields}
    if unknown := sorted(set(table) - {*own, "models"}):
        raise ConfigError(
            f"{path}: [[backend]] has no key {unknown[0]}.", hint=meant(unknown[0], [*own, "models"])
        )
    made: dict[str, Any] = {section: {} for section in sections}
    for key, value in values.items():
        section, _, name = key.partition(".")
        if section in made and key not in _OF_ONE_MODEL:
            made[section][name] = value
    for name, value in table.items():
        if name in own:
            made[own[name]][name] = value
    named = table.get("models")
    if isinstance(named, list) and named and not set("*?[").intersection(str(named[0])):
        made["upstream"].setdefault("model", named[0])
    return {**made, **({"models": named} if "models" in table else {})}


def meant(name: str, known: Iterable[str]) -> str:
    """Say which name was probably meant, for a hint."""
    near = get_close_matches(name, list(known), 1)
    return f"Did you mean {near[0]}?" if near else "`lynxstop config show` lists all keys."


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    known = dict(keys())
    named = {**SHARED, **{variable(key): key for key in known}}
    linked = _of_services(environment)
    environment = {name: text for name, text in environment.items() if name not in linked}
    wrong = [name for name in environment if name.startswith(PREFIX) and name not in named]
    for name in wrong:
        only = name in _ELSEWHERE
        raise ConfigError(
            f"The variable {name} sets no key" + (": only the plugin in vLLM has it." if only else "."),
            hint="Unset it for the proxy." if only else meant(name, named),
        )
    found: dict[str, Any] = {}
    # Those of the plugin come first, so that a key's own variable wins.
    for name, key in named.items():
        if text := environment.get(name):
            found[key] = _parse(text, known[key], name)
    return found, PREFIX


def _of_services(environment: Mapping[str, str]) -> set[str]:
    """Return the variables by which Kubernetes tells containers of a service that is called lynxstop."""
    ports = [name for name, text in environment.items() if name.endswith("_PORT") and _ADDRESS.match(text)]
    names = [name.removesuffix("PORT") for name in ports if name.startswith(PREFIX)]
    told = tuple(f"{name}{what}_" for name in names for what in ("PORT", "SERVICE_HOST", "SERVICE_PORT"))
    return {name for name in environment if f"{name}_".startswith(told)}


def _variable_of(key: str, environment: Mapping[str, str]) -> str:
    """Name the variable that sets a key."""
    shared = next((name for name, other in SHARED.items() if other == key), "")
    return variable(key) if environment.get(variable(key)) else shared


def _parse(text: str, field: FieldInfo, name: str) -> Any:
    """Split lists and tables; single values are left to the model."""
    kind = get_origin(field.annotation)
    if kind is tuple:
        if parts := tuple(part.strip() for part in text.split(",") if part.strip()):
            return parts
        raise ConfigError(f"The variable {name} lists nothing.", hint="Write it like a,b, or unset it.")
    if kind is dict:
        pairs = [part.partition("=") for part in text.split(",")]
        if not all(separator for _, separator, _ in pairs):
            raise ConfigError(f"The variable {name} is not a table.", hint="Write it like low=0.1,high=off.")
        return {key.strip(): value.strip() for key, _, value in pairs}
    return text


def _said(error: Mapping[str, Any]) -> str:
    """Say what is wrong with a value, in the words of the file."""
    forms = {"tuple_type": 'a list is meant, as in ["x"]', "dict_type": "a table is meant, as in {low = 0.1}"}
    text = str(forms.get(error["type"], error["msg"]))
    if error["loc"][-1:] == ("constrained-float",):
        text = 'a level between 0 and 1 is meant, or "off"'
    return text.removeprefix("Value error, ").rstrip(".")


def _sections() -> str:
    return f"Sections: {', '.join(f'[{name}]' for name in ProxyConfig.model_fields)}.".replace(
        f"[{BACKEND}]", f"[[{BACKEND}]]"
    )
