"""One collection at a time per folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lynxstop.errors import ConfigError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder for writing; the system lets go of it when the process ends, however it ends.

    Raises
    ------
    ConfigError
        When another process holds it, or it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made a folder: {error.strerror}.", hint="Choose another folder."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{folder} cannot be written to.", hint="Choose another folder, or change its permissions."
        )
    try:
        import fcntl
    except ModuleNotFoundError:  # not a POSIX system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"Another process is collecting into {folder}.",
                hint="Wait for it, or choose another folder.",
            ) from error
        yield
    finally:
        os.close(handle)
