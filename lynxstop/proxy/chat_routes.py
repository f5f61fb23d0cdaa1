"""Which requests the chat route itself answers after an exit, and whether a server can do that."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

from lynxstop.errors import LynxstopError, UpstreamError
from lynxstop.proxy.examination import Service
from lynxstop.proxy.logs import logger
from lynxstop.proxy.service import LOOK_SECONDS, RETRY_SECONDS
from lynxstop.proxy.untouched import BY_CHAT_ROUTE, causes
from lynxstop.remote.chat_route_check import ExitText, check_chat_route, refused
from lynxstop.remote.continuation_check import UncontinuedError
from lynxstop.remote.server import Server

UNCERTIFIED = frozenset({"tools", "structured_output"})
"""Answers of a form that no certificate is about: the exit text is cut short, and the loss is not defined."""

_MOST = 256
_OF_THE_CLIENT = (401, 403)


def need_of(body: Mapping[str, Any]) -> frozenset[str]:
    """Name what plain text does not do for in a valid chat request; empty for most.

    Returns
    -------
    frozenset of str
        Causes of `lynxstop.proxy.untouched`, and "tool_turns" where the messages have calls and results.
    """
    found = BY_CHAT_ROUTE.intersection(causes(body))
    if not found or body.get("functions"):
        return frozenset()
    turns = any(isinstance(message, dict) and message.get("role") == "tool" for message in body["messages"])
    return found | {"tool_turns"} if turns else found


@dataclass(frozen=True, slots=True)
class _Found:
    of: Service
    made: Service | None
    until: float = math.inf


class ChatRoutes:
    """How requests with tools, forms and media are served, by model and kind; found out when first needed."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, frozenset[str]], _Found] = {}
        # One for each model and kind that is being looked at: none waits for another.
        self._looking: WeakValueDictionary[tuple[str, frozenset[str]], asyncio.Lock] = WeakValueDictionary()

    async def of(self, server: Server, service: Service, model: str, need: frozenset[str]) -> Service | None:
        """Return the service of such requests; None when they pass through.

        Parameters
        ----------
        server : Server
        service : Service
            Of the model's other requests; what was found out holds as long as this does.
        model : str
        need : frozenset of str
            See `need_of`.
        """
        if (known := self._known(service, model, need)) is not None:
            return known.made
        async with self._looking.setdefault((model, need), asyncio.Lock()):
            if (known := self._known(service, model, need)) is not None:
                return known.made
            found = await self._look(server, service, model, need)
            if len(self._found) >= _MOST:
                self._found.clear()
            if found is not None:
                self._found[model, need] = found
        return None if found is None else found.made

    def withdraw(self, service: Service, model: str, need: frozenset[str]) -> None:
        """Let such requests pass through from now on: the server did not read what was kept."""
        self._found[model, need] = _Found(service, None)
        self._tell(need, "A continued request did not have the thinking that was kept.")

    def ways(self, model: str) -> dict[str, str]:
        """Return how a model's requests are answered, by kind, as far as it is known."""
        return {
            "+".join(sorted(need)): found.made.dialect.describes
            if found.made is not None and found.made.dialect is not None
            else "passed through"
            for (name, need), found in self._found.items()
            if name == model
        }

    def _known(self, service: Service, model: str, need: frozenset[str]) -> _Found | None:
        found = self._found.get((model, need))
        return found if found and found.of is service and time.monotonic() < found.until else None

    async def _look(
        self, server: Server, service: Service, model: str, need: frozenset[str]
    ) -> _Found | None:
        """Examine the server; None when only this client was refused."""
        assert service.dialect is not None
        assert service.stream_config is not None
        config = service.stream_config
        if need & UNCERTIFIED:
            config = config.closing_only()
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                exit = ExitText(config.exit_text, config.close, config.open, config.opened)
                way, tokens = await check_chat_route(server, service.dialect, model, exit, need)
        except (LynxstopError, TimeoutError) as error:
            if isinstance(error, UpstreamError) and error.status_code in _OF_THE_CLIENT:
                return None
            self._tell(need, str(error) or "The server took too long.")
            settled = isinstance(error, UncontinuedError)
            settled = settled or (isinstance(error, UpstreamError) and refused(error))
            return _Found(service, None, math.inf if settled else time.monotonic() + RETRY_SECONDS)
        counted = config.closing_only(tokens) if config.bare else config
        return _Found(service, replace(service, dialect=way, stream_config=counted))

    def _tell(self, need: frozenset[str], trouble: str) -> None:
        fields = {"kind": "+".join(sorted(need)), "trouble": trouble}
        logger.warning("not_answered_by_chat", extra={"fields": fields})
