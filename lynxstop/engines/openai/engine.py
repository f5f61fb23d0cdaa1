"""Collect through an HTTP server, with the same stream, session and continuation as the proxy."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from lynxstop.core.conditions import Conditions
from lynxstop.core.exits import CueEvent
from lynxstop.core.policy import StopPolicy
from lynxstop.core.statistics import DTYPE, NEXT, WIDTH, unknown
from lynxstop.core.types import Answer, Generation, Request, Sampling, Signals, Tokens
from lynxstop.engines.openai.tokenizer import StreamTokenizer
from lynxstop.errors import DataError, UpstreamError
from lynxstop.remote.answer import answer_after
from lynxstop.remote.delta import Delta
from lynxstop.remote.dialects.base import TOP, AnswerLimits, Dialect, Opening
from lynxstop.remote.follow import follow, lacks_tokens
from lynxstop.remote.server import Server
from lynxstop.remote.session import StreamSession, TruncationPoint
from lynxstop.remote.stream import chat_stream
from lynxstop.remote.stream_config import StreamConfig
from lynxstop.remote.tokens import CLOSED, StreamToken, statistics_of_top_k

CONCURRENT = 16
"""Default number of requests at a time."""

PAUSES = (0.1, 1.0, 5.0)
"""Seconds to wait before a request that the server broke off is sent again."""

_PASSING = ("upstream_died", "upstream_unreachable", "upstream_timeout")


@dataclass(slots=True)
class _Trace:
    opening: Opening
    session: StreamSession


class OpenAIEngine:
    """Generates through a server and watches its streams.

    Parameters
    ----------
    server : Server
    dialect : Dialect
    config : StreamConfig
        Its policy should hold a budget, so that a trace cut short answers too.
    model : str
        Name of the served model.
    tokenizer : StreamTokenizer
    concurrent : int
        Requests at a time.
    seeded : bool
        Whether requests carry a seed of their own; what that is worth depends on the server.
    extra : dict, optional
        Further parameters of every request.
    runner : asyncio.Runner, optional
        The event loop that the server's connection lives in; the engine closes it.
    closing : callable, optional
        Closes the connection.

    Notes
    -----
    There are no hidden states: `layers` is empty and `width` 0. Sampling happens in the server, so two
    recordings differ unless it is greedy or the server honours seeds.
    """

    id: ClassVar[str] = "openai"
    layers: tuple[int, ...] = ()
    width = 0
    exits_at_once = None

    def __init__(
        self,
        server: Server,
        dialect: Dialect,
        config: StreamConfig,
        model: str,
        tokenizer: StreamTokenizer,
        *,
        concurrent: int = CONCURRENT,
        seeded: bool = False,
        extra: dict[str, Any] | None = None,
        runner: asyncio.Runner | None = None,
        closing: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._server, self._dialect, self._config, self._model = server, dialect, config, model
        self._tokenizer, self._concurrent, self._seeded = tokenizer, concurrent, seeded
        self._extra = extra or {}
        self._traces: dict[str, _Trace] = {}
        self._runner = asyncio.Runner() if runner is None else runner
        self._closing = closing

    @property
    def policy(self) -> StopPolicy:
        """What may stop a request; it can be replaced."""
        return self._config.policy

    @policy.setter
    def policy(self, policy: StopPolicy) -> None:
        self._config = replace(self._config, policy=policy)

    def close(self) -> None:
        """Close the connection and end the event loop."""
        if self._closing is not None:
            self._runner.run(self._closing())
        self._runner.close()

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        record: bool = False,
    ) -> Iterator[Generation]:
        """Generate all requests, in the order in which they finish.

        Raises
        ------
        UpstreamError
            When the server fails, or shows no log-probabilities.
        """
        self._traces.clear()
        limit = asyncio.Semaphore(self._concurrent)
        jobs = [self._limited(limit, partial(self._generate, request, sampling)) for request in requests]
        yield from self._as_finished(jobs)
        self._tokenizer.forget()

    def force_exits(
        self,
        generations: Sequence[Generation],
        sampling: Sampling,
        cuts: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Answer]]:
        """Let the server answer after exits forced in traces of the last `generate`.

        Parameters
        ----------
        generations : sequence of Generation
        sampling : Sampling
        cuts : sequences of int, optional
            `seen_at` of the events to exit at, in order; all events by default.

        Raises
        ------
        DataError
            When a generation is not of the last `generate`, or a cut is not one of its events.
        """
        limit = asyncio.Semaphore(self._concurrent)
        jobs: list[Coroutine[Any, Any, tuple[int, int, Answer]]] = []
        answers: list[list[Answer | None]] = []
        for row, generation in enumerate(generations):
            trace = self._traces.get(generation.request.id)
            if trace is None:
                raise DataError(f"The trace {generation.request.id} is not of the last run.")
            wanted = None if cuts is None else cuts[row]
            ordinals = _ordinals(generation.events, wanted)
            answers.append([None] * len(ordinals))
            for place, ordinal in enumerate(ordinals):
                event = trace.session.session.events[ordinal]
                work = partial(self._answer, row, place, trace, event, sampling)
                jobs.append(self._limited(limit, work))
        for row, place, answer in self._as_finished(jobs):
            answers[row][place] = answer
        return [[answer for answer in found if answer is not None] for found in answers]

    async def _limited(self, limit: asyncio.Semaphore, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a job when there is room, and again when the server broke it off."""
        async with limit:
            for pause in PAUSES:
                try:
                    return await work()
                except UpstreamError as error:
                    if error.code not in _PASSING:
                        raise
                    await asyncio.sleep(pause)
            return await work()

    def _as_finished(self, jobs: Sequence[Coroutine[Any, Any, Any]]) -> Iterator[Any]:
        """Run coroutines concurrently and give their results as they come."""

        async def begin() -> set[asyncio.Task[Any]]:
            return {asyncio.ensure_future(job) for job in jobs}

        async def some(pending: set[asyncio.Task[Any]]) -> tuple[set[Any], set[Any]]:
            return await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)

        async def cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # also takes what several raised at once

        tasks = pending = self._runner.run(begin())
        try:
            while pending:
                done, pending = self._runner.run(some(pending))
                for task in done:
                    yield task.result()
        finally:
            self._runner.run(cancel(tasks))

    async def _generate(self, request: Request, sampling: Sampling) -> Generation:
        body = {
            **self._extra,
            "model": self._model,
            **self._tokenizer.request(request.prompt_ids),
            **self._dialect.neutral,
            **_parameters(sampling),
            "max_tokens": sampling.max_tokens,
        }
        if self._seeded:
            body["seed"] = _seed(sampling.seed, request.id)
        opening = await self._dialect.opening(self._server, body)
        session = StreamSession(
            self._config,
            risk=request.risk,
            mode=request.mode,
            group=request.group,
            served=Conditions.of(sampling),
            keep=True,
        )
        trace = self._traces[request.id] = _Trace(opening, session)
        truncation, finish = await self._read(trace, sampling)
        rest: list[StreamToken] = []
        if truncation is not None:
            rest, finish = await self._continue(trace, truncation, sampling)
        return self._generation(request, trace, truncation, rest, finish)

    async def _read(self, trace: _Trace, sampling: Sampling) -> tuple[TruncationPoint | None, str]:
        """Read a chat to its end, to an exit, or to the limit of the answer."""
        session, finish = trace.session, ""
        stream = chat_stream(self._server, self._dialect, trace.opening)
        async with stream as deltas:
            async for _, delta in deltas:
                _require_tokens(delta, lacks_tokens(session, delta))
                truncation = follow(session, delta)
                if truncation is not None:
                    return truncation, ""
                finish = delta.finish or finish
                if session.answered > sampling.answer_tokens or (
                    session.answered == sampling.answer_tokens and not finish
                ):
                    session.drop(session.answered - sampling.answer_tokens)
                    return None, "length"
        return None, "stop" if finish == "stop" else "length"

    async def _continue(
        self, trace: _Trace, truncation: TruncationPoint, sampling: Sampling
    ) -> tuple[list[StreamToken], str]:
        """Let the server answer after a truncation."""
        deltas, tokens, finish = await answer_after(
            self._server,
            self._dialect,
            trace.opening,
            trace.session,
            truncation,
            AnswerLimits(sampling.answer_tokens, TOP),
        )
        for delta in deltas:
            _require_tokens(delta, bool(delta.content) and not delta.tokens)
        return tokens, finish

    async def _answer(
        self, row: int, place: int, trace: _Trace, event: CueEvent, sampling: Sampling
    ) -> tuple[int, int, Answer]:
        tokens, finish = await self._continue(trace, trace.session.truncation_at(event), sampling)
        first = statistics_of_top_k([(tokens[0], tokens[0])], frozenset())[0].entropy if tokens else math.nan
        number = self._config.watch.vocabulary.number
        answer = Answer(
            tuple(number(token.text) for token in tokens),
            tuple(token.logprob for token in tokens),
            finish,
            first,
        )
        return row, place, answer

    def _generation(
        self,
        request: Request,
        trace: _Trace,
        truncation: TruncationPoint | None,
        rest: list[StreamToken],
        finish: str,
    ) -> Generation:
        """Put a trace together for the collector: marks as delimiters, the exit text as one token."""
        session, number = trace.session, self._config.watch.vocabulary.number
        core = session.session
        core.finish()
        closed = StreamToken(self._config.close[0].encode())
        read = session.tokens if truncation is None else session.tokens[: truncation.index]
        forced = [] if truncation is None else [StreamToken(self._config.exit_text.encode())]
        tokens = [*(closed if token is CLOSED else token for token in read), *forced, *rest]
        statistics = unknown(len(tokens))
        known = session.statistics()[: len(read)]
        statistics[: len(known)] = np.array(known, DTYPE).reshape(-1, WIDTH)
        flags = np.zeros(len(tokens), bool)
        flags[: len(read)] = session.thinking[: len(read)]
        events = core.events
        ids = [number(token.text) for token in tokens]
        logprobs = [token.logprob for token in tokens]
        generation = Generation(request, ids, int(flags.sum()), finish, events, core.exit, logprobs=logprobs)
        generation.features = np.zeros((len(events), 0), np.float32)
        generation.tokens = Tokens(np.array(ids, np.int32), flags, statistics)
        generation.signals = [
            Signals.at(events, number, statistics[event.index, :NEXT].tolist(), logprobs)
            for number, event in enumerate(events)
        ]
        generation.exit_positions = [session.truncation_at(event).thinking_tokens for event in events]
        generation.prompt_tokens = trace.opening.prompt_tokens
        return generation


def _ordinals(events: Sequence[CueEvent], cuts: Sequence[int] | None) -> list[int]:
    """Ordinals of events by their `seen_at`, in order."""
    if cuts is None:
        return list(range(len(events)))
    found = []
    rest = iter(enumerate(events))
    for place in cuts:
        ordinal = next((ordinal for ordinal, event in rest if event.seen_at == place), None)
        if ordinal is None:
            raise DataError(f"There is no event at token {place}.")
        found.append(ordinal)
    return found


def _parameters(sampling: Sampling) -> dict[str, Any]:
    found: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.top_k:
        found["top_k"] = sampling.top_k
    return found


def _seed(seed: int, request: str) -> int:
    return zlib.crc32(f"{seed}/{request}".encode()) & 0x7FFFFFFF


def _require_tokens(delta: Delta, blind: bool) -> None:
    if blind:
        raise UpstreamError(
            "The server streams text without log-probabilities, which collecting needs.",
            hint="See what it offers with `lynxstop doctor`, and switch log-probabilities on in the server.",
        )
    if delta.opaque:
        raise UpstreamError("The server streamed something that is not text, such as a tool call.")
