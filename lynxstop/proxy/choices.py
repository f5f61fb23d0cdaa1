"""Several choices of one request: each a request of its own, watched by itself, in one answer.

An exit closes the stream of its request, which would end the other choices too, so each choice has a stream.
vLLM does the same inside: it runs `n` choices as `n` requests, with seeds that count up from the one given.
Their prompt is computed once, by its prefix cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from lynxstop.proxy.request_options import KEY
from lynxstop.proxy.sample import AnswerSource
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.events import ClientEvent, as_json
from lynxstop.remote.report import with_exit

Json = dict[str, Any]

MOST = 16
"""Choices of a watched request; each takes a connection."""


def splits(body: Mapping[str, Any], dialect: Dialect | None) -> int:
    """Return how many requests for one choice do the same as a request; 1 where that is not so.

    Parameters
    ----------
    body : dict
        With the sampling that the server gets.
    dialect : Dialect or None
    """
    count = body.get("n")
    # At temperature 0 vLLM refuses several choices, and says so itself.
    able = dialect is not None and dialect.facts.splits_choices and body.get("temperature") != 0
    return count if able and type(count) is int and 1 < count <= MOST else 1


class Choices:
    """The answers of several sources as the choices of one, in the order in which their events arrive.

    Parameters
    ----------
    sources : sequence of AnswerSource
        One for each choice, not begun yet.
    """

    def __init__(self, sources: Sequence[AnswerSource]) -> None:
        self._sources = sources
        self._reports: list[Json] = [{} for _ in sources]
        self._base: Json = {}
        self._ending: Json | None = None
        self._held: list[ClientEvent] = []
        self._begun = False

    @property
    def usage(self) -> Json | None:
        """The prompt once, and what all choices have generated."""
        return summed([source.usage for source in self._sources if source.usage is not None])

    @property
    def upstream_tokens(self) -> int:
        """Tokens of all choices."""
        return sum(source.upstream_tokens for source in self._sources)

    async def bursts(self) -> AsyncGenerator[list[ClientEvent]]:
        """Give the events of all choices as they arrive; the last has the usage and the reports.

        Raises
        ------
        LynxstopError
            When one of the sources fails; the others are ended.
        """
        generators = [source.bursts() for source in self._sources]
        coming = {asyncio.ensure_future(anext(one, None)): place for place, one in enumerate(generators)}
        try:
            while coming:
                arrived, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(arrived, key=lambda one: coming[one]):
                    place, burst = coming.pop(task), task.result()
                    if burst is None:
                        continue
                    coming[asyncio.ensure_future(anext(generators[place], None))] = place
                    events = [self._of(place, as_json(one)) for one in burst]
                    given = self._after_the_first(place, [event for event in events if event is not None])
                    if given or not burst:
                        yield given
        finally:
            for task in coming:
                task.cancel()
            await asyncio.gather(*coming, return_exceptions=True)
            for one in generators:
                await one.aclose()
        if self._held:
            yield list(self._held)
        if self._ending is not None:
            yield [self._last(self._ending)]

    def _after_the_first(self, place: int, events: list[ClientEvent]) -> list[ClientEvent]:
        """Return what may go out: nothing before the first choice, with which OpenAI's client begins."""
        self._begun = self._begun or (place == 0 and bool(events))
        given, self._held = (events + self._held, []) if self._begun else ([], self._held + events)
        return given

    def _of(self, place: int, event: Json) -> Json | None:
        """Return an event as one of a choice; None where it waits for those of the other choices."""
        self._base = self._base or {name: event[name] for name in ("id", "created") if name in event}
        event = {**event, **self._base}
        for choice in event.get("choices") or ():
            choice["index"] = place
        report = event.pop("lynxstop", None)
        if report is None:
            return event
        # The last event of this choice: usage, or the finish where the client wants no usage.
        self._reports[place] = report
        before, self._ending = self._ending, event
        return before if before and before.get("choices") else None

    def _last(self, event: Json) -> Json:
        report = {"choices": self._reports}
        if event.get("choices") or (usage := self.usage) is None:
            return {**event, "lynxstop": report}
        exits = [one for one in self._reports if one.get("stopped")]
        saved = sum(one.get("saved_estimate") or 0 for one in exits)
        shown = {**exits[0], "saved_estimate": saved} if exits else {}
        return {**event, "usage": with_exit(usage, shown), "lynxstop": report}


def summed(usages: Sequence[Mapping[str, Any]]) -> Json | None:
    """Add up the usage of several choices of one prompt; None for none."""
    if not usages:
        return None
    prompt = usages[0].get("prompt_tokens") or 0
    completion = sum(usage.get("completion_tokens") or 0 for usage in usages)
    found = {**usages[0], "completion_tokens": completion, "total_tokens": prompt + completion}
    details: Json = {}
    for usage in usages:
        for name, count in (usage.get("completion_tokens_details") or {}).items():
            details[name] = (details.get(name) or 0) + count if isinstance(count, int) else count
    return {**found, "completion_tokens_details": details} if details else found


class Document(Protocol):
    """An answer in one piece, made of events as they arrive."""

    def add(self, event: Json) -> None:
        """Take in the next event."""

    def whole(self) -> Json:
        """Return the answer, once all events are in."""


class JoinedChoices:
    """One document of those of several choices; the last of each key that they share counts.

    Parameters
    ----------
    documents : sequence of Document
        One for each choice.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents
        self._rest: Json = {}

    def add(self, event: Json) -> None:
        """Take in an event: for the choice that it is of, or beside them."""
        choices = event.get("choices")
        for choice in choices or ():
            self._documents[choice["index"]].add(event)
        if not choices:
            self._rest |= {name: value for name, value in event.items() if name in ("usage", KEY)}

    def whole(self) -> Json:
        """Return the document with all choices."""
        answer: Json = {}
        choices: list[Json] = []
        for place, document in enumerate(self._documents):
            one = document.whole()
            answer |= one
            choices.append({**one["choices"][0], "index": place})
        return {**answer, "choices": choices, **self._rest}
