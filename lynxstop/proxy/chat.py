"""POST /v1/chat/completions: watched, stopped, and answered as one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from lynxstop.core.session import Mode
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.connection import Connection, RefusedError
from lynxstop.proxy.exchange import Incoming, Reply
from lynxstop.proxy.gather import gather
from lynxstop.proxy.headers import for_client, for_relay, without
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.service import Services
from lynxstop.proxy.shadow import ShadowRecorder
from lynxstop.proxy.terms import KEY, Wish, read_wish
from lynxstop.proxy.untouched import why_untouched
from lynxstop.proxy.upstream import Upstream
from lynxstop.remote.chat import Asked, Chat
from lynxstop.remote.report import report

Json = dict[str, Any]

_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ChatHandler:
    """Answers chat requests.

    Parameters
    ----------
    config : ProxyConfig
    upstream : Upstream
    metrics : Metrics
    services : Services
    shadow : ShadowRecorder, optional
        Records requests in shadow mode.
    """

    def __init__(
        self,
        config: ProxyConfig,
        upstream: Upstream,
        metrics: Metrics,
        services: Services,
        shadow: ShadowRecorder | None = None,
    ) -> None:
        self._shadow = shadow
        self._config, self._upstream, self._metrics, self._services = config, upstream, metrics, services
        bundle = services.bundle
        self._default = None if bundle is None else bundle.policy.default_risk

    async def __call__(self, incoming: Incoming, reply: Reply) -> None:
        """Answer one request."""
        body = incoming.json()
        if not isinstance(body, dict):
            await self._pass(incoming, reply, incoming.body, "malformed")
            return
        wish = read_wish(incoming, body, self._config.policy, self._services.policy, self._default)
        ours = KEY in body
        body = {name: value for name, value in body.items() if name != KEY}
        plain = orjson.dumps(body) if ours else incoming.body
        server = Connection(self._upstream, incoming.headers, self._config.limits.event_bytes)
        service = await self._services.of(server, str(body.get("model")))
        if service.plugin:
            await self._pass(incoming, reply, self._for_plugin(body, wish, plain), "plugin")
            return
        cause = service.cause or ("off" if wish.risk is None else why_untouched(body))
        if cause is not None or service.terms is None or service.dialect is None:
            await self._pass(incoming, reply, plain, cause or "no_bundle")
            return
        chat = Chat(
            server,
            service.dialect,
            service.terms,
            Asked(body, wish.risk, wish.mode, wish.group),
            lambda done: self._report(done, wish),
        )
        try:
            await self._watch(incoming, reply, chat)
        except RefusedError as error:
            if reply.started:
                raise
            # The server may dislike what we asked for on our own account: its own answer to the client's
            # request settles it.
            await self._pass(incoming, reply, plain, f"refused_{error.status}")

    async def _pass(self, incoming: Incoming, reply: Reply, content: bytes, cause: str) -> None:
        """Pass the request on as it is."""
        self._metrics.passthrough.labels(cause).inc()
        incoming.notes["passthrough"] = cause
        headers = for_relay(incoming.headers)
        if content is not incoming.body:
            headers = [*without(headers, {b"content-length", b"content-encoding"}), _length(content)]
        async with self._upstream.stream(
            "POST", incoming.raw_path, headers, content, query=incoming.query
        ) as response:
            await reply.start(response.status, for_client(response.headers))
            async for chunk in response.chunks():
                await reply.send(chunk)
        await reply.end()

    def _for_plugin(self, body: Json, wish: Wish, plain: bytes) -> bytes:
        """Put into a request what the plugin in the server is to know, if anything was said."""
        own = self._config.policy
        if not (wish.named or own.risk is not None or own.mode != "stop" or own.reasoning_effort):
            return plain
        risk = "off" if wish.risk is None else wish.risk
        given = {"lynxstop_risk": risk, "lynxstop_mode": str(wish.mode)}
        if wish.group is not None:
            given["lynxstop_group"] = wish.group
        return orjson.dumps({**body, "vllm_xargs": {**(body.get("vllm_xargs") or {}), **given}})

    async def _watch(self, incoming: Incoming, reply: Reply, chat: Chat) -> None:
        try:
            async with aclosing(chat.events()) as events:
                if chat.asked.body.get("stream"):
                    await self._stream(reply, events)
                else:
                    await self._answer(reply, [event async for event in events])
        finally:
            self._count(incoming, chat)
        if self._shadow is not None and chat.asked.mode is Mode.SHADOW and chat.blind is None:
            self._shadow.take(chat)

    async def _stream(self, reply: Reply, events: AsyncGenerator[Json]) -> None:
        async for event in events:
            if not reply.started:
                await reply.start(200, _STREAM)
            await reply.send(b"data: " + orjson.dumps(event) + b"\n\n")
        if not reply.started:
            await reply.start(200, _STREAM)
        await reply.end(b"data: [DONE]\n\n")

    async def _answer(self, reply: Reply, events: list[Json]) -> None:
        answer = gather(events)
        content = orjson.dumps(answer)
        headers = [(b"content-type", b"application/json"), _length(content)]
        for name, value in (answer.get(KEY) or {}).items():
            if value is not None:
                headers.append((f"x-lynxstop-{name.replace('_', '-')}".encode(), str(value).encode()))
        await reply.start(200, headers)
        await reply.end(content)

    def _report(self, chat: Chat, wish: Wish) -> Json:
        level = self._services.level(wish.risk, wish.group)
        return report(
            chat.session,
            stopped=chat.stopped,
            saved_share=self._services.saved(level),
            certificate=None if level is None else level.certificate,
        )

    def _count(self, incoming: Incoming, chat: Chat) -> None:
        metrics, session = self._metrics, chat.session
        metrics.cues.inc(len(session.session.events))
        metrics.thinking_tokens.inc(sum(session.thinking) if chat.session.cut is None else 0)
        if chat.blind is not None:
            metrics.passthrough.labels(chat.blind).inc()
            incoming.notes["passthrough"] = chat.blind
        if (taken := session.session.exit) is not None and session.cut is not None:
            metrics.exits.labels(str(taken.reason)).inc()
            metrics.thinking_tokens.inc(session.cut.thinking_tokens)
            incoming.notes |= {"exit": str(taken.reason), "thinking_tokens": session.cut.thinking_tokens}
        if chat.stopped:
            metrics.continuations.labels("done" if chat.usage else "broken").inc()


def _length(content: bytes) -> tuple[bytes, bytes]:
    return b"content-length", str(len(content)).encode()
