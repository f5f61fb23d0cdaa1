"""What the operator asked for: one value object, read from the engine's configuration or the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lynxstop.artifacts.expiry import NO_GRACE
from lynxstop.artifacts.recipe import Recipe
from lynxstop.core.conditions import Uncertified
from lynxstop.core.exits import Mode
from lynxstop.errors import ConfigError

KEY = "lynxstop"
"""Key in vLLM's ``--additional-config``."""
OFF = "off"
"""Risk of a request that lynxstop leaves alone."""

_VARIABLES = {
    "bundle": "LYNXSTOP_BUNDLE",
    "recipe": "LYNXSTOP_RECIPE",
    "risk": "LYNXSTOP_RISK",
    "mode": "LYNXSTOP_MODE",
    "record": "LYNXSTOP_RECORD",
    "uncertified": "LYNXSTOP_UNCERTIFIED",
    "grace_days": "LYNXSTOP_GRACE_DAYS",
    "loop_guard": "LYNXSTOP_LOOP_GUARD",
    "close_open_thinking": "LYNXSTOP_CLOSE_OPEN_THINKING",
    "reports": "LYNXSTOP_REPORTS",
    "fused_kernel": "LYNXSTOP_FUSED_KERNEL",
}


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """How the plugin is set up.

    Parameters
    ----------
    bundle : Path, optional
        Bundle to serve.
    recipe : Recipe, optional
        To record by where there is no bundle yet: nothing is scored, and only its budget stops.
    risk : float or "off", optional
        Level of requests that name none; the bundle's default when None, "off" to stop only on request.
    mode : Mode
        Mode of requests that name none.
    record : Path, optional
        Folder to record to, or ":memory:" for what the collector fetches; None keeps recording off.
    uncertified : Uncertified
        What is done with requests outside the certified conditions, or at a level that has expired.
    grace : timedelta
        How long after its expiry a level is still used.
    loop_guard : int, optional
        Copies of one passage in a row after which an exit is forced, beside any rule; the bundle's own where
        None. No certificate covers these exits.
    close_open_thinking : bool
        Whether a request that ends its text while it is thinking ends its thinking instead, and answers.
    reports : Path, optional
        Folder in which the server finds what was decided; see `lynxstop.engines.vllm.exit_reports`.
    fused_kernel : bool
        Whether a GPU runs a step of the sessions as one kernel, `lynxstop.engines.vllm.fused_sessions`.
    """

    bundle: Path | None = None
    recipe: Recipe | None = None
    risk: float | str | None = None
    mode: Mode = Mode.STOP
    record: Path | None = None
    uncertified: Uncertified = Uncertified.THINK
    grace: timedelta = NO_GRACE
    loop_guard: int | None = None
    close_open_thinking: bool = False
    reports: Path | None = None
    fused_kernel: bool = False


