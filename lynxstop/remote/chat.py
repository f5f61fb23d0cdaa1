"""A watched chat: one request to the client, one stream or two from the server.

The server's stream is read as it comes. When an exit is decided, it is closed, so that the server stops
generating; what was kept, the end of thinking and the answer that the server then continues with go to the
client as one stream: one id, one role, one finish, one usage.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lynxstop.core.session import Mode
from lynxstop.errors import ConfigError
from lynxstop.remote.answer import kept_of
from lynxstop.remote.dialects.base import Delta, Dialect, Json, Limits, Opening
from lynxstop.remote.follow import blind, follow
from lynxstop.remote.server import Server
from lynxstop.remote.session import Cut, StreamSession, Terms
from lynxstop.remote.spelling import Spelling
from lynxstop.remote.stream import Reading, Shown
from lynxstop.remote.tokens import StreamToken, written
from lynxstop.remote.wording import Wording


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asked for.

    Parameters
    ----------
    body : dict
        The chat request, without lynxstop's own key.
    risk : float or None
    mode : Mode
    group : str or None
    """

    body: Mapping[str, Any]
    risk: float | None
    mode: Mode = Mode.STOP
    group: str | None = None

    @property
    def usage(self) -> bool:
        """Whether the client wants the event with usage."""
        return bool((self.body.get("stream_options") or {}).get("include_usage")) or not self.body.get(
            "stream"
        )

    @property
    def logprobs(self) -> int | None:
        """Alternatives per token the client asked for; None when it asked for no log-probabilities."""
        return int(self.body.get("top_logprobs") or 0) if self.body.get("logprobs") else None

    @property
    def max_tokens(self) -> int | None:
        """Limit of tokens."""
        found = self.body.get("max_completion_tokens")
        found = self.body.get("max_tokens") if found is None else found
        return None if found is None else int(found)


class _Frame(NamedTuple):
    event: Shown
    first: int
    """Index of its first token, among all that the session has read."""
    end: int
    """Index behind its last token."""


