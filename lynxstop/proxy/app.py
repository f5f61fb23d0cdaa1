"""The proxy as an ASGI app: routes, limits, and cancelling a request when its client disconnects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext, suppress

from lynxstop.errors import LynxstopError, RequestError, UpstreamError
from lynxstop.proxy import failures, logs, ops
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.exchange import Handler, Incoming, Message, Receive, Reply, Send
from lynxstop.proxy.gate import Gate, require_key
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.otel import Tracing
from lynxstop.proxy.relay import relay
from lynxstop.remote.http.upstream import Upstream

ROUTES = frozenset(
    {
        "/tokenize",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/models",
        "/v1/responses",
    }
)
"""Paths that are named in logs and metrics; all others are "other", since a path may hold anything."""

_INTERNAL = LynxstopError("The proxy failed on this request.", hint="Its log says why.")
_INTERNAL.status_code = 500
_SHUTDOWN = RequestError(
    "The proxy is shutting down.", status=503, kind="overloaded_error", code="shutdown", retry_after=1
)


OPERATORS = "/lynxstop/"
"""Paths that begin with this are the proxy's own."""

Startup = Callable[["App"], Awaitable[None]]
"""Runs before the first request; what it raises ends the server."""

Draining = Callable[[], Awaitable[None]]
"""Finishes background work."""


