"""A watched chat: one request to the client, one stream or two from the server.

The server's stream is read as it arrives. On an exit it is closed, so that the server stops generating. The
kept thinking, the exit text and the answer of the continuation go to the client as one stream: one id, one
role, one finish reason, one usage.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NamedTuple

from lynxstop.errors import ConfigError
from lynxstop.remote.answer import kept_of
from lynxstop.remote.chat_route import inside_call
from lynxstop.remote.client_request import ClientRequest
from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import Call, Dialect, Limits, Opening
from lynxstop.remote.event_rewriter import EventRewriter
from lynxstop.remote.fast_path import EventTemplate
from lynxstop.remote.follow import follow, lacks_tokens
from lynxstop.remote.report import with_exit
from lynxstop.remote.second_request import SecondRequest
from lynxstop.remote.server import Server
from lynxstop.remote.session import StreamSession, TruncationPoint
from lynxstop.remote.stream import ClientEvent, Reading
from lynxstop.remote.stream_config import StreamConfig
from lynxstop.remote.tokens import StreamToken, written

_SLACK = 8
"""Tokens by which a continuation's prompt may be longer or shorter: text that is read again splits anew."""


class _Frame(NamedTuple):
    event: ClientEvent
    first: int
    """Index of its first token, among all that the session has read."""
    end: int
    """Index after its last token."""


