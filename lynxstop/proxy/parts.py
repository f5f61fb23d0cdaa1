"""One backend with all that belongs to it: bundle, handlers, audits, and the watch on its server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.served import served_as
from lynxstop.errors import ConfigError
from lynxstop.extras import need
from lynxstop.proxy.backends import DEFAULT, Backend
from lynxstop.proxy.background import Background
from lynxstop.proxy.chat_routes import ChatRoutes
from lynxstop.proxy.config import BackendConfig, ProxyConfig
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.monitoring import Monitoring, grader_of
from lynxstop.proxy.request_options import check_levels
from lynxstop.proxy.routes import routes
from lynxstop.proxy.running import Running
from lynxstop.proxy.service import Services
from lynxstop.proxy.shadow import ShadowRecorder
from lynxstop.remote.http.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Part:
    """What serves the models of one backend.

    Parameters
    ----------
    backend : Backend
    config : ProxyConfig
        As it holds for these models.
    services : Services
    by_chat : ChatRoutes
    beside : Background
    monitoring : Monitoring
    """

    backend: Backend
    config: ProxyConfig
    services: Services
    by_chat: ChatRoutes
    beside: Background
    monitoring: Monitoring

    async def settle(self) -> None:
        """Finish the work beside the requests."""
        await self.beside.end()
        if self.monitoring.live is not None:
            await self.monitoring.live.drain()


def parts_of(config: ProxyConfig, metrics: Metrics, running: Running) -> Sequence[Part]:
    """Make the parts of a configuration: one, or one for each backend.

    Raises
    ------
    LynxstopError
        When a bundle cannot be loaded, or a level of the configuration is not certified.
    """
    several = bool(config.backend)
    return [_part(given, own, metrics, running, several=several) for given, own in config.parts()]


def _part(
    given: BackendConfig | None, config: ProxyConfig, metrics: Metrics, running: Running, *, several: bool
) -> Part:
    name = DEFAULT if given is None else given.name
    upstream = Upstream(config.upstream, hide_keys=bool(config.serve.api_keys))
    bundle = None if config.policy.bundle is None else Bundle.load(config.policy.bundle)
    services = Services(
        bundle,
        config.upstream.dialect,
        timedelta(days=config.policy.grace_days),
        config.upstream.model,
        () if given is None else given.models,
    )
    # A level that backends take over may be one of another's bundle.
    check_levels(config.policy, services.policy)
    shadow = _shadow(config, bundle, metrics)
    beside = Background(config, services, upstream, metrics, shadow, name if several else None)
    monitoring, by_chat = Monitoring.of(config, metrics, services), ChatRoutes()
    live, auditor = monitoring.live, monitoring.auditor
    handlers = routes(
        config, upstream, metrics, services, shadow, running, by_chat, live=live, auditor=auditor
    )
    backend = Backend(upstream, handlers, name, None if given is None else given.takes)
    return Part(backend, config, services, by_chat, beside, monitoring)


def _shadow(config: ProxyConfig, bundle: Bundle | None, metrics: Metrics) -> ShadowRecorder | None:
    if config.record.folder is None:
        return None
    if bundle is None:
        raise ConfigError("Recording needs a bundle.", hint="Give --bundle, or leave --record out.")
    need("sympy", "calibrate")
    try:
        return ShadowRecorder(
            config.record.folder,
            redact=config.record.redact,
            answer_tokens=bundle.policy.sampling.answer_tokens,
            on_done=lambda outcome: metrics.recorded.labels(outcome).inc(),
            served=served_as(bundle.policy),
            grader=grader_of(config.monitor.grader, bundle.policy.grader),
        )
    except OSError as error:
        raise ConfigError(
            f"The folder {config.record.folder} cannot be written to: {error.strerror}.",
            hint="Choose another with --record, or change its permissions.",
        ) from None
