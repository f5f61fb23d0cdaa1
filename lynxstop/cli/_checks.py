"""What a command needs of the machine, looked at before it begins."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from lynxstop.errors import ConfigError


class AddressError(ConfigError):
    """An address cannot be listened on now; a supervisor may try again."""

    exit_code = 3  # as uvicorn ends when the address is lost after this check


def check_port(host: str, port: int, option: str = "--port") -> None:
    """Refuse an address that cannot be listened on.

    Raises
    ------
    AddressError
        When the port is in use, or the address is not this machine's.
    ConfigError
        When the port is reserved.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressError(
                f"Port {port} of {host} is in use.",
                hint=f"Stop what listens there, or choose another with {option}.",
            ) from None
        if error.errno == errno.EACCES:
            raise ConfigError(
                f"Port {port} is reserved for the system.", hint=f"Choose one above 1023 with {option}."
            ) from None
        raise AddressError(
            f"{host} is not an address of this machine: {error.strerror}.", hint="Choose one with --host."
        ) from None


def check_file(path: Path | None, option: str) -> None:
    """Refuse a file that cannot be written; make nothing. None is no file.

    Raises
    ------
    ConfigError
        When it is a folder, or its folder cannot be written to or made.
    """
    if path is None:
        return
    check_folder(path.parent, option)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder.", hint=f"Name a file in it with {option}.")


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be written to, or made; make nothing.

    Raises
    ------
    ConfigError
        When it, or the nearest folder above it that is there, cannot be written to.
    """
    try:
        place = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
        writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
        why = None if writable else os.strerror(errno.EACCES if place.is_dir() else errno.ENOTDIR)
    except OSError as error:
        why = error.strerror
    if why is not None:
        raise ConfigError(
            f"The folder {folder} cannot be written to: {why}.",
            hint=f"Choose another with {option}, or change its permissions.",
        )