@dataclass(slots=True)
class Chat:
    """One watched request; `bursts` is its stream.

    Attributes
    ----------
    session : StreamSession
    stopped : bool
        Whether an exit was forced.
    blind : str or None
        Why nothing was decided any more: the request then goes through as it is.
    prompt_tokens, completion_tokens : int or None
        What was billed to the client; known at the end.
    upstream_tokens : int
        Tokens that came from the server, those behind the cut included.
    refilled : int
        Tokens that the continuation was given as its prompt.
    answer : str
        What the server's own stream said outside the field of thinking.
    told : dict
        The report that the client got.
    deciding : float
        Seconds spent on deciding.
    read : int
        Events of the server's own stream.
    opening : Opening or None
        What a continuation needs to know; None before the first event.
    """

    server: Server
    dialect: Dialect
    terms: Terms
    asked: Asked
    report: Callable[[Chat], Json]
    session: StreamSession = field(init=False)
    stopped: bool = False
    blind: str | None = None
    usage: Json | None = None
    upstream_tokens: int = 0
    refilled: int = 0
    answer: str = ""
    opening: Opening | None = None
    told: Json = field(default_factory=dict)
    deciding: float = 0.0
    read: int = 0
    _spelling: Spelling | None = None
    _wording: Wording = field(init=False)
    _held: deque[_Frame] = field(default_factory=deque)
    _cut: Cut | None = None

    def __post_init__(self) -> None:
        asked = self.asked
        self.session = StreamSession(
            self.terms,
            risk=asked.risk,
            mode=asked.mode,
            group=asked.group,
            keep=asked.logprobs is not None,
        )
        self._wording = Wording(self.dialect, asked)
        if asked.logprobs is None:
            self._spelling = Spelling()

    async def bursts(self) -> AsyncGenerator[list[Shown]]:
        """Give the events for the client, from the first to the last, without the final marker.

        They come in the bursts in which the server sends them; an empty one is a sign of life.

        Raises
        ------
        UpstreamError
            When the server cannot be reached, answers with an error, or dies. What was held back is given
            before, so that nothing is lost that the server has sent.
        """
        shown: list[Shown] = []
        try:
            self.opening = opening = await self.dialect.opening(self.server, self.asked.body)
            whole = self.asked.logprobs is not None
            reading = Reading(self.dialect.read, opening, whole=whole)
            async with self.server.events(opening.path, self.dialect.watched(opening.body)) as arriving:
                async for arrived in arriving:
                    if not arrived:
                        yield []
                    for data in arrived:
                        self._take(data, reading, shown)
                        if self._cut is not None:
                            break
                    # At a cut, the stream is closed before the client is written to.
                    if self._cut is not None:
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
        finally:
            self._catch_up()
        if self._cut is None:
            shown += self._release(None)
        else:
            async with aclosing(self._continue(self._cut, shown)) as answer:
                async for burst in answer:
                    yield burst
            shown = []
        shown += self._ending()
        if shown:
            yield shown

    def _take(self, data: bytes, reading: Reading, shown: list[Shown]) -> None:
        """Read an event of the server's own stream; `shown` gets what can be given to the client by now."""
        event: Shown
        spelled = None if self._spelling is None else self._spelling.read(data)
        if spelled is not None:
            line, text, number, entry = spelled
            thinking = self._spelling is not None and self._spelling.thinking
            if self.blind is None and (thinking or not self.session.opened_by_field):
                begun = time.perf_counter()
                try:
                    skimmed = self.session.skim(text, number, entry)
                except ConfigError:
                    self.blind, skimmed = "no_tokens", False
                self.deciding += time.perf_counter() - begun
                if skimmed:
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
            self._wording.learn(event, delta)
            self.usage = delta.usage or self.usage
        else:
            return
        self.read += 1
        self.answer += delta.content
        self.upstream_tokens += len(delta.tokens)
        begun = time.perf_counter()
        self._catch_up()
        start = len(self.session.tokens)
        cut = self._follow(delta)
        self.deciding += time.perf_counter() - begun
        if cut is not None and self._room(cut):
            shown += self._before(cut, _Frame(event, start, start + len(delta.tokens) + 1))
            self._cut = cut
            return
        held = None if self.blind is not None else self.session.held
        if held is not None or self._held:
            self._held.append(_Frame(event, start, len(self.session.tokens)))
            shown += self._release(held)
        elif (given := self._wording.shown(event)) is not None:
            shown.append(given)
            if self._spelling is not None and isinstance(given, dict):
                self._spelling.learn(data, delta, given)

    def _catch_up(self) -> None:
        """Let the session read all that it has taken."""
        try:
            self.session.catch_up()
        except ConfigError:
            self.blind = "no_tokens"

    def _release(self, held: int | None) -> list[Shown]:
        """Give what lies before the first token that an exit might still take away."""
        shown = []
        while self._held and (held is None or self._held[0].end <= held):
            if event := self._wording.shown(self._held.popleft().event):
                shown.append(event)
        return shown

    def _follow(self, delta: Delta) -> Cut | None:
        if self.blind is not None:
            return None
        if delta.opaque:
            self.blind = "not_understood"
        elif blind(self.session, delta):
            self.blind = "no_logprobs"
        else:
            try:
                return follow(self.session, delta)
            except ConfigError:
                self.blind = "no_tokens"
        return None

    def _room(self, cut: Cut) -> bool:
        """Whether the client's limit leaves room for an answer; without, the exit is not taken."""
        limit = self.asked.max_tokens
        if limit is not None and limit - self._spent(cut) < 1:
            self.blind = "no_room"
            return False
        return True

    def _spent(self, cut: Cut) -> int:
        return len(written(self.session.tokens[: cut.index])) + (cut.kept > 0) + self.terms.exit_tokens

    def _before(self, cut: Cut, last: _Frame) -> list[Shown]:
        """What of the frames held back lies before the cut."""
        shown = []
        for frame in (*self._held, last):
            if frame.end <= cut.index:
                event = self._wording.shown(frame.event)
            else:
                whole = written(self.session.tokens[frame.first : cut.index])
                text = b"".join(token.text for token in whole)
                if cut.kept and frame.first <= cut.index:
                    text += self.session.tokens[cut.index].text[: cut.kept]
                said = text.decode(errors="replace")
                event = self._wording.said(said, thinking=True, delta=Delta(tokens=whole)) if said else None
            if event:
                shown.append(event)
        self._held.clear()
        return shown

    async def _continue(self, cut: Cut, shown: list[Shown]) -> AsyncGenerator[list[Shown]]:
        """Put the end of thinking behind the cut and what lies before it, and let the server answer."""
        assert self.opening is not None
        limit = self.asked.max_tokens
        limits = Limits(None if limit is None else limit - self._spent(cut), self.asked.logprobs)
        if shown:
            yield shown
        call = await self.dialect.continuation(self.server, self.opening, kept_of(self.session, cut), limits)
        self.stopped = True
        parts = self._wording.split(self.terms.exit_text, self.terms.close)
        said: list[Shown] = [self._wording.said(text, thinking=inside) for text, inside in parts if text]
        if said:
            yield said
        usage: Json = {}
        own = self.upstream_tokens
        reading = Reading(self.dialect.read_continuation)
        async with self.server.events(call.path, call.body) as arriving:
            async for arrived in arriving:
                if not arrived:
                    yield []
                said = []
                for event, delta in reading.burst(arrived):
                    usage = delta.usage or usage
                    self.upstream_tokens += len(delta.tokens) or bool(delta.content)
                    if delta.content or delta.finish:
                        one = self._wording.said(delta.content, thinking=False, delta=delta, event=event)
                        if delta.finish:
                            self._wording.finish = one
                        else:
                            said.append(one)
                if said:
                    yield said
            reading.end()
        answered = usage.get("completion_tokens")
        if answered is not None:
            self.upstream_tokens = own + int(answered)
        self._merge(cut, call.forced or self.terms.exit_tokens, usage, self.upstream_tokens - own)

    def _merge(self, cut: Cut, forced: int, usage: Json, answered: int) -> None:
        """Count the prompt once, and all that was written as one completion.

        A server that counts no tokens is taken at its events.
        """
        assert self.opening is not None
        kept = len(written(self.session.tokens[: cut.index])) + (cut.kept > 0)
        self.refilled = int(usage.get("prompt_tokens") or 0)
        ids = self.opening.prompt_ids
        prompt = len(ids) if ids is not None else max(0, self.refilled - kept - forced)
        completion = kept + forced + answered
        self.usage = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "completion_tokens_details": {"reasoning_tokens": cut.thinking_tokens},
        }

    def _ending(self) -> list[Json]:
        """The last events: the finish, and usage where it was asked for; the report goes into the last."""
        wording = self._wording
        events = [] if wording.finish is None else [wording.finish]
        if self.asked.usage and self.usage is not None:
            events.append({**wording.base, "choices": [], "usage": self.usage})
        if events:
            self.told = self.report(self)
            events[-1] = {**events[-1], "lynxstop": self.told}
        return events
