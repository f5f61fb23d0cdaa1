"""Examinations of a server: its dialect, what it can do, and whether the bundle fits the model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from lynxstop.artifacts.bundle import Bundle
from lynxstop.proxy.promise import stream_config_of
from lynxstop.remote.continuation_check import UncontinuedError, check_continuation
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.dialects.table import choose
from lynxstop.remote.identity import identified
from lynxstop.remote.server import Server
from lynxstop.remote.stream_config import StreamConfig

ENGINE = "openai"
"""Engine of the bundles whose traces were recorded through a server's stream."""

_MOST = 64
"""Models of which it is kept what the server can do beside."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Service:
    """How the requests for one model are served.

    Parameters
    ----------
    dialect : Dialect or None
    stream_config : StreamConfig or None
        What is watched and what may stop a request; None when nothing is decided here.
    cause : str or None
        Why not: requests are then passed through, and counted by it.
    trouble : str or None
        The same for operators, in a sentence; None when it is as it should be.
    system_fingerprint : str or None
        What the server called its configuration when it was examined.
    """

    dialect: Dialect | None = None
    stream_config: StreamConfig | None = None
    cause: str | None = None
    trouble: str | None = None
    system_fingerprint: str | None = None

    @property
    def plugin(self) -> bool:
        """Whether decisions are left to the plugin inside the server."""
        return self.cause == "plugin"


class Examiner:
    """Examines a server for one model after the other.

    Parameters
    ----------
    bundle : Bundle
    dialect : str
        Kind of server; "auto" asks it.

    Attributes
    ----------
    stream_config : StreamConfig or None
        What the bundle lets the proxy decide; None where it belongs to another engine.
    """

    def __init__(self, bundle: Bundle, dialect: str) -> None:
        self._policy = bundle.policy
        self.stream_config = stream_config_of(bundle) if bundle.policy.engine == ENGINE else None
        self._name = dialect
        self._dialect: Dialect | None = None
        self._able: dict[str, Dialect] = {}

    def forget(self, model: str | None = None) -> None:
        """Ask the server again what it can do with a model; all of it, and what it is, when None."""
        if model is not None:
            self._able.pop(model, None)
            return
        self._able.clear()
        self._dialect = None

    async def look(self, server: Server, model: str) -> Service:
        """Find out how the requests for a model are to be served.

        Raises
        ------
        LynxstopError
            When the server does not answer as a server does.
        """
        if self._dialect is None:
            self._dialect = await choose(self._name, server)
        dialect, policy = self._dialect, self._policy
        if self.stream_config is None:
            if await dialect.has_plugin(server):
                return Service(dialect, cause="plugin")
            return Service(
                dialect,
                cause="no_plugin",
                trouble=f"The bundle is for {policy.engine}; the server has no lynxstop plugin.",
            )
        # Side by side: with a busy server each of them waits for its turn.
        checked, identity, hurried = await asyncio.gather(
            check_continuation(
                server, dialect, model, exit_text=policy.exit_text, open=policy.delimiters.open[0]
            ),
            identified(server, dialect, model),
            self._prioritised(server, dialect, model),
            return_exceptions=True,
        )
        if isinstance(checked, UncontinuedError):
            return Service(dialect, cause=checked.code, trouble=str(checked))
        checked, (fingerprint, system) = found(checked), found(identity)
        if different := policy.fingerprint.differences(fingerprint):
            return Service(
                dialect, cause="fingerprint", trouble=_differing(different), system_fingerprint=system
            )
        exit_ids = await checked.dialect.tokenize(server, model, policy.exit_text)
        stream_config = replace(
            self.stream_config,
            exit_ids=exit_ids,
            exit_tokens=checked.exit_tokens,
            opened=checked.opened,
            opened_by=checked.opened_by,
        )
        spoken = found(hurried) if checked.dialect is dialect else checked.dialect
        return Service(spoken, stream_config, system_fingerprint=system)

    async def _prioritised(self, server: Server, dialect: Dialect, model: str) -> Dialect:
        """Find out what the server can do beside; what it can is kept: with llama.cpp, it costs a chat."""
        if (known := self._able.get(model)) is not None:
            return known
        spoken = await dialect.prioritised(server, model)
        if spoken.prioritises or spoken.in_place:
            if len(self._able) >= _MOST:
                self._able.clear()
            self._able[model] = spoken
        return spoken


def found(result: Result | BaseException) -> Result:
    """Return what one of several tasks has found.

    Raises
    ------
    BaseException
        What it has failed with.
    """
    if isinstance(result, BaseException):
        raise result
    return result


def _differing(parts: Sequence[str]) -> str:
    """Say what of a fingerprint differs."""
    said = f"The bundle belongs to another model or server: {', '.join(parts)} differ."
    if list(parts) == ["config"]:
        said += " The answers are the same: the bundle was made under another name of the model, or dialect."
    return said
