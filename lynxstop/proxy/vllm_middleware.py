"""ASGI middleware of vLLM's own server, in its process: levels by reasoning effort, reports, audits.

The plugin decides inside the engine, and cannot see clients. `lynxstop serve` puts this middleware before
vLLM's routes for chats and completions. It names each request to the plugin (`lynxstop_report`), adds what
the plugin decided to the answer, in the form of the proxy, and audits a share of the requests. Whatever goes
wrong here, the request is answered as if it were not there.

vLLM puts it before its own check of API keys. So a body is read, and a request taken up, only when vLLM asks
for the body: what it refuses without that costs nothing here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import REGISTRY, CollectorRegistry

from lynxstop.engines.vllm.settings import OFF, parse_mode, parse_risk
from lynxstop.errors import LynxstopError, UpstreamError
from lynxstop.proxy.audit_metrics import AuditMetrics
from lynxstop.proxy.live_risk import Treatment
from lynxstop.proxy.monitoring import Monitoring
from lynxstop.proxy.request_options import ExitOptions
from lynxstop.proxy.untouched import causes, has_tools
from lynxstop.proxy.vllm_audited import COMPLETIONS, AuditedRequest, Json, Message, Send
from lynxstop.proxy.vllm_exchange import Exchange, MiddlewareSetup, sized, unsized

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("vllm.lynxstop")

VARIABLE = "LYNXSTOP_SERVE_MIDDLEWARE"
"""Names the file with the configuration that `lynxstop serve` has written."""

REPORTED = ("/v1/chat/completions", COMPLETIONS)
"""Routes whose answers get a report."""

ROUTES = (*REPORTED, "/v1/responses", "/v1/messages")
"""Routes whose requests get a level: where exits are withheld, they are withheld on all of them."""

LAST_SECONDS = 10.0
"""How long audits may go on once the server ends."""


class VllmMiddleware:
    """The middleware; vLLM makes it with its own application (`--middleware`).

    Parameters
    ----------
    app : callable
        vLLM's application.
    registry : CollectorRegistry
        For what audits count: the one that vLLM shows.
    """

    def __init__(self, app: App, registry: CollectorRegistry = REGISTRY) -> None:
        self._app = app
        self._setup = setup = MiddlewareSetup.load(Path(os.environ[VARIABLE]))
        bundle = setup.promise.bundle
        assert bundle is not None
        self._policy = bundle.policy
        self._monitoring = Monitoring.over(
            setup.config, AuditMetrics(registry), bundle, setup.promise.policy, inputs=False
        )
        self._failed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._ending(send))
            return
        path = str(scope.get("path", "")).removeprefix(str(scope.get("root_path", "")))
        if scope["type"] != "http" or scope["method"] != "POST" or path not in ROUTES:
            await self._app(scope, receive, send)
            return
        exchange: Exchange | None = None
        given: Receive | None = None
        sending = send

        async def receiving() -> Message:
            nonlocal exchange, given, sending
            if given is None:
                content, left = await _read(receive)
                try:
                    content, exchange = self._begin(scope, path, content)
                except Exception as error:
                    self._log(error)
                if exchange is not None:
                    sending = exchange.sending(send)
                given = _given(content, receive, left=left)
            return await given()

        async def sent(message: Message) -> None:
            await sending(message)

        try:
            # How long the body will be is not known yet.
            await self._app({**scope, "headers": unsized(scope["headers"])}, receiving, sent)
        finally:
            if exchange is not None:
                self._end(exchange)

    def _begin(self, scope: Scope, path: str, content: bytes) -> tuple[bytes, Exchange | None]:
        """Take up a request: what vLLM gets, and its exchange where it is to have a report."""
        try:
            body = json.loads(content)
        except ValueError:
            return content, None
        sound = isinstance(body, dict) and isinstance(body.get("stream_options"), dict | None)
        xargs = body.get("vllm_xargs") or {} if sound else None
        if not isinstance(xargs, dict) or (options := self._options(body, xargs)) is None:
            return content, None
        # A client's own name would leave reports that nobody takes.
        xargs = {name: value for name, value in xargs.items() if name != "lynxstop_report"}
        name = secrets.token_hex(16)
        live = self._monitoring.live
        treated = Treatment(options) if live is None else live.treat(name, str(body.get("model")), options)
        told: Json = {}
        if treated.options.risk != options.risk or "lynxstop_risk" not in xargs:
            told["lynxstop_risk"] = OFF if treated.options.risk is None else treated.options.risk
        if treated.options.mode is not options.mode:
            told["lynxstop_mode"] = str(treated.options.mode)
        if has_tools(body):
            told["lynxstop_tools"] = 1
        asked = {**body, "vllm_xargs": {**xargs, **told}}
        if not _one_answer(path, body):
            return json.dumps(asked).encode(), None
        asked["vllm_xargs"]["lynxstop_report"] = name
        case = None
        own = {"lynxstop_budget", "lynxstop_draw"} & xargs.keys()
        audits = self._monitoring.auditor is not None and treated.options.risk is not None and not own
        # A form, a call or an image cannot be continued from its tokens alone.
        if audits and path != COMPLETIONS and not any(causes(body)):
            case = AuditedRequest(
                lambda route, asked: self._ask(scope, route, asked),
                body,
                path,
                self._policy,
                treated.options.mode,
            )
        exchange = Exchange(self._setup, asked, body, name, treated, case)
        if case is not None and self._monitoring.auditor is not None and live is not None:
            key = live.key(str(body.get("model")), treated.options)
            exchange.draw = self._monitoring.auditor.enter(treated.arm, key)
        return exchange.content, exchange

    def _options(self, body: Json, xargs: Json) -> ExitOptions | None:
        """Return what a request asks for; None where vLLM will refuse it."""
        policy = self._setup.config.policy
        asked = xargs.get("lynxstop_risk", policy.level_of_effort({"reasoning_effort": _effort(body)}))
        if asked is None:
            asked = policy.risk if policy.risk is not None else self._policy.default_risk
        mode, group = xargs.get("lynxstop_mode", policy.mode), xargs.get("lynxstop_group")
        try:
            risk = parse_risk(OFF if asked is None else asked)
            if isinstance(risk, float):
                self._policy.stop_policy().level(risk, group)
            level = risk if isinstance(risk, float) else None
            served = self._setup.promise.served(body)
            return ExitOptions(level, parse_mode(mode), group=group, served=served)
        except (LynxstopError, TypeError):  # a group may be of any type
            return None

    def _end(self, exchange: Exchange) -> None:
        """Let a request that has ended be audited, if it was drawn for that."""
        try:
            case = exchange.closed()
            auditor, draw = self._monitoring.auditor, exchange.draw
            if case is None or auditor is None or draw is None:
                return
            if case.told.get("departures"):
                auditor.leave(draw)
            else:
                auditor.take(case, draw, time.monotonic() - exchange.arrived)
        except Exception as error:
            self._log(error)

    async def _ask(self, scope: Scope, route: str, body: Json) -> Json:
        """Ask the server itself, off every client's way."""
        content = orjson.dumps(body)
        root = str(scope.get("root_path", ""))
        inner = {
            **scope,
            "path": root + route,
            "raw_path": (root + route).encode(),
            "query_string": b"",
            "headers": sized(scope["headers"], len(content)),
            "state": dict(scope.get("state") or {}),
        }
        status = 500
        parts: list[bytes] = []

        async def gather(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            parts.append(message.get("body", b""))

        async def forever() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        await self._app(inner, _given(content, forever, left=False), gather)
        if status != 200:
            raise UpstreamError(f"The server answers {status}.", code="audit_refused")
        found: Json = orjson.loads(b"".join(parts))
        return found

    def _ending(self, send: Send) -> Send:
        """Finish the audits before the server ends; those that take longer are lost, and count so."""

        async def sending(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown") and self._monitoring.live is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_SECONDS):
                        await self._monitoring.live.drain()
            await send(message)

        return sending

    def _log(self, error: Exception) -> None:
        """Log the first error; the requests are answered all the same."""
        if not self._failed:
            self._failed = True
            kind = type(error).__name__
            logger.error("lynxstop's middleware failed (logged once), requests go on: %s.", kind)


def _one_answer(path: str, body: Json) -> bool:
    """Whether a request has one answer, on a route where it gets a report."""
    if path not in REPORTED or body.get("n") not in (None, 1) or body.get("use_beam_search"):
        return False
    return path != COMPLETIONS or isinstance(body.get("prompt"), str) or _ids(body.get("prompt"))


def _effort(body: Json) -> Any:
    """Return the reasoning effort of a request, in the form of any route."""
    parts = [body.get(name) for name in ("reasoning", "output_config")]
    nested = [part.get("effort") for part in parts if isinstance(part, dict)]
    return next((one for one in (body.get("reasoning_effort"), *nested) if one is not None), None)


def _ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, int) for one in value)


async def _read(receive: Receive) -> tuple[bytes, bool]:
    """Read a request's body; say whether the client left before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts), True
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts), False


def _given(content: bytes, receive: Receive, *, left: bool) -> Receive:
    """Give a body that has been read, then what the client does."""
    sent = False

    async def given() -> Message:
        nonlocal sent
        if left:
            return {"type": "http.disconnect"}
        if not sent:
            sent = True
            return {"type": "http.request", "body": content, "more_body": False}
        return await receive()

    return given
