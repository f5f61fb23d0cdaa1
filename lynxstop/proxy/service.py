"""What the proxy serves: a bundle, the server's dialect, and whether the two fit together."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from lynxstop.artifacts.bundle import Bundle, CertifiedLevel
from lynxstop.artifacts.certified import Certified
from lynxstop.artifacts.expiry import NO_GRACE
from lynxstop.core.conditions import Conditions
from lynxstop.core.stream import StreamWatch
from lynxstop.errors import LynxstopError, UpstreamError
from lynxstop.proxy.logs import logger
from lynxstop.proxy.request_options import RequestOptions
from lynxstop.remote.continuation_check import UncontinuedError, check_continuation
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.dialects.table import choose
from lynxstop.remote.identity import identify
from lynxstop.remote.server import Server
from lynxstop.remote.stream_config import StreamConfig

ENGINE = "openai"
"""Engine of the bundles whose traces were recorded through a server's stream."""

RETRY_SECONDS = 10.0
"""After a failed examination of the server, requests pass through for so long before the next one."""

LOOK_SECONDS = 60.0
"""Longest examination of a server; requests for the same model wait for it."""

_OF_THE_CLIENT = (401, 403)
"""Refusals that concern one client's key, not the server."""

_MOST_MODELS = 64


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
    """

    dialect: Dialect | None = None
    stream_config: StreamConfig | None = None
    cause: str | None = None
    trouble: str | None = None

    @property
    def plugin(self) -> bool:
        """Whether decisions are left to the plugin inside the server."""
        return self.cause == "plugin"


class Services:
    """The services of all models of one server; the server is examined when a model is first named.

    Parameters
    ----------
    bundle : Bundle or None
        None: nothing is ever stopped.
    dialect : str
        Kind of server; "auto" asks it.
    grace : timedelta
        How long after its expiry a level is still used.

    Attributes
    ----------
    certified : Certified or None
        What the levels were certified for; None where there are none.
    """

    def __init__(self, bundle: Bundle | None, dialect: str = "auto", grace: timedelta = NO_GRACE) -> None:
        self.bundle = bundle
        self.certified = None if bundle is None else Certified.of(bundle, grace=grace)
        self.policy = None if bundle is None else bundle.policy.stop_policy()
        self._saved = {} if bundle is None else _saved(bundle)
        self._stream_config = (
            stream_config_of(bundle) if bundle is not None and bundle.policy.engine == ENGINE else None
        )
        self._name = dialect
        self._dialect: Dialect | None = None
        self._found: dict[str, Service] = {}
        self._failed: dict[str, tuple[float, Service]] = {}
        self._looking = asyncio.Lock()
        self._first: asyncio.Task[str | None] | None = None

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
        if (found := self._found.get(model)) is not None:
            return found
        until, failed = self._failed.get(model, (0.0, Service(cause="unresolved")))
        if time.monotonic() < until or len(self._found) >= _MOST_MODELS:
            return failed
        async with self._looking:
            if (found := self._found.get(model)) is not None:
                return found
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    found = await self._look(server, model)
            except (LynxstopError, TimeoutError) as error:
                logger.warning("unresolved", extra={"fields": {"error": type(error).__name__}})
                if getattr(error, "status_code", None) in _OF_THE_CLIENT:
                    return Service(cause="unresolved")
                if len(self._failed) >= _MOST_MODELS:
                    self._failed.clear()
                failed = Service(cause="unresolved", trouble=str(error) or "The server took too long.")
                self._failed[model] = time.monotonic() + RETRY_SECONDS, failed
                return failed
            self._found[model] = found
        if found.trouble is not None:
            logger.error("not_served", extra={"fields": {"cause": found.cause, "trouble": found.trouble}})
        return found

    def forget(self) -> None:
        """Examine the server again: it was unreachable, and may have been replaced."""
        self._found.clear()
        self._dialect = None

    @property
    def states(self) -> dict[str, Service]:
        """What is known of each model that was named, failed examinations included."""
        return {name: failed for name, (_, failed) in self._failed.items()} | self._found

    @property
    def trouble(self) -> str | None:
        """What keeps the bundle from being served to some model, or None."""
        return next((found.trouble for found in self._found.values() if found.trouble), None)

    async def ready(self, server: Server) -> str | None:
        """Return what keeps the bundle from being served, as far as is known without a client's key.

        Before the first request it examines the first model that the server lists. The examination goes on
        when the caller no longer waits.
        """
        if self.bundle is None or self._found:
            return self.trouble
        if self._first is None or self._first.done():
            self._first = asyncio.create_task(self._look_first(server))
        return await asyncio.shield(self._first)

    async def _look_first(self, server: Server) -> str | None:
        try:
            listed = await server.call("/v1/models")
        except UpstreamError:
            # Another check reports that, or only clients have a key.
            return None
        entries = listed.get("data") if isinstance(listed, dict) else None
        names = [entry["id"] for entry in entries or () if isinstance(entry, dict) and "id" in entry]
        return (await self.of(server, str(names[0]))).trouble if names else None

    def level(self, risk: float | None, group: str | None) -> CertifiedLevel | None:
        """Return the certified level that a request has."""
        if self.bundle is None or risk is None:
            return None
        found = {level.group: level for level in self.bundle.policy.levels if abs(level.risk - risk) < 1e-9}
        return found.get(group, found.get(None))

    def departures(self, body: Mapping[str, Any], options: RequestOptions) -> tuple[str, ...]:
        """Name what a request departs from its level's certificate in; empty where that holds for it."""
        if self.certified is None or self.policy is None:
            return ()
        limits = (body.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
        most = next((limit for limit in limits if limit is not None), None)
        served = Conditions.read({**body, "max_tokens": most}, self.certified.conditions)
        return self.certified.departures(served, self.policy.level(options.risk, options.group))

    def with_certified_sampling(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the certified value of each sampling setting that a request leaves to the server."""
        if self.certified is None:
            return body
        known = self.certified.conditions
        settings = {"temperature": known.temperature}
        if known.temperature > 0:
            settings |= {"top_p": known.top_p} if known.top_p < 1 else {}
            settings |= {"top_k": known.top_k} if known.top_k > 0 else {}
        missing = {name: value for name, value in settings.items() if body.get(name) is None}
        return {**body, **missing} if missing else body

    def saved(self, level: CertifiedLevel | None) -> float | None:
        """Return the share of the thinking tokens that a level saved when it was certified."""
        return None if level is None else self._saved.get(level.certificate)

    async def _look(self, server: Server, model: str) -> Service:
        assert self.bundle is not None
        if self._dialect is None:
            self._dialect = await choose(self._name, server)
        dialect, policy = self._dialect, self.bundle.policy
        if self._stream_config is None:
            if await dialect.has_plugin(server):
                return Service(dialect, cause="plugin")
            return Service(
                dialect,
                cause="no_plugin",
                trouble=f"The bundle is for {policy.engine}; the server has no lynxstop plugin.",
            )
        try:
            checked = await check_continuation(
                server, dialect, model, exit_text=policy.exit_text, open=policy.delimiters.open[0]
            )
        except UncontinuedError as error:
            return Service(dialect, cause=error.code, trouble=str(error))
        fingerprint = await identify(server, dialect, model)
        if different := policy.fingerprint.differences(fingerprint):
            return Service(
                dialect,
                cause="fingerprint",
                trouble=f"The bundle belongs to another model or server: {', '.join(different)} differ.",
            )
        exit_ids = await checked.dialect.tokenize(server, model, policy.exit_text)
        stream_config = replace(
            self._stream_config, exit_ids=exit_ids, exit_tokens=checked.exit_tokens, opened=checked.opened
        )
        return Service(checked.dialect, stream_config)


def stream_config_of(bundle: Bundle) -> StreamConfig:
    """Return what a bundle watches for in a stream."""
    policy = bundle.policy
    return StreamConfig(
        StreamWatch(policy.cues, policy.delimiters),
        policy.stop_policy(),
        policy.exit_text,
        policy.think_close,
        policy.cut == "before",
        open=policy.delimiters.open,
    )


def _saved(bundle: Bundle) -> Mapping[str, float]:
    found = {}
    for level in bundle.policy.levels:
        saved = json.loads((bundle.path / level.certificate).read_text()).get("saved")
        if isinstance(saved, int | float):
            found[level.certificate] = float(saved)
    return found
