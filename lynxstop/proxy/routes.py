"""The requests that the proxy handles itself; all others are relayed."""

from __future__ import annotations

from lynxstop.proxy.chat import ChatHandler
from lynxstop.proxy.chat_routes import ChatRoutes
from lynxstop.proxy.completions import CompletionsHandler
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.exchange import Handler
from lynxstop.proxy.messages import MessagesHandler
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.responses import ResponsesHandler
from lynxstop.proxy.running import Running
from lynxstop.proxy.service import Services
from lynxstop.proxy.shadow import ShadowRecorder
from lynxstop.remote.http.upstream import Upstream

HANDLERS = (ChatHandler, CompletionsHandler, MessagesHandler, ResponsesHandler)


def routes(
    config: ProxyConfig,
    upstream: Upstream,
    metrics: Metrics,
    services: Services,
    shadow: ShadowRecorder | None = None,
    running: Running | None = None,
    by_chat: ChatRoutes | None = None,
) -> dict[tuple[str, str], Handler]:
    """Make the handlers, by method and path."""
    given = (config, upstream, metrics, services, shadow, running, by_chat)
    return {("POST", kind.route): kind(*given) for kind in HANDLERS}