def read_settings(
    additional_config: object, environment: Mapping[str, str] = os.environ
) -> PluginSettings | None:
    """Read the settings; a key of the configuration wins over its environment variable.

    Parameters
    ----------
    additional_config : object
        vLLM's ``additional_config``; only a mapping with a "lynxstop" key matters.
    environment : mapping
        Looked up for LYNXSTOP_BUNDLE, LYNXSTOP_RISK and so on: a key in capitals after LYNXSTOP_.

    Returns
    -------
    PluginSettings or None
        None when neither a bundle nor a recipe is named: the plugin is then off.

    Raises
    ------
    ConfigError
        On an unknown key, a value of the wrong kind, or a recipe that cannot be read.
    """
    given = additional_config.get(KEY, {}) if isinstance(additional_config, Mapping) else {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f'"{KEY}" in the additional configuration is not an object.',
            hint=f'Write it like {{"{KEY}": {{"bundle": "PATH", "risk": 0.05}}}}.',
        )
    if unknown := sorted(set(given) - set(_VARIABLES)):
        raise ConfigError(
            f"Unknown lynxstop settings: {', '.join(map(str, unknown))}.",
            hint=f"There are: {', '.join(_VARIABLES)}.",
        )
    _refuse_misspelt(environment)
    found: dict[str, Any] = {
        key: environment[name] for key, name in _VARIABLES.items() if environment.get(name)
    }
    found |= {key: value for key, value in given.items() if value is not None}
    if "bundle" not in found and "recipe" not in found:
        if given:
            raise ConfigError("The lynxstop settings name no bundle.", hint='Add "bundle": "PATH".')
        return None
    if "bundle" in found and "recipe" in found:
        raise ConfigError(
            "The lynxstop settings name a bundle and a recipe.", hint="Serve one, or record by the other."
        )
    if "recipe" in found and "record" not in found:
        raise ConfigError("A recipe is only recorded by.", hint='Add "record": "FOLDER", or serve a bundle.')
    return PluginSettings(
        bundle=_path(found["bundle"], "bundle") if "bundle" in found else None,
        recipe=_recipe(found["recipe"]) if "recipe" in found else None,
        risk=parse_risk(found["risk"]) if "risk" in found else None,
        mode=parse_mode(found.get("mode", Mode.STOP)),
        record=_path(found["record"], "record") if "record" in found else None,
        uncertified=parse_uncertified(found.get("uncertified", Uncertified.THINK)),
        grace=_days(found.get("grace_days", 0)),
        loop_guard=_copies(found["loop_guard"]) if "loop_guard" in found else None,
        close_open_thinking=_switch(found.get("close_open_thinking", False), "close_open_thinking"),
        reports=_path(found["reports"], "reports") if "reports" in found else None,
        fused_kernel=_switch(found.get("fused_kernel", False), "fused_kernel"),
    )


def _refuse_misspelt(environment: Mapping[str, str]) -> None:
    """Refuse a variable that is nearly one of the plugin's; the proxy's have the names of its sections."""
    for name in environment:
        near = get_close_matches(name, _VARIABLES.values(), 1, 0.9)
        if name.startswith("LYNXSTOP_") and name not in _VARIABLES.values() and near:
            raise ConfigError(f"The variable {name} sets nothing.", hint=f"Did you mean {near[0]}?")


def parse_risk(value: object) -> float | str:
    """Read a risk level: a number, its text, or "off".

    Raises
    ------
    ConfigError
        When it is none of these.
    """
    if isinstance(value, str) and value.strip().lower() == OFF:
        return OFF
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError):
        raise ConfigError(f'A risk is a number or "{OFF}", not {value!r}.') from None


def parse_mode(value: object) -> Mode:
    """Read a mode.

    Raises
    ------
    ConfigError
        When there is no such mode.
    """
    try:
        return Mode(str(value))
    except ValueError:
        raise ConfigError(f"A mode is one of {', '.join(Mode)}, not {value!r}.") from None


def _recipe(value: object) -> Recipe:
    """Load a recipe from a file, or take one that is written out in the settings."""
    return Recipe.read(value) if isinstance(value, Mapping) else Recipe.load(_path(value, "recipe"))


def parse_uncertified(value: object) -> Uncertified:
    """Read what is done with requests outside the certified conditions.

    Raises
    ------
    ConfigError
        When it is neither "think" nor "stop".
    """
    try:
        return Uncertified(str(value))
    except ValueError:
        raise ConfigError(f"uncertified is one of {', '.join(Uncertified)}, not {value!r}.") from None


def _days(value: object) -> timedelta:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not float(value) >= 0:
            raise ValueError
        return timedelta(days=float(value))
    except (ValueError, OverflowError):
        raise ConfigError(f"grace_days is a number of days, 0 or more, not {value!r}.") from None


def _copies(value: object) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int) or int(value) < 2:
            raise ValueError
        return int(value)
    except ValueError:
        raise ConfigError(f"loop_guard is a number of copies, 2 or more, not {value!r}.") from None


def _switch(value: object, key: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if (found := known.get(str(value).lower())) is None:
        raise ConfigError(f"{key} is true or false, not {value!r}.")
    return found


def _path(value: object, key: str) -> Path:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"The lynxstop setting {key!r} is a path, not {value!r}.")
    return Path(value).expanduser()
