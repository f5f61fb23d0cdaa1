"""The proxy as an ASGI app: routes, limits, and cancelling a request when its client disconnects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace

from lynxstop.errors import LynxstopError, RequestError, UpstreamError
from lynxstop.proxy import failures, logs, ops
from lynxstop.proxy.backends import MODELS, Backend, Backends
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.exchange import Handler, Incoming, Message, Receive, Reply, Send
from lynxstop.proxy.gate import Gate, require_key, require_path
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.otel import Tracing
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
"""Paths that are named in logs and metrics; all others are `OTHER`, since a path may hold anything."""

OTHER = "other"

_SHORT = {"/chat/completions": "/v1/chat/completions"}
"""Other names that servers give to a route: llama.cpp and LiteLLM this one."""

_INTERNAL = LynxstopError("The proxy failed on this request.", hint="Its log says why.")
_INTERNAL.status_code = 500
_SHUTDOWN = RequestError(
    "The proxy is shutting down.", status=503, kind="overloaded_error", code="shutdown", retry_after=1
)


OPERATORS = "/lynxstop/"
"""Paths that begin with this are the proxy's own."""

_FOR_OPERATORS = (OPERATORS.rstrip("/"), "/metrics")
"""Further paths that an admin port has alone; the probes are on both."""

_PROBES = ("/health", "/ready")

_NOT_HERE = RequestError(
    "This port has no such path.",
    status=404,
    code="not_found",
    hint="Paths of operators are on the admin port, and those of clients on the other.",
)

Startup = Callable[["App"], Awaitable[None]]
"""Runs before the first request; what it raises ends the server."""

Draining = Callable[[], Awaitable[None]]
"""Finishes background work."""


def usual_path(path: str) -> str:
    """Return the name by which the proxy knows a path; a slash at its end changes nothing."""
    found = path.rstrip("/")
    found = _SHORT.get(found, found)
    return found if found in ROUTES else path


class App:
    """An ASGI app; see `create_app`.

    Attributes
    ----------
    handlers : dict
        Handlers by (method, path) of the first backend; `startup` may add some.
    backends : Backends
    """

    def __init__(
        self,
        config: ProxyConfig,
        backends: Sequence[Backend],
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
        self.metrics = metrics
        for route in (*ROUTES, OTHER):
            metrics.requests.labels(route, "failed")  # from the start, so that alerts see the first
        self.handlers = dict(backends[0].handlers)
        self.backends = Backends([replace(backends[0], handlers=self.handlers), *backends[1:]])
        self._startup = startup
        self._tracing = tracing
        self._checks = dict(checks)
        any_of = self.backends.several
        self._own = {**ops.routes(metrics, self._checks, notices, facts, any_of=any_of), **own}
        self._gate = Gate(config.limits)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the server's life cycle."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await lifespan(receive, send, self.begin, self._ended)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003})

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        incoming = Incoming(scope, receive)
        incoming.path = usual_path(incoming.path)
        reply = Reply(send, incoming.path)
        # HEAD is GET of which the server sends no body.
        own = self._own.get(("GET" if incoming.method == "HEAD" else incoming.method, incoming.path))
        if own is None and incoming.path.startswith(OPERATORS):
            own = self._own.get((incoming.method, OPERATORS))
        if (admin := self.config.admin.port) is not None and incoming.path not in _PROBES:
            at_admin = (scope.get("server") or ("", 0))[1] == admin
            if at_admin is not (incoming.path in _FOR_OPERATORS or incoming.path.startswith(OPERATORS)):
                await failures.answer(reply, _NOT_HERE)
                return
        if own is not None:
            await own(incoming, reply)
            return
        route = incoming.path if incoming.path in ROUTES else OTHER
        with self._tracing.span(incoming, reply, route) if self._tracing else nullcontext():
            await self._run(incoming, reply, route)

    async def _run(self, incoming: Incoming, reply: Reply, route: str) -> None:
        # The handler and the task that listens to the client run concurrently, so that the handler can be
        # cancelled at any point: before the first chunk, between two, and in a request that is not streamed.
        # The listener begins: most bodies have arrived by then.
        client = asyncio.create_task(incoming.listen())
        work = asyncio.create_task(self._serve(incoming, reply))
        outcome = "failed"
        self.metrics.active.inc()
        try:
            await asyncio.wait((work, client), return_when=asyncio.FIRST_COMPLETED)
            outcome = work.result() if work.done() else "client_gone"
        except asyncio.CancelledError:
            # The server drains no longer. This is the outermost task of the request: nothing waits for it.
            outcome = "cut_by_shutdown"
        finally:
            client.cancel()
            if client.done() or not work.done():
                work.cancel()
                await asyncio.gather(work, client, return_exceptions=True)
            # Else the listener alone is left, and ends by itself.
            if outcome == "cut_by_shutdown":
                await failures.answer(reply, _SHUTDOWN)
            incoming.notes["outcome"] = outcome
            self.metrics.active.dec()
            self._count(incoming, reply, route, outcome)

    async def _serve(self, incoming: Incoming, reply: Reply) -> str:
        """Answer a request; return how it ended."""
        try:
            require_path(incoming)
            require_key(incoming, self.config.serve.api_keys)
            async with self._gate.enter():
                if self.backends.several and (incoming.method, incoming.path) == ("GET", MODELS):
                    await self.backends.models(incoming, reply)
                    return "completed"
                backend = await self.backends.of(incoming, self._read)
                special = backend.handlers.get((incoming.method, incoming.path))
                if special is not None:
                    await self._read(incoming)
                await (special or backend.relay)(incoming, reply)
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
        if incoming.arrived_whole:
            await incoming.read(limits.body_bytes)
            return
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

    async def begin(self) -> None:
        """Run what comes before the first request.

        Raises
        ------
        LynxstopError
            When the proxy cannot serve.
        """
        if self._startup is not None:
            await self._startup(self)

    async def checked(self) -> dict[str, str]:
        """Return what /ready says of each check."""
        return await ops.checked(self._checks)

    async def settle(self) -> None:
        """Finish background work."""
        if self._draining is not None:
            await self._draining()

    async def end(self) -> None:
        """Finish background work as long as requests may take to end, and close all connections."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.settle(), self.config.serve.drain_seconds)
        await asyncio.gather(*(backend.upstream.aclose() for backend in self.backends.all))
        if self._tracing is not None:
            self._tracing.close()

    async def _ended(self) -> None:
        await self.end()
        self.metrics.close()


async def lifespan(
    receive: Receive, send: Send, begin: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]
) -> None:
    """Answer the messages of a server that begins and ends."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await begin()
            except LynxstopError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await end()
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
    backends: Sequence[Backend] | None = None,
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
    backends : sequence of Backend, optional
        In place of `handlers` and `upstream`; `checks` has all checks then, of several servers one for each.

    Returns
    -------
    App
        An ASGI app for any ASGI server.
    """
    metrics = metrics or Metrics()
    checks = checks or {}
    if backends is None:
        upstream = upstream or Upstream(config.upstream, hide_keys=bool(config.serve.api_keys))
        backends = [Backend(upstream, handlers or {})]
        checks = {"upstream": ops.reachable(upstream), **checks}
    if tracing is None and config.serve.otel:
        dialect = config.upstream.dialect
        tracing = Tracing(system="openai" if dialect == "auto" else dialect)
    for backend in backends:
        backend.upstream.on_abort = lambda cause: metrics.upstream_aborts.labels(cause).inc()
    found = checks, startup, tracing, draining, notices or {}, own or {}, facts
    return App(config, backends, metrics, *found)
