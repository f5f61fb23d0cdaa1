"""Optional dependencies: one lookup, one message."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from lynxstop.errors import MissingExtraError


def need(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Raises
    ------
    MissingExtraError
        When the module, or something it imports, is not installed; names the extra that brings it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or module, extra) from error