class App:
    """An ASGI app; see `create_app`.

    Attributes
    ----------
    handlers : dict
        Handlers by (method, path); `startup` may add some.
    """

    def __init__(
        self,
        config: ProxyConfig,
        handlers: Mapping[tuple[str, str], Handler],
        upstream: Upstream,
        metrics: Metrics,
        checks: Mapping[str, ops.Check],
        startup: Startup | None,
        tracing: Tracing | None,
        draining: Draining | None,
        notices: Mapping[str, ops.Check],
        own: Mapping[tuple[str, str], Handler],
        facts: ops.Facts | None = None,
    ) -> None:
        self._draining = draining
        self.config = config
        self.upstream = upstream
        self.metrics = metrics
        self.handlers = dict(handlers)
        self._startup = startup
        self._tracing = tracing
        checked = {"upstream": ops.reachable(upstream), **checks}
        self._own = {**ops.routes(metrics, checked, facts, notices), **own}
        self._relay = relay(upstream)
        self._gate = Gate(config.limits)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the server's life cycle."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003})

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        incoming, reply = Incoming(scope, receive), Reply(send, scope["path"])
        own = self._own.get((incoming.method, incoming.path))
        if own is None and incoming.path.startswith(OPERATORS):
            own = self._own.get((incoming.method, OPERATORS))
        if own is not None:
            await own(incoming, reply)
            return
        route = incoming.path if incoming.path in ROUTES else "other"
        with self._tracing.span(incoming, reply, route) if self._tracing else nullcontext():
            await self._run(incoming, reply, route)

    async def _run(self, incoming: Incoming, reply: Reply, route: str) -> None:
        # The handler and the task that listens to the client run concurrently, so that the handler can be
        # cancelled at any point: before the first chunk, between two, and in a request that is not streamed.
        work = asyncio.create_task(self._serve(incoming, reply))
        client = asyncio.create_task(incoming.listen())
        outcome = "failed"
        self.metrics.active.inc()
        try:
            await asyncio.wait((work, client), return_when=asyncio.FIRST_COMPLETED)
            outcome = work.result() if work.done() else "client_gone"
        except asyncio.CancelledError:
            # The server drains no longer. This is the outermost task of the request: nothing waits for it.
            outcome = "cut_by_shutdown"
        finally:
            work.cancel()
            client.cancel()
            await asyncio.gather(work, client, return_exceptions=True)
            if outcome == "cut_by_shutdown":
                await failures.answer(reply, _SHUTDOWN)
            incoming.notes["outcome"] = outcome
            self.metrics.active.dec()
            self._count(incoming, reply, route, outcome)

    async def _serve(self, incoming: Incoming, reply: Reply) -> str:
        """Answer a request; return how it ended."""
        try:
            require_key(incoming, self.config.serve.api_keys)
            async with self._gate.enter():
                special = self.handlers.get((incoming.method, incoming.path))
                if special is not None:
                    await self._read(incoming)
                await (special or self._relay)(incoming, reply)
            return "completed"
        except RequestError as error:
            code = error.code or str(error.status_code)
            self.metrics.refused.labels(code).inc()
            incoming.notes["code"] = code
            await failures.answer(reply, error)
            return "refused"
        except UpstreamError as error:
            self.metrics.upstream_errors.labels(error.code).inc()
            incoming.notes |= logs.noted(error)
            await failures.answer(reply, error)
            return "upstream_error"
        except LynxstopError as error:
            await failures.answer(reply, error)
            return "failed"
        except Exception:
            logs.logger.exception("failed", extra={"fields": {"id": incoming.id}})
            await failures.answer(reply, _INTERNAL)
            return "failed"

    async def _read(self, incoming: Incoming) -> None:
        limits = self.config.limits
        try:
            async with asyncio.timeout(limits.body_seconds):
                await incoming.read(limits.body_bytes)
        except TimeoutError:
            raise RequestError("The request's body did not arrive in time.", status=408) from None

    def _count(self, incoming: Incoming, reply: Reply, route: str, outcome: str) -> None:
        self.metrics.requests.labels(route, outcome).inc()
        self.metrics.request_seconds.labels(route).observe(time.monotonic() - incoming.arrived)
        if reply.first_at is not None:
            self.metrics.first_chunk_seconds.labels(route, str(reply.streams).lower()).observe(
                reply.first_at - incoming.arrived
            )
        logs.log_request(incoming, reply, route)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    if self._startup is not None:
                        await self._startup(self)
                except LynxstopError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self._draining is not None:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._draining(), self.config.serve.drain_seconds)
                await self.upstream.aclose()
                if self._tracing is not None:
                    self._tracing.close()
                self.metrics.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def create_app(
    config: ProxyConfig,
    handlers: Mapping[tuple[str, str], Handler] | None = None,
    *,
    upstream: Upstream | None = None,
    metrics: Metrics | None = None,
    checks: Mapping[str, ops.Check] | None = None,
    startup: Startup | None = None,
    tracing: Tracing | None = None,
    draining: Draining | None = None,
    notices: Mapping[str, ops.Check] | None = None,
    own: Mapping[tuple[str, str], Handler] | None = None,
    facts: ops.Facts | None = None,
) -> App:
    """Make the proxy.

    Parameters
    ----------
    config : ProxyConfig
        Read by `lynxstop.proxy.sources.load`.
    handlers : mapping from (method, path) to handler, optional
        What answers these requests, their bodies read; all others are relayed.
    upstream : Upstream, optional
        The server; by default made from the configuration.
    metrics : Metrics, optional
        Where to count; by default new ones.
    checks : mapping from name to check, optional
        Conditions of /ready, in addition to the server answering.
    startup : coroutine function, optional
        Runs before the first request, as to ask the server what it is; it may add to `App.handlers`.
    tracing : Tracing, optional
        Makes spans; by default what the configuration says.
    draining : coroutine function, optional
        Finishes background work before the server ends; it may take `serve.drain_seconds`.
    notices : mapping from name to check, optional
        What /ready tells operators too; requests are answered all the same.
    own : mapping from (method, path) to handler, optional
        Further paths of the proxy's own, as of `lynxstop.proxy.operators`; not limited, and not counted.
    facts : callable, optional
        What /ready says beside its checks.

    Returns
    -------
    App
        An ASGI app for any ASGI server.
    """
    metrics = metrics or Metrics()
    if upstream is None:
        upstream = Upstream(config.upstream, hide_keys=bool(config.serve.api_keys))
    if tracing is None and config.serve.otel:
        dialect = config.upstream.dialect
        tracing = Tracing(system="openai" if dialect == "auto" else dialect)
    upstream.on_abort = lambda cause: metrics.upstream_aborts.labels(cause).inc()
    found = checks or {}, startup, tracing, draining, notices or {}, own or {}, facts
    return App(config, handlers or {}, upstream, metrics, *found)
