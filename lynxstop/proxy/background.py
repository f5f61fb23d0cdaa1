"""What the proxy does beside its requests: watch the server, and say how it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lynxstop._version import __version__
from lynxstop.errors import UpstreamError
from lynxstop.proxy import ops
from lynxstop.proxy.backends import DEFAULT
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.freshness import is_away, keep_fresh
from lynxstop.proxy.logs import logger
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.service import Services
from lynxstop.proxy.shadow import ShadowRecorder
from lynxstop.remote.http.connection import Connection
from lynxstop.remote.http.upstream import Upstream

if TYPE_CHECKING:
    from lynxstop.proxy.app import App


class Background:
    """The proxy's work beside its requests, and what /ready says of it.

    Parameters
    ----------
    config : ProxyConfig
    services : Services
    upstream : Upstream
    metrics : Metrics
    shadow : ShadowRecorder, optional
        Its records are finished when the proxy ends.
    name : str, optional
        Of the backend, where there are several.
    """

    def __init__(
        self,
        config: ProxyConfig,
        services: Services,
        upstream: Upstream,
        metrics: Metrics,
        shadow: ShadowRecorder | None = None,
        name: str | None = None,
    ) -> None:
        self._name = name
        self._config, self._services, self._metrics = config, services, metrics
        self._shadow, self._server = shadow, Connection(upstream)
        self._reachable = ops.reachable(upstream)
        self._task: asyncio.Task[None] | None = None

    @property
    def checks(self) -> Mapping[str, ops.Check]:
        """What /ready checks."""
        return {"upstream": self._answers} | ({"bundle": self._belongs} if self._services.bundle else {})

    def facts(self) -> Mapping[str, object]:
        """Return what /ready says beside its checks."""
        bundle = self._config.policy.bundle
        return {
            "version": __version__,
            "bundle": "none" if bundle is None else bundle.name,
            "models": self._services.shown_states(),
        }

    async def begin(self, app: App) -> None:
        """Say what is served, and begin to watch the server."""
        logger.info("started", extra={"fields": self._served()})
        if self._services.bundle is None and self._config.policy.risk not in (None, "off"):
            logger.warning("no_bundle", extra={"fields": {"risk": self._config.policy.risk}})
        if expired := self._expired():
            fields = {"levels": expired, "uncertified": self._config.policy.uncertified}
            logger.warning("expired", extra={"fields": fields})
        if self._services.bundle is not None or self._name is not None:
            fresh = keep_fresh(
                self._services, self._server, self._config.upstream.recheck_seconds, self._show_states
            )
            self._task = asyncio.create_task(fresh)

    async def end(self) -> None:
        """End the watch, and finish what is being recorded."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._services.end()
        if self._shadow is not None:
            await self._shadow.drain()

    def _show_states(self) -> None:
        up = self._services.freshness.away is None
        self._metrics.show_states(self._name or DEFAULT, self._services.shown_states(), up=up)

    async def _belongs(self) -> str | None:
        return await self._services.ready(self._server)

    async def _answers(self) -> str | None:
        try:
            trouble = await self._reachable()
        except UpstreamError as error:
            is_away(self._services, str(error))
            raise
        if trouble is not None:
            is_away(self._services, trouble)
        return trouble

    def _expired(self) -> list[float]:
        """Return the levels whose certificates have expired, and whose days of grace are over."""
        policy, certified = self._services.policy, self._services.certified
        if policy is None or certified is None:
            return []
        return [level.risk for level in policy.levels if certified.dates.expired(level.risk, level.group)]

    def _served(self) -> dict[str, object]:
        """Return the fields of the first line of the log."""
        config, policy = self._config, self._services.policy
        return {
            "version": __version__,
            **({} if self._name is None else {"backend": self._name}),
            "upstream": config.upstream.url,
            "dialect": config.upstream.dialect,
            "bundle": None if config.policy.bundle is None else str(config.policy.bundle),
            "levels": [] if policy is None else [level.risk for level in policy.levels],
            "risk": config.policy.risk
            or (self._services.bundle and self._services.bundle.policy.default_risk),
            "mode": config.policy.mode,
            "keys": len(config.serve.api_keys),
        }