@dataclass(slots=True)
class Chat:
    """One watched request; `bursts` is its stream.

    Parameters
    ----------
    server : Server
    dialect : Dialect
    config : StreamConfig
    client_request : ClientRequest
    report : callable
        Writes the report at the end.
    tries : int
        How often a continuation is asked for at most.
    belongs : callable, optional
        Asked whether an event comes from the server that was examined; once one does not, nothing is
        decided any more.

    Attributes
    ----------
    session : StreamSession
    stopped : bool
        Whether an exit was forced.
    changed : bool
        Whether an event did not come from the server that was examined; vLLM shows that in the last one.
    blind : str or None
        Why decisions ended; the rest of the stream is forwarded as it is. "" when they ended as they should:
        with a tool call.
    prompt_tokens, completion_tokens : int or None
        What was billed to the client; known at the end.
    upstream_tokens : int
        Tokens that came from the server, those after the truncation included.
    refilled : int
        Prompt tokens of the continuation.
    tried : int
        How often a continuation was asked for.
    answer : str
        Text of the server's first stream outside the field for thinking.
    final_report : dict
        The report that the client got.
    deciding : float
        Seconds spent on decisions.
    read : int
        Events of the server's first stream.
    opening : Opening or None
        What a continuation needs; None before the first event.
    misread : bool
        Whether the continuation's prompt was not as long as the first with what was kept.
    """

    server: Server
    dialect: Dialect
    config: StreamConfig
    client_request: ClientRequest
    report: Callable[[Chat], Json]
    tries: int = 3
    belongs: Callable[[Json], bool] | None = None
    session: StreamSession = field(init=False)
    stopped: bool = False
    changed: bool = False
    blind: str | None = None
    usage: Json | None = None
    upstream_tokens: int = 0
    refilled: int = 0
    tried: int = 0
    answer: str = ""
    opening: Opening | None = None
    final_report: Json = field(default_factory=dict)
    deciding: float = 0.0
    read: int = 0
    misread: bool = False
    _asked: bool = False
    _template: EventTemplate | None = None
    _rewriter: EventRewriter = field(init=False)
    _held: deque[_Frame] = field(default_factory=deque)
    _truncation: TruncationPoint | None = None

    def __post_init__(self) -> None:
        client_request = self.client_request
        self.session = StreamSession(
            self.config,
            risk=client_request.risk,
            mode=client_request.mode,
            group=client_request.group,
            keep=client_request.logprobs is not None,
        )
        self._rewriter = EventRewriter(self.dialect, client_request)
        if client_request.logprobs is None:
            self._template = EventTemplate()

    async def bursts(self) -> AsyncGenerator[list[ClientEvent]]:
        """Yield the events for the client, without the final `[DONE]`.

        They come in the bursts in which the server sends them; an empty burst says that it is alive.

        Raises
        ------
        UpstreamError
            When the server cannot be reached, answers with an error, or dies. Events that were held back are
            yielded before, so that nothing that the server has sent is lost.
        """
        shown: list[ClientEvent] = []
        try:
            self.opening = opening = await self.dialect.opening(self.server, self.client_request.body)
            whole = self.client_request.logprobs is not None
            reading = Reading(self.dialect.read, opening, whole=whole)
            async with self.server.events(opening.path, self.dialect.watched(opening.body)) as arriving:
                async for arrived in arriving:
                    if not arrived:
                        yield []
                    for data in arrived:
                        self._take(data, reading, shown)
                        if self._truncation is not None:
                            break
                    self._end_here(shown)
                    # At an exit, the stream is closed before the client is written to.
                    if self._truncation is not None:
                        break
                    if shown:
                        yield shown
                        shown = []
                else:
                    reading.end()
        except Exception:
            shown += self._release(None)
            if shown:
                yield shown
            raise
        if self._truncation is None:
            shown += self._release(None)
        else:
            async with aclosing(self._continue(self._truncation, shown)) as answer:
                async for burst in answer:
                    yield burst
            shown = []
        shown += self._ending()
        if shown:
            yield shown

    def answer_now(self) -> None:
        """End the thinking at the next token that arrives; no certificate is about that."""
        self._asked = True

    @property
    def state(self) -> str:
        """One of waiting (for thinking), thinking, answering, and unwatched (nothing can be decided)."""
        if self._truncation is not None:
            return "answering"
        if self.blind is not None:
            return "unwatched" if self.blind else "answering"
        thought = any(self.session.thinking)
        return "thinking" if self.session.inside else "answering" if thought else "waiting"

    def _end_here(self, shown: list[ClientEvent]) -> None:
        """Truncate after the last token, if somebody has asked for that."""
        if not self._asked or self._truncation is not None or self.blind is not None:
            return
        truncation = self.session.answer_now()
        if truncation is not None and self._room(truncation):
            shown += self._release(None)
            self._truncation = truncation

    def _take(self, data: bytes, reading: Reading, shown: list[ClientEvent]) -> None:
        """Read an event of the server's first stream; append what the client may get by now to `shown`."""
        event: ClientEvent
        matched = None if self._template is None else self._template.match(data)
        if matched is not None:
            line, text, number, entry = matched
            thinking = self._template is not None and self._template.thinking
            if self.blind is None and (thinking or not self.session.opened_by_field):
                begun = time.perf_counter()
                try:
                    queued = self.session.enqueue(text, number, entry)
                except ConfigError:
                    self.blind, queued = "no_tokens", False
                self.deciding += time.perf_counter() - begun
                if queued:
                    self.read += 1
                    self.upstream_tokens += 1
                    if not thinking:
                        self.answer += text.decode()
                    shown.append(line)
                    return
            said = (text.decode(), "") if thinking else ("", text.decode())
            event, delta = line, Delta(*said, (StreamToken(text, id=number, entry=entry),))
        elif (parsed := reading.event(data)) is not None:
            event, delta = parsed
            self._rewriter.learn(event, delta)
            if self._is_foreign(event):
                self.blind = "changed"
            self.usage = delta.usage or self.usage
        else:
            return
        self.read += 1
        self.answer += delta.content
        self.upstream_tokens += len(delta.tokens)
        begun = time.perf_counter()
        start = len(self.session.tokens)
        truncation = self._follow(delta)
        self.deciding += time.perf_counter() - begun
        if truncation is not None and self._room(truncation):
            shown += self._before(truncation, _Frame(event, start, start + len(delta.tokens) + 1))
            self._truncation = truncation
            return
        held = None if self.blind is not None else self.session.held
        if held is not None or self._held:
            self._held.append(_Frame(event, start, len(self.session.tokens)))
            shown += self._release(held)
        elif (given := self._rewriter.shown(event)) is not None:
            shown.append(given)
            if self._template is not None and isinstance(given, dict):
                self._template.learn(data, delta, given)

    def _release(self, held: int | None) -> list[ClientEvent]:
        """Release the held events before the first token that an exit might still remove."""
        shown = []
        while self._held and (held is None or self._held[0].end <= held):
            if event := self._rewriter.shown(self._held.popleft().event):
                shown.append(event)
        return shown

    def _follow(self, delta: Delta) -> TruncationPoint | None:
        if self.blind is not None:
            return None
        if delta.opaque:
            # Where tools are watched, a call is how an answer may begin.
            self.blind = "" if self.config.bare else "not_understood"
        elif lacks_tokens(self.session, delta):
            self.blind = "no_logprobs"
        else:
            try:
                return follow(self.session, delta)
            except ConfigError:
                self.blind = "no_tokens"
        return None

    def _room(self, truncation: TruncationPoint) -> bool:
        """Whether there is room for an answer within the client's token limit; if not, the exit is not taken.

        Nor is it within a tool call that the model writes as part of its thinking.
        """
        limit = self.client_request.max_tokens
        if self.config.bare and inside_call(self.session.text(truncation).decode(errors="replace")):
            self.blind = ""
            return False
        if limit is not None and limit - self._spent(truncation) < 1:
            self.blind = "no_room"
            return False
        return True

    def _spent(self, truncation: TruncationPoint) -> int:
        return (
            len(written(self.session.tokens[: truncation.index]))
            + (truncation.kept > 0)
            + self.config.exit_tokens
        )

    def _before(self, truncation: TruncationPoint, last: _Frame) -> list[ClientEvent]:
        """Return the held events up to the truncation point."""
        shown = []
        for frame in (*self._held, last):
            if frame.end <= truncation.index:
                event = self._rewriter.shown(frame.event)
            else:
                whole = written(self.session.tokens[frame.first : truncation.index])
                text = b"".join(token.text for token in whole)
                if truncation.kept and frame.first <= truncation.index:
                    tail = self.session.tokens[truncation.index].text[: truncation.kept]
                    whole, text = [*whole, StreamToken(tail, 0.0)], text + tail
                said = text.decode(errors="replace")
                event = self._rewriter.said(said, thinking=True, delta=Delta(tokens=whole)) if said else None
            if event:
                shown.append(event)
        self._held.clear()
        return shown

    async def _continue(
        self, truncation: TruncationPoint, shown: list[ClientEvent]
    ) -> AsyncGenerator[list[ClientEvent]]:
        """Send what is kept; when the server has begun to continue, the exit text and what it answers."""
        assert self.opening is not None
        limit = self.client_request.max_tokens
        limits = Limits(
            None if limit is None else limit - self._spent(truncation), self.client_request.logprobs
        )
        if shown:
            yield shown
        opening, kept = self.opening, kept_of(self.session, truncation)
        second = SecondRequest(
            self.server,
            lambda: self.dialect.continuation(self.server, opening, kept, limits),
            self.dialect.read_continuation,
            self.tries,
        )
        usage: Json = {}
        own = self.upstream_tokens
        try:
            async with aclosing(second.bursts()) as arriving:
                async for arrived in arriving:
                    said = [] if self.stopped or not arrived else self._exit_said()
                    self.stopped = self.stopped or bool(arrived)
                    for event, delta in arrived:
                        # The same server calls itself the same on both routes, if it is known to that well.
                        if self.dialect.exact:
                            self._is_foreign(event)
                        usage = delta.usage or usage
                        self.upstream_tokens += len(delta.tokens) or bool(delta.content or delta.opaque)
                        assert second.call is not None
                        if (one := self._answered(second.call, event, delta)) is not None:
                            said.append(one)
                    if said or not arrived:
                        yield said
        finally:
            self.tried = second.tried
        assert second.call is not None
        answered = usage.get("completion_tokens")
        if answered is not None:
            self.upstream_tokens = own + int(answered)
        self._merge(
            truncation, second.call.forced or self.config.exit_tokens, usage, self.upstream_tokens - own
        )

    def _is_foreign(self, event: Json) -> bool:
        """Whether an event is the first to show that the server is not the one that was examined."""
        if self.changed or self.belongs is None or event.get("system_fingerprint") is None:
            return False
        self.changed = not self.belongs(event)
        return self.changed

    def _exit_said(self) -> list[ClientEvent]:
        """Return the exit text as events; only once the server has begun to answer after it."""
        parts = self._rewriter.split(self.config.exit_text, self.config.close)
        if self.config.bare and len(parts) > 1:
            parts.pop()  # The answer is all the server's own.
        return [self._rewriter.forced(text, thinking=inside) for text, inside in parts if text]

    def _answered(self, call: Call, event: Json, delta: Delta) -> ClientEvent | None:
        """Return an event of the continuation as the client gets it; the last goes to the rewriter."""
        if call.whole:
            return self._rewriter.relayed(event)
        if not (delta.content or delta.finish):
            return None
        one = self._rewriter.said(delta.content, thinking=False, delta=delta, event=event)
        if delta.finish:
            self._rewriter.finish = one
            return None
        return one

    def _merge(self, truncation: TruncationPoint, forced: int, usage: Json, answered: int) -> None:
        """Merge the usage of both requests: the prompt once, and everything generated as one completion.

        Where the server does not count tokens, events are counted.
        """
        assert self.opening is not None
        kept = len(written(self.session.tokens[: truncation.index])) + (truncation.kept > 0)
        self.refilled = int(usage.get("prompt_tokens") or 0)
        ids = self.opening.prompt_ids
        if ids is not None and self.refilled:
            self.misread = abs(self.refilled - len(ids) - kept - forced) > _SLACK
        prompt = len(ids) if ids is not None else max(0, self.refilled - kept - forced)
        completion = kept + forced + answered
        self.usage = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "completion_tokens_details": {"reasoning_tokens": truncation.thinking_tokens},
        }

    def _ending(self) -> list[Json]:
        """Return the last events: the finish, and usage if the client wants it. The report is in the last."""
        rewriter = self._rewriter
        events = [] if rewriter.finish is None else [rewriter.finish]
        self.final_report = self.report(self) if events or self.usage is not None else {}
        if self.client_request.usage and self.usage is not None:
            usage = with_exit(self.usage, self.final_report)
            events.append({**rewriter.base, "choices": [], "usage": usage})
        if events:
            events[-1] = {**events[-1], "lynxstop": self.final_report}
        return events
