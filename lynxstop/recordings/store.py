"""Where a data set lies: a folder, or a place that fsspec reaches, such as an object store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from lynxstop.artifacts import atomic
from lynxstop.errors import ConfigError
from lynxstop.extras import need
from lynxstop.recordings.lock import alone_in

_TEMPORARY = re.compile(
    r"\.(?:meta\.json|(?:traces|cues|features|tokens)-\d+\.\w+|shard-\d+-\d+\.partial)\.\w+"
)


class Store(Protocol):
    """Holds the files of one data set by name; its text form is the place."""

    near: bool
    """Whether `local` costs nothing."""

    def resolved(self) -> str:
        """The place as other processes find it."""
        ...

    def names(self) -> set[str]:
        """Files that are there."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file: others see it whole, or not at all."""
        ...

    def read(self, name: str) -> bytes:
        """Read a file; FileNotFoundError when there is none."""
        ...

    def local(self, name: str) -> Path:
        """Path of a file, or of a copy of it, on this machine."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def alone(self) -> Any:
        """Context in which no other collection writes here, as far as the place can tell."""
        ...

    def clear(self) -> None:
        """Remove what interrupted writes left."""
        ...


class Folder:
    """A folder of this machine, or one that all machines share."""

    near = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def resolved(self) -> str:
        """Absolute path."""
        return str(self.path.resolve())

    def names(self) -> set[str]:
        """Files that are there; none when there is no folder."""
        return {file.name for file in self.path.iterdir()} if self.path.is_dir() else set()

    def write(self, name: str, content: bytes) -> None:
        """Write beside, sync and rename into place; DataError when the disk is full."""
        atomic.write_bytes(self.path / name, content)

    def read(self, name: str) -> bytes:
        """Read a file."""
        return (self.path / name).read_bytes()

    def local(self, name: str) -> Path:
        """Path of a file."""
        return self.path / name

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def alone(self) -> Any:
        """Hold the folder; ConfigError when another process holds it."""
        return alone_in(self.path)

    def clear(self) -> None:
        """Remove temporary files."""
        for file in self.path.glob(".*"):
            if _TEMPORARY.fullmatch(file.name):
                with suppress(FileNotFoundError):
                    file.unlink()


class Remote:
    """A place that fsspec reaches by URL; uploads must appear whole, as those of object stores do."""

    near = False

    def __init__(self, url: str) -> None:
        fsspec = need("fsspec", "objects")
        self._url = url.rstrip("/")
        try:
            self._files, self._root = fsspec.core.url_to_fs(self._url)
        except ImportError as error:
            raise ConfigError(f"{url} cannot be reached: {error}.") from error
        except ValueError as error:
            raise ConfigError(f"{url} is not a place that fsspec knows: {error}.") from error

    def __str__(self) -> str:
        return self._url

    def resolved(self) -> str:
        """The URL."""
        return self._url

    def names(self) -> set[str]:
        """Files that are there, asked anew."""
        self._files.invalidate_cache()
        try:
            return {name.rsplit("/", 1)[-1] for name in self._files.ls(self._root, detail=False)}
        except FileNotFoundError:
            return set()

    def write(self, name: str, content: bytes) -> None:
        """Upload a file in one piece."""
        self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(f"{self._root}/{name}", content)

    def read(self, name: str) -> bytes:
        """Download a file."""
        content: bytes = self._files.cat_file(f"{self._root}/{name}")
        return content

    def local(self, name: str) -> Path:
        """Path of a copy in the cache, fetched unless it is there and the original did not change."""
        cache = {"cache_storage": str(cache_folder()), "check_files": True}
        return Path(need("fsspec", "objects").open_local(f"filecache::{self._url}/{name}", filecache=cache))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nothing: an object store has no locks."""
        yield

    def clear(self) -> None:
        """Nothing: an interrupted upload leaves no object."""


def store_at(place: str | Path) -> Store:
    """Open a place: a path, a ``file://`` URL, or any other URL that fsspec knows.

    Raises
    ------
    ConfigError
        When fsspec does not know the place, or lacks the package that reaches it; names that package.
    MissingExtraError
        When fsspec is needed and not installed.
    """
    text = str(place)
    if isinstance(place, Path) or "://" not in text:
        return Folder(Path(text))
    if text.startswith("file://"):
        return Folder(Path(unquote(urlsplit(text).path)))
    return Remote(text)


def cache_folder() -> Path:
    """Folder of the copies of remote files: ``lynxstop/data`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lynxstop" / "data"
