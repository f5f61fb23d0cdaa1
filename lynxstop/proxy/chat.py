"""POST /v1/chat/completions: watched, stopped, and answered as one."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from lynxstop.core.conditions import Uncertified
from lynxstop.core.exits import Mode
from lynxstop.errors import UpstreamError
from lynxstop.monitor.arms import Arm
from lynxstop.proxy.accounting import TAIL, count_chat, counted, note_all
from lynxstop.proxy.answers import Answers, length_of
from lynxstop.proxy.arrival_order import Turn
from lynxstop.proxy.audit import AuditDraw, Auditor
from lynxstop.proxy.chat_request import ChatRequest
from lynxstop.proxy.chat_routes import UNCERTIFIED, ChatRoutes, need_of
from lynxstop.proxy.choices import Choices, splits
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.examination import Service
from lynxstop.proxy.exchange import Incoming, Reply
from lynxstop.proxy.full_answer import Heard
from lynxstop.proxy.live_risk import LiveRisk, Treatment
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.race import Race, check
from lynxstop.proxy.request_options import KEY, ExitOptions, for_plugin, read_options
from lynxstop.proxy.running import Running
from lynxstop.proxy.sample import Sample
from lynxstop.proxy.service import Services
from lynxstop.proxy.shadow import ShadowRecord, ShadowRecorder
from lynxstop.proxy.untouched import BY_CHAT_ROUTE, has_tools, why_untouched
from lynxstop.remote.chat import Chat
from lynxstop.remote.client_request import ClientRequest
from lynxstop.remote.dialects.base import CHAT
from lynxstop.remote.http.connection import Connection, RefusedError
from lynxstop.remote.http.encoded import encoded
from lynxstop.remote.http.headers import for_client, for_relay, without
from lynxstop.remote.http.upstream import Upstream
from lynxstop.remote.report import report

Json = dict[str, Any]

_MAY_BE_OURS = frozenset({200, 400, 404, 405, 406, 413, 415, 422, 500, 501})
"""Statuses of a server that may be caused by what we have added to a request; 200 is another form."""

_OFF = Service(cause="off")

_NAME = 200
"""Longest name of a model in the log."""


class ChatHandler(Answers):
    """Answers chat requests; the base of the handlers of other routes.

    Parameters
    ----------
    config : ProxyConfig
    upstream : Upstream
    metrics : Metrics
    services : Services
    shadow : ShadowRecorder, optional
        Records requests in shadow mode.
    running : Running, optional
        Lists the requests that are watched.
    by_chat : ChatRoutes, optional
        Finds out how requests with tools, forms and media are answered.
    live : LiveRisk, optional
        Says whether a request may be stopped.
    auditor : Auditor, optional
        Audits those drawn for it.
    """

    route = path = CHAT

    def __init__(
        self,
        config: ProxyConfig,
        upstream: Upstream,
        metrics: Metrics,
        services: Services,
        shadow: ShadowRecorder | None = None,
        running: Running | None = None,
        by_chat: ChatRoutes | None = None,
        *,
        live: LiveRisk | None = None,
        auditor: Auditor | None = None,
    ) -> None:
        self._live, self._auditor = live, auditor
        self._shadow = shadow
        self._by_chat = by_chat or ChatRoutes()
        self._running = running or Running()
        super().__init__(services)
        self._config, self._upstream, self._metrics = config, upstream, metrics
        bundle = services.bundle
        self._default = None if bundle is None else bundle.policy.default_risk

    async def __call__(self, incoming: Incoming, reply: Reply) -> None:
        """Answer one request."""
        if not incoming.readable:
            await self._pass(incoming, reply, incoming.body, "coding")
            return
        body = incoming.object()
        if body is None:
            await self._pass(incoming, reply, incoming.body, "malformed")
            return
        incoming.notes["model"] = model = str(body.get("model"))[:_NAME]
        options = read_options(
            incoming, self._effort(body), self._config.policy, self._services.policy, self._default
        )
        options = replace(options, served=self._services.served(body))
        content = incoming.body
        if KEY in body:
            body = {name: value for name, value in body.items() if name != KEY}
            content = encoded(body)
        check(body, options.race)
        limits = self._config.limits
        server = Connection(self._upstream, self._headers(incoming), limits.event_bytes, incoming.query)
        if body.get("model") is None and self._services.decides:
            only = await self._services.only_model(server)
            body, model = (body, model) if only is None else ({**body, "model": only}, only)
        service = await self._service(server, model, options)
        treated = Treatment(options) if self._live is None else self._live.treat(incoming.id, model, options)
        options = treated.options
        xargs = for_plugin(self._config.policy, options, tools=has_tools(body)) if service.plugin else {}
        own = body.get("vllm_xargs") or {}
        if xargs and isinstance(own, dict):  # what is none, the server refuses
            body = {**body, "vllm_xargs": {**own, **xargs}}
            content = encoded(body)
        request = ChatRequest(incoming, reply, server, body, content, options, service, arm=treated.arm)
        cause = await self._why_not(request, treated)
        if cause is None:
            request, cause = self._compare(request)
        try:
            if cause is None:
                await self._watch(request)
            else:
                await self._leave(request, cause)
        except UpstreamError as error:
            self._services.lost(error)
            if reply.started:
                raise
            await self._failed(request, error)

    async def _why_not(self, request: ChatRequest, treated: Treatment) -> str | None:
        """Return why a request is passed on as it is; None when it is watched."""
        if (cause := request.service.cause or treated.withheld) is not None:
            return cause
        return "off" if request.options.risk is None else await self._untouched(request)

    async def _service(self, server: Connection, model: str, options: ExitOptions) -> Service:
        """Return how a model is served; a request that nothing may stop waits for no examination."""
        if options.risk is None and self._services.decides:
            return self._services.known(model) or _OFF
        return await self._services.of(server, model)

    # What differs between routes.

    def _effort(self, body: Json) -> Mapping[str, Any]:
        """Return a body that names its reasoning effort as chats do."""
        return body

    def _headers(self, incoming: Incoming) -> Sequence[tuple[bytes, bytes]]:
        """Return the headers of requests on the client's behalf."""
        return incoming.headers

    async def _untouched(self, request: ChatRequest) -> str | None:
        """Return why a request cannot be watched."""
        if request.service.stream_config is None:
            return "no_bundle"
        return await self._why_untouched(request, self._alone(request))

    def _alone(self, request: ChatRequest) -> Json:
        """Return the body that each choice of a request is watched by."""
        body = self._services.with_certified_sampling(request.body)
        request.known["choices"] = splits(body, request.service.dialect)
        return dict(request.samples()[0])

    async def _why_untouched(self, request: ChatRequest, body: Json) -> str | None:
        """Return why a chat cannot be watched, which says what a request says."""
        service = request.service
        config = service.stream_config
        assert config is not None
        cause = why_untouched(body, config.exit_text, config.exit_ids)
        if cause not in BY_CHAT_ROUTE:
            return cause
        need = need_of(body)
        others = why_untouched(body, config.exit_text, config.exit_ids, apart_from=need)
        if not need or others is not None or self._thinks(request.options, need & UNCERTIFIED):
            return others or cause
        found = await self._by_chat.of(request.server, service, str(request.body.get("model")), need)
        departures = tuple(sorted(need & UNCERTIFIED))
        request.known.update(service=found, departures=departures, need=need)
        return cause if found is None else None

    def _thinks(self, options: ExitOptions, departures: Collection[str]) -> bool:
        """Whether a request that departs from what is certified is left to think to its end."""
        if not departures or self._services.certified is None or options.mode is not Mode.STOP:
            return False
        return self._config.policy.uncertified is Uncertified.THINK

    async def _leave(self, request: ChatRequest, cause: str) -> None:
        """Answer a request that is not watched."""
        if request.options.race > 1 and cause != "malformed":
            self._note(request.incoming, cause)
            sent = request.samples()
            race = Race([Sample(request.server, ClientRequest(body, None), self.path) for body in sent])
            await self._answer(request, race)
        else:
            await self._pass(request.incoming, request.reply, request.content, cause)

    async def _failed(self, request: ChatRequest, error: UpstreamError) -> None:
        """Answer a request of which nothing has gone out, after a failure of the server.

        An exit is ours: where no continuation came, the client gets the full answer.
        """
        if request.known.get("exited"):
            await self._leave(request, "continuation_failed")
        elif not isinstance(error, RefusedError):
            raise error
        elif error.status in _MAY_BE_OURS:
            await self._refused(request, error)
        else:
            await self._tell(request, error)

    async def _refused(self, request: ChatRequest, error: RefusedError) -> None:
        """Answer a request that the server has refused in the form that we gave it.

        What we added may be the cause, so the client's own request is forwarded.
        """
        await self._pass(request.incoming, request.reply, request.content, f"refused_{error.status}")

    async def _tell(self, request: ChatRequest, error: RefusedError) -> None:
        """Answer with the refusal of the server, as it is."""
        await request.reply.start(error.status, for_client(error.headers))
        await request.reply.end(error.body)

    async def _chat(self, request: ChatRequest, body: Mapping[str, Any]) -> Chat:
        """Make the watched chat of a request."""
        service, options = request.known.get("service", request.service), request.options
        assert service.dialect is not None
        assert service.stream_config is not None
        body = self._services.with_certified_sampling(body)
        client_request = ClientRequest(body, options.risk, options.mode, options.group, options.served)
        return Chat(
            request.server,
            service.dialect,
            service.stream_config,
            client_request,
            lambda done: self._report(done, options),
            self._config.upstream.continuation_tries,
            self._belongs(body),
        )

    def _belongs(self, body: Mapping[str, Any]) -> Callable[[Json], bool]:
        """Make the check that a stream comes from the server that was examined."""
        return partial(self._services.belongs, str(body.get("model")))

    # What all routes share.

    def _compare(self, request: ChatRequest) -> tuple[ChatRequest, str | None]:
        """Compare a request with the certified conditions; return it, and why it is passed on, if so."""
        departures = self._services.departures(request.options)
        if self._services.certified is not None:
            departures += request.known.get("departures", ())
        if not departures:
            return request, None
        for cause in departures:
            self._metrics.uncertified.labels(cause).inc()
        if self._thinks(request.options, departures):
            return request, "uncertified"
        return replace(request, options=replace(request.options, departures=departures)), None

    async def _pass(self, incoming: Incoming, reply: Reply, content: bytes, cause: str) -> None:
        """Forward the request as it is."""
        self._note(incoming, cause)
        headers = for_relay(incoming.headers)
        if content is not incoming.body:
            headers = [*without(headers, {b"content-length", b"content-encoding"}), length_of(content)]
        async with self._upstream.stream(
            "POST", incoming.raw_path, headers, content, query=incoming.query
        ) as response:
            await reply.start(response.status, for_client(response.headers))
            tail = b""
            async for chunk in response.chunks():
                tail = (tail + chunk)[-TAIL:]
                await reply.send(chunk)
        incoming.notes |= counted(tail)
        await reply.end()

    async def _watch(self, request: ChatRequest) -> None:
        chats = [await self._chat(request, body) for body in request.samples()]
        options, heard = request.options, self._heard(request, chats)
        draw = None if heard is None else self._drawn(request)
        turn = self._recorded(request, chats)
        race = Race(chats) if options.race > 1 else None
        source = race or (Choices(chats) if len(chats) > 1 else heard or chats[0])
        try:
            with self._running.entered(request.incoming, options.mode, options.risk, chats):
                await self._answer(request, source)
        finally:
            if heard is not None and draw is not None and self._auditor is not None:
                self._auditor.take(heard, draw, time.monotonic() - request.incoming.arrived)
            counted = chats if race is None else [chats[race.winner or 0]]
            request.known["exited"] = any(one.tried for one in chats)
            for chat in counted:
                self._count(request.incoming, chat)
            if turn is not None and self._shadow is not None:
                self._shadow.take(chats[0], turn)
            note_all(request.incoming, counted)
            self._metrics.upstream_tokens.inc(sum(chat.upstream_tokens for chat in chats))
            if "service" in request.known and any(one.misread for one in chats):
                model = str(request.body.get("model"))
                self._by_chat.withdraw(request.service, model, request.known["need"])

    def _recorded(self, request: ChatRequest, chats: Sequence[Chat]) -> Turn[ShadowRecord] | None:
        """Give a request in shadow mode its turn to be recorded; None when it is not."""
        options = request.options
        if self._shadow is None or len(chats) != 1 or options.mode is not Mode.SHADOW:
            return None
        level = self._services.level(options)
        # The recorded table is of the bundle's own sampling.
        kept = options.certified and (level is None or level.sampling is None)
        kept = kept and "service" not in request.known and "messages" in chats[0].client_request.body
        return self._shadow.enter() if kept else None

    def _heard(self, request: ChatRequest, chats: Sequence[Chat]) -> Heard | None:
        """Listen to a chat that counts for its arm: one alone, under its certificate."""
        counts = self._auditor is not None and len(chats) == 1 and request.options.certified
        if not counts or request.options.risk is None or "service" in request.known:
            return None
        return Heard(chats[0], keep=request.arm is not Arm.SERVE)

    def _drawn(self, request: ChatRequest) -> AuditDraw | None:
        """Take up a request that counts for its arm."""
        if self._auditor is None or self._live is None:
            return None
        model = str(request.body.get("model"))[:_NAME]
        return self._auditor.enter(request.arm, self._live.key(model, request.options))

    def _report(self, chat: Chat, options: ExitOptions) -> Json:
        level = self._services.level(options)
        holds = level is not None and options.certified and not chat.changed
        # An exit that there was no room for saved nothing; in shadow it is what would have been saved.
        saves = chat.stopped or options.mode is Mode.SHADOW
        return report(
            chat.session.session.exit,
            chat.session.thinking_tokens,
            stopped=chat.stopped,
            saved_share=self._services.saved(level) if saves else None,
            certificate=level.certificate if level is not None and holds else None,
            departures=options.departures,
        )

    def _note(self, incoming: Incoming, cause: str) -> None:
        self._metrics.passthrough.labels(cause).inc()
        incoming.notes["passthrough"] = cause

    def _count(self, incoming: Incoming, chat: Chat) -> None:
        self._running.decided(incoming, chat)
        if chat.blind:
            self._note(incoming, chat.blind)
        count_chat(self._metrics, incoming, chat)
