"""A proxy that watches: the real handler, with a configuration written by hand instead of a bundle's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lynxstop.artifacts.certified import Certified
from lynxstop.core.cues import CueSet
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.stream import StreamWatch
from lynxstop.core.thinking import Delimiters
from lynxstop.proxy.app import create_app
from lynxstop.proxy.chat_routes import ChatRoutes
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.examination import Service
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.monitoring import Monitoring
from lynxstop.proxy.operators import Operators
from lynxstop.proxy.routes import routes
from lynxstop.proxy.running import Running
from lynxstop.proxy.service import Services
from lynxstop.proxy.shadow import ShadowRecorder
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.http.upstream import Upstream
from lynxstop.remote.stream_config import StreamConfig
from lynxstop.rules.served import serve
from lynxstop.rules.table import rule_named
from tests.support.servers import Proxied, proxied

EXIT = "\n</think>\n\nThe answer is \\boxed{"
CUES = CueSet(("wait", "hmm", "alternatively"))
THINK = Delimiters(("<think>",), ("</think>",))


class Fixed(Services):
    """The same service for every model."""

    def __init__(
        self,
        threshold: float,
        *,
        dialect: Dialect | None = None,
        before: bool = True,
        rule: str = "thinkbrake",
        cause: str | None = None,
        certified: Certified | None = None,
        levels: tuple[Level, ...] = (),
        opened: bool = False,
        opened_by: tuple[int, ...] = (),
        **policy: Any,
    ) -> None:
        super().__init__(None)
        self.certified = certified
        levels = levels or (Level(0.05, threshold), Level(0.1, -math.inf))
        self.policy = StopPolicy((0,), levels, rule=serve(rule_named(rule)), **policy)
        stream_config = StreamConfig(
            StreamWatch(CUES, THINK),
            self.policy,
            EXIT,
            THINK.close,
            before,
            opened=opened,
            opened_by=opened_by,
        )
        self.service = Service(dialect or Vllm(), stream_config, cause)

    def examined(self) -> dict[str, Service]:
        """Return it for the mock server's model."""
        return {"toy": self.service}

    async def of(self, server: Any, model: str) -> Service:
        """Return it, with the exit's tokens as the server has them."""
        stream_config, dialect = self.service.stream_config, self.service.dialect
        assert stream_config is not None
        assert dialect is not None
        if not stream_config.exit_ids:
            exit_ids = await dialect.tokenize(server, model, EXIT)
            self.service = replace(self.service, stream_config=replace(stream_config, exit_ids=exit_ids))
        return self.service


@contextmanager
def watching(
    address: str,
    threshold: float = -math.inf,
    *,
    sections: dict[str, Any] | None = None,
    record: tuple[Path, dict[str, Any]] | None = None,
    **options: Any,
) -> Iterator[Proxied]:
    """Serve a watching proxy in front of an address."""
    given = {"policy": {"risk": 0.05}, **(sections or {})}
    config = ProxyConfig.model_validate({**given, "upstream": {"url": address, **given.get("upstream", {})}})
    metrics, upstream = Metrics(), Upstream(config.upstream)
    shadow = None if record is None else ShadowRecorder(record[0], **record[1])
    services, running, by_chat = Fixed(threshold, **options), Running(), ChatRoutes()
    monitoring = Monitoring.of(config, metrics, services)
    live, auditor = monitoring.live, monitoring.auditor
    handlers = routes(
        config, upstream, metrics, services, shadow, running, by_chat, live=live, auditor=auditor
    )
    part = SimpleNamespace(services=services, by_chat=by_chat, backend=SimpleNamespace(name="default"))
    app = create_app(
        config,
        handlers,
        upstream=upstream,
        metrics=metrics,
        draining=None if live is None else live.drain,
        notices={"monitor": monitoring.notice},
        own=Operators(config, metrics, [part], running).routes,
    )
    with proxied(address, app) as made:
        yield made
