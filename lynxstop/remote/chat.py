"""A watched chat: one request to the client, one stream or two from the server.

The server's stream is read as it arrives. On an exit it is closed, so that the server stops generating. The
kept thinking, the exit text and the answer of the continuation go to the client as one stream: one id, one
role, one finish reason, one usage.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from lynxstop.core.exits import Reason
from lynxstop.errors import ConfigError, UpstreamError
from lynxstop.remote.chat_route import inside_call
from lynxstop.remote.client_request import ClientRequest
from lynxstop.remote.continued import continued
from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import Dialect, Opening
from lynxstop.remote.event_rewriter import EventRewriter
from lynxstop.remote.events import ClientEvent, Reading
from lynxstop.remote.fast_path import EventTemplate
from lynxstop.remote.follow import follow, lacks_tokens
from lynxstop.remote.held_frames import Frame, HeldFrames
from lynxstop.remote.report import with_exit
from lynxstop.remote.server import Server
from lynxstop.remote.session import StreamSession, TruncationPoint
from lynxstop.remote.stream_config import StreamConfig
from lynxstop.remote.tokens import StreamToken, written


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
    read : int
        Events of the server's first stream.
    opening : Opening or None
        What a continuation needs; None before the first event.
    misread : bool
        Whether the continuation's prompt was not as long as the first with what was kept.
    in_place : bool
        Whether the server itself ended the thinking, without a continuation.
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
    read: int = 0
    misread: bool = False
    in_place: bool = False
    _asked: bool = False
    _template: EventTemplate | None = None
    rewriter: EventRewriter = field(init=False)
    _held: HeldFrames = field(init=False)
    _truncation: TruncationPoint | None = None
    _last: Frame | None = None
    """The event that an exit was decided on."""

    def __post_init__(self) -> None:
        client_request = self.client_request
        self.session = self._session(self.config)
        self.rewriter = EventRewriter(self.dialect, client_request)
        self._held = HeldFrames(self.rewriter)
        if client_request.logprobs is None:
            self._template = EventTemplate()

    def _session(self, config: StreamConfig) -> StreamSession:
        client_request = self.client_request
        return StreamSession(
            config,
            risk=client_request.risk,
            mode=client_request.mode,
            group=client_request.group,
            served=client_request.served,
            keep=client_request.logprobs is not None,
        )

    @property
    def opened(self) -> bool:
        """Whether the prompt has opened a thinking block, which the stream does not show."""
        return self.session.config.opened

    def _look_at_prompt(self) -> None:
        """Begin outside of thinking where the prompt is rendered without it, as a request may ask for."""
        end, ids = self.config.opened_by, self.opening and self.opening.prompt_ids
        if end and ids and len(self.session.tokens) == 1 and tuple(ids[-len(end) :]) != end:
            self.session = self._session(replace(self.config, opened=False))

    async def _look_at_template(self, opening: Opening) -> None:
        """Do the same before the first event, where the stream does not show the prompt."""
        config = self.config
        if not config.opened or config.opened_by or "messages" not in opening.body:
            return
        try:
            end = await self.dialect.prompt_end(self.server, opening)
        except UpstreamError:
            self.blind = "not_understood"
            return
        if end is not None and not end.rstrip().endswith(config.open):
            self.session = self._session(replace(config, opened=False))

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
            await self._look_at_template(opening)
            whole = self.client_request.logprobs is not None
            reading = Reading(self.dialect.read, opening, whole=whole)
            async with self.server.events(opening.path, self.dialect.watched(opening.body)) as arriving:
                async for arrived in arriving:
                    if not arrived:
                        yield []
                    await self._take_all(arrived, reading, shown)
                    # At an exit, the stream is closed before the client is written to.
                    if self._truncation is not None:
                        break
                    if shown:
                        yield shown
                        shown = []
                else:
                    reading.end()
            if self._truncation is None:
                shown += self._held.release()
            else:
                shown += self._unfinished()
                if shown:
                    yield shown
                shown = []
                async with aclosing(continued(self, self._truncation)) as answer:
                    async for burst in answer:
                        yield burst
        except Exception:
            shown += self._held.release()
            shown += self._unfinished()
            if shown:
                yield shown
            raise
        shown += self._ending()
        if shown:
            yield shown

    def _unfinished(self) -> list[ClientEvent]:
        """Return what waits for the end of the answer, which does not come."""
        last = self.rewriter.unfinished()
        return [] if last is None else [last]

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

    async def _take_all(self, arrived: Sequence[bytes], reading: Reading, shown: list[ClientEvent]) -> None:
        """Read events that came together, up to an exit."""
        for data in arrived:
            self._take(data, reading, shown)
            if self._truncation is not None and not await self._ended_in_place(shown):
                return
        if self._end_here(shown):
            await self._ended_in_place(shown)

    def _end_here(self, shown: list[ClientEvent]) -> bool:
        """Truncate after the last token, if somebody has asked for that; say whether."""
        if not self._asked or self._truncation is not None or self.blind is not None:
            return False
        truncation = self.session.answer_now()
        if truncation is None or not self._room(truncation):
            return False
        shown += self._held.release()
        self._truncation = truncation
        return True

    async def _ended_in_place(self, shown: list[ClientEvent]) -> bool:
        """Let the server end the thinking within its stream, which spares the second request; say whether.

        The server has gone on by then, and forces nothing after the thinking. So this is done only where no
        certificate is about the answer: when somebody asked for it, and where tools or a form are watched.
        """
        assert self._truncation is not None
        last, self._last = self._last, None
        named = str(self.rewriter.base.get("id"))
        taken = self.session.session.exit
        uncertified = self.config.bare or (taken is not None and taken.reason is Reason.ASKED)
        if self.dialect.in_place and uncertified and await self.dialect.end_thinking(self.server, named):
            shown += self._held.release()
            if last is not None and (event := self.rewriter.shown(last.event)) is not None:
                shown.append(event)
            self._truncation, self.blind = None, ""
            self.stopped = self.in_place = True
            return True
        if last is not None:
            shown += self._held.before(self._truncation, last, self.session.tokens)
        return False

    def _take(self, data: bytes, reading: Reading, shown: list[ClientEvent]) -> None:
        """Read an event of the server's first stream; append what the client may get by now to `shown`."""
        event: ClientEvent
        template = self._template
        fast = template is not None and self.rewriter.finish is None
        matched = template.match(data) if template is not None and fast else None
        if template is not None and matched is not None:
            line, text, number, entry = matched
            thinking = template.thinking
            if self.blind is None and (thinking or not self.session.opened_by_field):
                try:
                    queued = self.session.enqueue(text, number, entry)
                except ConfigError:
                    self.blind, queued = "no_tokens", False
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
            self.rewriter.learn(event, delta)
            self._look_at_prompt()
            if self.is_foreign(event):
                self.blind = "changed"
            self.usage = delta.usage or self.usage
        else:
            return
        self.read += 1
        self.answer += delta.content
        self.upstream_tokens += len(delta.tokens)
        start = len(self.session.tokens)
        truncation = self._follow(delta)
        if truncation is not None and self._room(truncation):
            self._truncation = truncation
            self._last = Frame(event, start, start + len(delta.tokens) + 1)
            return
        held = None if self.blind is not None else self.session.held
        if held is not None or self._held:
            self._held.append(Frame(event, start, len(self.session.tokens)))
            shown += self._held.release(held)
        elif (given := self.rewriter.shown(event)) is not None:
            shown.append(given)
            if self._template is not None and isinstance(given, dict):
                self._template.learn(data, delta, given)

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
        if limit is not None and limit - self.spent(truncation) < 1:
            self.blind = "no_room"
            return False
        return True

    def spent(self, truncation: TruncationPoint) -> int:
        """Tokens of the answer that an exit keeps and forces."""
        return (
            len(written(self.session.tokens[: truncation.index]))
            + (truncation.kept > 0)
            + self.config.exit_tokens
        )

    def is_foreign(self, event: Json) -> bool:
        """Whether an event is the first to show that the server is not the one that was examined."""
        if self.changed or self.belongs is None or event.get("system_fingerprint") is None:
            return False
        self.changed = not self.belongs(event)
        return self.changed

    def _ending(self) -> list[Json]:
        """Return the last events: the finish, and usage if the client wants it. The report is in the last."""
        rewriter = self.rewriter
        if not self.read:
            return []
        events = [] if rewriter.finish is None else [rewriter.finish]
        self.final_report = self.report(self)
        if self.client_request.usage and self.usage is not None:
            usage = with_exit(self.usage, self.final_report)
            events.append({**rewriter.base, "choices": [], "usage": usage})
        # Some servers give no reason to finish.
        last = events.pop() if events else rewriter.said("", thinking=False)
        return [*events, {**rewriter.beside, **last, "lynxstop": self.final_report}]
