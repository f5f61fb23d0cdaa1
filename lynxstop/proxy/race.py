"""The first of several samples answers; the others are aborted, and their cost is reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from lynxstop.errors import LynxstopError, RequestError
from lynxstop.proxy.sample import AnswerSource
from lynxstop.remote.dialects.base import NAMES
from lynxstop.remote.events import ClientEvent, as_json
from lynxstop.remote.http.upstream import LOST

Json = dict[str, Any]


class Race:
    """Samples that run at the same time; nothing goes to the client before the winner is known.

    The first sample to finish with a stop wins. One that ends at its token limit wins only when none does;
    one that fails drops out, and the race fails when all have failed.

    Parameters
    ----------
    sources : sequence of AnswerSource
        Not begun yet.

    Attributes
    ----------
    winner : int or None
    """

    def __init__(self, sources: Sequence[AnswerSource]) -> None:
        self._sources = sources
        self.winner: int | None = None

    @property
    def usage(self) -> Json | None:
        """That of the winner; what the others cost is in the report."""
        return None if self.winner is None else self._sources[self.winner].usage

    @property
    def upstream_tokens(self) -> int:
        """Tokens of all samples."""
        return sum(source.upstream_tokens for source in self._sources)

    async def bursts(self) -> AsyncGenerator[list[ClientEvent]]:
        """Give the winner's events in one burst, the report of the race in the last.

        Raises
        ------
        LynxstopError
            When all samples fail: what the first of them failed with.
        """
        events = await self._run()
        if events:
            report = {**(events[-1].get("lynxstop") or {}), "race": self._report()}
            if "certificate" in report:
                # The first to finish is not a draw like those it was calibrated on.
                report["certificate"] = None
            events[-1] = {**events[-1], "lynxstop": report}
            yield list(events)

    async def _run(self) -> list[Json]:
        tasks = [asyncio.create_task(_collect(source)) for source in self._sources]
        pending = set(tasks)
        try:
            while pending and self.winner is None:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                self.winner = _first(tasks, stopped=True)
        finally:
            # When the client goes, this task is cancelled while it waits, and they all end.
            for task in pending:
                task.cancel(LOST if self.winner is not None else None)
            await asyncio.gather(*tasks, return_exceptions=True)
        if self.winner is None:
            self.winner = _first(tasks, stopped=False)
        return tasks[self.winner or 0].result()

    def _report(self) -> Json:
        tokens = [source.upstream_tokens for source in self._sources]
        return {"n": len(tokens), "winner": self.winner, "tokens": tokens, "total_tokens": sum(tokens)}


def seeded(body: Mapping[str, Any], place: int) -> Mapping[str, Any]:
    """Return a sample's request: a seed that the client gave is counted up, so that samples differ.

    Only the first has the name that the client gave its request.
    """
    if place:
        body = {name: value for name, value in body.items() if name not in NAMES}
    seed = body.get("seed")
    return {**body, "seed": seed + place} if type(seed) is int and place else body


def check(body: Mapping[str, Any], race: int) -> None:
    """Refuse a race of requests for several answers.

    Raises
    ------
    RequestError
    """
    if race > 1 and any(body.get(name) not in (None, 1) for name in ("n", "best_of")):
        raise RequestError(
            "lynxstop.race and n exclude each other.",
            code="bad_lynxstop",
            hint="A race has one answer; leave n out.",
        )


async def _collect(source: AnswerSource) -> list[Json]:
    async with aclosing(source.bursts()) as bursts:
        return [as_json(event) async for burst in bursts for event in burst]


def _first(tasks: Sequence[asyncio.Task[list[Json]]], *, stopped: bool) -> int | None:
    """Return the first task that has an answer; `stopped` wants one that did not reach its limit."""
    for place, task in enumerate(tasks):
        if not task.done() or task.cancelled():
            continue
        if (error := task.exception()) is not None:
            if not isinstance(error, LynxstopError):
                raise error
        elif not stopped or "length" not in _finishes(task.result()):
            return place
    return None


def _finishes(events: Sequence[Json]) -> set[str]:
    return {str(choice.get("finish_reason")) for event in events for choice in event.get("choices") or ()}
