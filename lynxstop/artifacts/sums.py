"""SHA256SUMS: the digests of a folder's files, in the form that `sha256sum --check` reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from lynxstop.artifacts import atomic

SUMS = "SHA256SUMS"
MAX_BYTES = 4 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")


def sums_text(digests: Mapping[str, str]) -> str:
    """Return the content of the file: one line per name, sorted."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write the digests of the named files of a folder, atomically; `names` are relative to it."""
    atomic.write_text(folder / SUMS, sums_text({name: atomic.sha256(folder / name) for name in names}))


def read_sums(folder: Path) -> dict[str, str] | None:
    """Return the digests by name; empty when the file is damaged or too large, None when there is none.

    A name that leads out of the folder is damage.
    """
    path = folder / SUMS
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            return {}
        lines = path.read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError):
        return {}
    found = [_LINE.fullmatch(line) for line in lines[:-1]]
    if lines[-1] or not all(line and _inside(line[2]) for line in found):
        return {}
    return {line[2]: line[1] for line in found if line}


def sums_differ(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """List, as sentences, the files that are not what the folder's digests say.

    Parameters
    ----------
    folder : Path
    names : iterable of str, optional
        Look at these only, where the digests name them; at all by default.

    Returns
    -------
    list of str
        Empty when all are, and when the folder has no digests.
    """
    digests = read_sums(folder)
    if digests is None:
        return []
    if not digests:
        return [f"{SUMS} is damaged."]
    found = []
    for name in digests if names is None else [name for name in names if name in digests]:
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing.")
        elif atomic.sha256(path) != digests[name]:
            found.append(f"{name} was changed: its digest is not that in {SUMS}.")
    return found


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
