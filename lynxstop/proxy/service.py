"""The services of a server's models: what an examination found, as long as it holds."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from weakref import WeakValueDictionary

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.expiry import NO_GRACE
from lynxstop.errors import LynxstopError, UpstreamError
from lynxstop.proxy.examination import Examiner, Service
from lynxstop.proxy.freshness import Freshness
from lynxstop.proxy.logs import logger
from lynxstop.proxy.promise import Promise
from lynxstop.remote.server import Server, listed_models

RETRY_SECONDS = 10.0
"""After a failed examination of the server, requests pass through for so long before the next one."""

LOOK_SECONDS = 60.0
"""Longest examination of a server; requests for the same model wait for it."""

_OF_THE_CLIENT = (401, 403)
"""Refusals that concern one client's key, not the server."""

_LOST = ("upstream_unreachable", "upstream_died")
"""Failures after which another server may answer."""

_MOST_MODELS = 64
"""Most models that are examined though the server does not list them: clients may make up any name."""

_NAME = 200

NO_KEY = Service(cause="unresolved")
"""For a request whose key the server refuses; other requests may have another."""

_UNRESOLVED = Service(cause="unresolved")


class Services(Promise):
    """The services of all models of one server; the server is examined when a model is first named.

    Parameters
    ----------
    bundle : Bundle or None
        None: nothing is ever stopped.
    dialect : str
        Kind of server; "auto" asks it.
    grace : timedelta
        How long after its expiry a level is still used.
    model : str, optional
        The model that the bundle is for; by default the first that the server lists.
    names : sequence of str
        Further models of the configuration.

    Attributes
    ----------
    freshness : Freshness
        What the server looked like when it was examined.
    """

    def __init__(
        self,
        bundle: Bundle | None,
        dialect: str = "auto",
        grace: timedelta = NO_GRACE,
        model: str | None = None,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(bundle, grace)
        self.model = model
        self._names = frozenset(names)
        self._listed: frozenset[str] = frozenset()
        self._examiner = None if bundle is None else Examiner(bundle, dialect)
        self._found: dict[str, Service] = {}
        self._failed: dict[str, tuple[float, Service]] = {}
        # One for each model of the server; names that clients made up have one together.
        self._looking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._looking_at_others = asyncio.Lock()
        self._first: asyncio.Task[str | None] | None = None
        self._only: str | None = None
        self.freshness = Freshness()

    async def of(self, server: Server, model: str) -> Service:
        """Return the service of a model.

        Parameters
        ----------
        server : Server
            Examined for the model, if it has not been before.
        model : str
            As requests name it.
        """
        if self.bundle is None:
            return Service(cause="no_bundle")
        if (known := self._remembered(model)) is not None:
            return known
        if await self._crowded(server, model):
            return _UNRESOLVED
        async with self._turn(model):
            if (known := self._remembered(model)) is not None:
                return known
            return _UNRESOLVED if await self._crowded(server, model) else await self._examine(server, model)

    def _remembered(self, model: str) -> Service | None:
        """Return what the last examination found; None before one, and some time after one that failed."""
        if (found := self._found.get(model)) is not None:
            self.freshness.asked.add(model)
            return found
        until, failed = self._failed.get(model, (0.0, None))
        return failed if time.monotonic() < until else None

    @property
    def _own(self) -> set[str | None]:
        """The models that the server lists or the configuration names."""
        signs = self.freshness.signs or ()
        return {*signs, *self._listed, *self._names, self.model, self.freshness.first}

    def _turn(self, model: str) -> asyncio.Lock:
        if model not in self._own:
            return self._looking_at_others
        return self._looking.setdefault(model, asyncio.Lock())

    async def _crowded(self, server: Server, model: str) -> bool:
        """Say whether a model is not to be examined: nobody lists it, and too many of these are known."""
        own = self._own
        if model in own or len(self._found.keys() - own) < _MOST_MODELS:
            return False
        if self.freshness.signs is None:  # only clients have a key
            with suppress(UpstreamError):
                self._listed = frozenset(listed_models(await server.call("/v1/models")))
        return model not in self._own

    async def again(self, server: Server, model: str) -> None:
        """Examine the server once more, while requests are served as before.

        What was found before is kept where the server is too busy to answer. Where it wants a key that only
        clients have, that ends, so that the next client's is used.
        """
        async with self._turn(model):
            service = await self._examine(server, model)
            self.freshness.keyless = service is NO_KEY
            if service is NO_KEY:
                self._found.pop(model, None)
                self.freshness.suspects.discard(model)

    async def _examine(self, server: Server, model: str) -> Service:
        begun = time.monotonic()
        before = self._found.get(model)
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                found = await self._look(server, model)
        except (LynxstopError, TimeoutError) as error:
            code = getattr(error, "code", None)
            logger.warning("unresolved", extra={"fields": {"error": type(error).__name__, "code": code}})
            if getattr(error, "status_code", None) in _OF_THE_CLIENT:
                return NO_KEY
            if len(self._failed) >= _MOST_MODELS:
                self._failed.clear()
            failed = Service(cause="unresolved", trouble=str(error) or "The server took too long.")
            self._failed[model] = time.monotonic() + RETRY_SECONDS, failed
            return failed
        if found == before:
            # What was found out beside, as about tools, holds as long as a service does.
            found = before
        self._found[model] = found
        self._failed.pop(model, None)
        self.freshness.examined(model, found.system_fingerprint)
        if before is None or before.cause != found.cause:
            _tell(model, found, time.monotonic() - begun)
        return found

    def forget(self, cause: str = "upstream_unreachable") -> None:
        """Examine the server again before anything is watched: it may have been replaced."""
        if self._found:
            logger.warning("forgotten", extra={"fields": {"cause": cause, "models": len(self._found)}})
        self._found.clear()
        self._failed.clear()
        self.freshness.clear()
        if self._examiner is not None:
            self._examiner.forget()
        self._listed = frozenset()
        self._only = None

    def lost(self, error: UpstreamError) -> None:
        """Take note that a request has failed: one that the server did not live to answer."""
        if error.code in _LOST:
            self.forget(error.code)

    def known(self, model: str) -> Service | None:
        """Return the service of a model that has been examined; None for others."""
        return self._found.get(model)

    @property
    def decides(self) -> bool:
        """Whether decisions are made here, and not by a plugin in the server."""
        return self._examiner is not None and self._examiner.stream_config is not None

    def belongs(self, model: str, event: Mapping[str, Any]) -> bool:
        """Say whether an event comes from the server that was examined, as far as it shows.

        If it does not, the server is examined again before the next request is watched. What earlier
        examinations found stays known: it may be one of several replicas.
        """
        if self.freshness.knows(model, event.get("system_fingerprint")):
            return True
        self.freshness.suspects.add(model)
        if self._examiner is not None:
            self._examiner.forget(model)
        if self._found.pop(model, None) is not None:
            logger.warning("forgotten", extra={"fields": {"cause": "system_fingerprint", "models": 1}})
        return False

    def examined(self) -> dict[str, Service]:
        """Return what is known of each model that was named, failed examinations included."""
        return {name: failed for name, (_, failed) in self._failed.items()} | self._found

    def states(self) -> dict[str, str]:
        """Return what happens to the requests for each model: "watched", or why they pass through."""
        shown = {model: failed.cause or "unresolved" for model, (_, failed) in self._failed.items()}
        return shown | {model: found.cause or "watched" for model, found in self._found.items()}

    def shown_states(self) -> dict[str, str]:
        """Return the states of models whose names are the server's; a client may name anything."""
        own, states = self._own, self.states()
        shown = {model: state for model, state in states.items() if model in own}
        if self.freshness.away is not None and (first := self.model or self.freshness.first):
            shown[first] = "away"
        return {**shown, "other": "unresolved"} if states.keys() - own else shown

    def troubled(self, seconds: float) -> set[str]:
        """Return the model of the bundle, if an examination this old found that it cannot be served."""
        model, now = self.model or self.freshness.first, time.monotonic()
        if model is None:
            return set()
        until, _ = self._failed.get(model, (math.inf, None))
        found = self._found.get(model)
        stuck = found is not None and found.trouble is not None
        return {model} if now >= until or (stuck and self.freshness.is_older(model, seconds)) else set()

    async def only_model(self, server: Server) -> str | None:
        """Return the model of requests that name none: the server's only one; None when it has several."""
        if self._only is None:
            try:
                models = listed_models(await server.call("/v1/models"))
            except UpstreamError:
                return None
            roots = {str(entry.get("root") or name) for name, entry in models.items()}
            self._only = next(iter(models)) if len(roots) == 1 else None
        return self._only

    async def ready(self, server: Server) -> str | None:
        """Return what keeps the bundle from being served to its model, as far as is known without a key.

        The model is the configured one, else the first that the server lists. The examination goes on when
        the caller no longer waits.
        """
        if self.bundle is None:
            return None
        if self._first is None or self._first.done():
            self._first = asyncio.create_task(self._look_first(server))
        first = self._first
        await asyncio.wait((first,))
        return None if first.cancelled() else first.result()

    async def end(self) -> None:
        """End an examination that nobody waits for: it would open connections again."""
        if self._first is not None:
            self._first.cancel()
            await asyncio.gather(self._first, return_exceptions=True)

    async def _look_first(self, server: Server) -> str | None:
        model = self.model or self.freshness.first
        if model is None:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    model = next(iter(listed_models(await server.call("/v1/models"))), None)
            except (UpstreamError, TimeoutError):
                # Another check reports that, or only clients have a key.
                return None
            self.freshness.first = model
        if model is None:
            return None
        # What a check asks for does not count as traffic.
        return (self._found.get(model) or await self.of(server, model)).trouble

    async def _look(self, server: Server, model: str) -> Service:
        assert self._examiner is not None
        return await self._examiner.look(server, model)


def _tell(model: str, service: Service, seconds: float) -> None:
    """Log what an examination has found."""
    fields: dict[str, Any] = {"model": model[:_NAME], "seconds": round(seconds, 3)}
    if service.dialect is not None:
        fields |= {"dialect": service.dialect.name, "continuation": service.dialect.describes}
    if service.trouble is None:
        logger.info("served", extra={"fields": {**fields, "by": service.cause or "stream"}})
    else:
        logger.error(
            "not_served", extra={"fields": {**fields, "cause": service.cause, "trouble": service.trouble}}
        )
