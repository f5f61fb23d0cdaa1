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
from lynxstop.errors import ConfigError, UpstreamError
from lynxstop.remote.answer import kept_of
from lynxstop.remote.dialects.base import REASONING_FIELDS, Delta, Dialect, Json, Limits, Opening
from lynxstop.remote.follow import blind, follow
from lynxstop.remote.server import Server
from lynxstop.remote.session import Cut, StreamSession, Terms
from lynxstop.remote.stream import Reading
from lynxstop.remote.tokens import StreamToken, written


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
        found = self.body.get("max_completion_tokens", self.body.get("max_tokens"))
        return None if found is None else int(found)


class _Frame(NamedTuple):
    event: Json
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
    _base: Json = field(default_factory=dict)
    _field: str | None = None
    _held: deque[_Frame] = field(default_factory=deque)
    _finish: Json | None = None
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

    async def bursts(self) -> AsyncGenerator[list[Json]]:
        """Give the events for the client, from the first to the last, without the final marker.

        They come in the bursts in which the server sends them; a burst is never empty.

        Raises
        ------
        UpstreamError
            When the server cannot be reached, answers with an error, or dies. What was held back is given
            before, so that nothing is lost that the server has sent.
        """
        shown: list[Json] = []
        try:
            self.opening = opening = await self.dialect.opening(self.server, self.asked.body)
            whole = self.asked.logprobs is not None
            reading = Reading(self.dialect.read, opening, whole=whole)
            async with self.server.events(opening.path, self.dialect.watched(opening.body)) as arriving:
                async for arrived in arriving:
                    for event, delta in reading.burst(arrived):
                        self._take(event, delta, shown)
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
        except UpstreamError:
            shown += self._release(None)
            if shown:
                yield shown
            raise
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

    def _take(self, event: Json, delta: Delta, shown: list[Json]) -> None:
        """Read an event of the server's own stream; `shown` gets what can be given to the client by now."""
        self._learn(event, delta)
        start = len(self.session.tokens)
        begun = time.perf_counter()
        cut = self._follow(delta)
        self.deciding += time.perf_counter() - begun
        self.read += 1
        if cut is not None and self._room(cut):
            shown += self._before(cut, _Frame(event, start, start + len(delta.tokens) + 1))
            self._cut = cut
            return
        held = self.session.held
        if held is None and not self._held:
            if (given := self._shown(event)) is not None:
                shown.append(given)
            return
        self._held.append(_Frame(event, start, len(self.session.tokens)))
        shown += self._release(held)

    def _release(self, held: int | None) -> list[Json]:
        """Give what lies before the first token that an exit might still take away."""
        shown = []
        while self._held and (held is None or self._held[0].end <= held):
            if event := self._shown(self._held.popleft().event):
                shown.append(event)
        return shown

    def _learn(self, event: Json, delta: Delta) -> None:
        if not self._base and event.get("id"):
            names = ("id", "object", "created", "model", "system_fingerprint")
            self._base = {name: event[name] for name in names if name in event}
        if delta.usage:
            self.usage = delta.usage
        self.answer += delta.content
        if delta.thinking and self._field is None:
            given = event["choices"][0]["delta"]
            self._field = next(name for name in REASONING_FIELDS if given.get(name))
        self.upstream_tokens += len(delta.tokens)

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

    def _before(self, cut: Cut, last: _Frame) -> list[Json]:
        """What of the frames held back lies before the cut."""
        shown = []
        for frame in (*self._held, last):
            if frame.end <= cut.index:
                event = self._shown(frame.event)
            else:
                whole = written(self.session.tokens[frame.first : cut.index])
                text = b"".join(token.text for token in whole)
                if cut.kept and frame.first <= cut.index:
                    text += self.session.tokens[cut.index].text[: cut.kept]
                said = text.decode(errors="replace")
                event = self._said(said, thinking=True, delta=Delta(tokens=whole)) if said else None
            if event:
                shown.append(event)
        self._held.clear()
        return shown

    async def _continue(self, cut: Cut, shown: list[Json]) -> AsyncGenerator[list[Json]]:
        """Put the end of thinking behind the cut and what lies before it, and let the server answer."""
        assert self.opening is not None
        limit = self.asked.max_tokens
        limits = Limits(None if limit is None else limit - self._spent(cut), self.asked.logprobs)
        if shown:
            yield shown
        call = await self.dialect.continuation(self.server, self.opening, kept_of(self.session, cut), limits)
        self.stopped = True
        before, behind = self._exit_parts()
        parts = [(before, True), (behind, False)]
        if said := [self._said(text, thinking=thinking) for text, thinking in parts if text]:
            yield said
        usage: Json = {}
        own = self.upstream_tokens
        reading = Reading(self.dialect.read_continuation)
        async with self.server.events(call.path, call.body) as arriving:
            async for arrived in arriving:
                said = []
                for event, delta in reading.burst(arrived):
                    usage = delta.usage or usage
                    self.upstream_tokens += len(delta.tokens) or bool(delta.content)
                    if delta.content or delta.finish:
                        one = self._said(delta.content, thinking=False, delta=delta, choice=_choice(event))
                        if delta.finish:
                            self._finish = one
                        else:
                            said.append(one)
                if said:
                    yield said
            reading.end()
        self.upstream_tokens = own
        self._merge(cut, call.forced or self.terms.exit_tokens, usage)

    def _exit_parts(self) -> tuple[str, str]:
        """The exit text inside and behind the block, without the delimiter if the server parses thinking."""
        text = self.terms.exit_text
        if self._field is None:
            return text, ""
        for close in self.terms.close:
            before, found, behind = text.partition(close)
            if found:
                return before, behind
        return text, ""

    def _merge(self, cut: Cut, forced: int, usage: Json) -> None:
        """Count the prompt once, and all that was written as one completion."""
        assert self.opening is not None
        kept = len(written(self.session.tokens[: cut.index])) + (cut.kept > 0)
        self.refilled = int(usage.get("prompt_tokens") or 0)
        self.upstream_tokens += int(usage.get("completion_tokens") or 0)
        ids = self.opening.prompt_ids
        prompt = len(ids) if ids is not None else max(0, self.refilled - kept - forced)
        completion = kept + forced + int(usage.get("completion_tokens") or 0)
        self.usage = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "completion_tokens_details": {"reasoning_tokens": cut.thinking_tokens},
        }

    def _ending(self) -> list[Json]:
        """The last events: the finish, and usage where it was asked for; the report goes into the last."""
        events = [] if self._finish is None else [self._finish]
        if self.asked.usage and self.usage is not None:
            events.append({**self._base, "choices": [], "usage": self.usage})
        if events:
            self.told = self.report(self)
            events[-1] = {**events[-1], "lynxstop": self.told}
        return events

    def _shown(self, event: Json) -> Json | None:
        """An event of the server as the client gets it; None when only we asked for it, or it comes later."""
        choices = event.get("choices")
        if not choices and "error" not in event:
            return None
        self.dialect.clean(event, self.asked.body)
        wanted = self.asked.logprobs
        for choice in choices or ():
            if wanted is None:
                if "logprobs" in choice:
                    choice["logprobs"] = None
            elif choice.get("logprobs"):
                for entry in choice["logprobs"].get("content") or ():
                    entry["top_logprobs"] = entry.get("top_logprobs", [])[:wanted]
        if event.get("usage") and choices:
            event["usage"] = None
        if choices and choices[0].get("finish_reason"):
            self._finish = event
            return None
        return event

    def _said(
        self,
        text: str,
        *,
        thinking: bool,
        delta: Delta | None = None,
        choice: Mapping[str, Any] | None = None,
    ) -> Json:
        """An event of our own, in the server's manner."""
        where = self._field if thinking and self._field is not None else "content"
        said: Json = {"index": 0, "delta": {where: text} if text else {}, "logprobs": None}
        said["finish_reason"] = None if delta is None else delta.finish
        if choice is not None and "stop_reason" in choice:
            said["stop_reason"] = choice["stop_reason"]
        if self.asked.logprobs is not None and delta is not None and delta.tokens:
            said["logprobs"] = {"content": [_entry(token, self.asked.logprobs) for token in delta.tokens]}
        return {**self._base, "choices": [said]}


def _choice(event: Json) -> Mapping[str, Any] | None:
    choices = event.get("choices")
    return choices[0] if choices else None


def _entry(token: StreamToken, top: int) -> Json:
    shown = [(token.text, token.logprob)]
    shown += [(text.encode(), value) for text, value in zip(*token.top, strict=True)][:top]
    entries = [
        {"token": text.decode(errors="replace"), "logprob": value, "bytes": list(text)}
        for text, value in shown
    ]
    return {**entries[0], "top_logprobs": entries[1:]}
