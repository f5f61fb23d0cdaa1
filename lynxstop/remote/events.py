"""The events of one stream, read by what a dialect makes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Protocol

import orjson

from lynxstop.errors import UpstreamError
from lynxstop.remote.delta import Delta, Json, in_usual_form
from lynxstop.remote.fast_path import parse_json, parse_without_logprobs
from lynxstop.remote.http.sse import DONE, Bursts
from lynxstop.remote.server_error import StreamedError, error_in

Deltas = AsyncIterator[tuple[Json, Delta]]
"""Events, parsed, and what they add to the answer."""

ClientEvent = Json | bytes
"""An event for a client: parsed, or written already."""


def as_json(event: ClientEvent) -> Json:
    """Return an event parsed."""
    return orjson.loads(event) if isinstance(event, bytes) else event


class Prompt(Protocol):
    """What a stream tells of its prompt: the tokens, or how many they are."""

    prompt_ids: Sequence[int] | None
    counted: int | None


class Reading:
    """Reads the events of one stream, in the bursts in which they come; the stream must come to its end.

    Parameters
    ----------
    read : callable
        Reads an event, as a dialect does.
    prompt : Prompt, optional
        Gets the tokens of the prompt when the server shows them.
    whole : bool
        Whether log-probabilities are parsed as they come, so that they can be shown; else they are
        `lynxstop.remote.fast_path.RawLogprobs` where possible.
    """

    def __init__(
        self, read: Callable[[Json], Delta], prompt: Prompt | None = None, *, whole: bool = True
    ) -> None:
        self._read, self._prompt, self._whole = read, prompt, whole
        self._ended = False

    def event(self, data: bytes) -> tuple[Json, Delta] | None:
        """Read an event; None for the final `[DONE]`, and for one that says nothing, such as `null`.

        After the end of the answer, what is not JSON says nothing either: the rest of a stream that is cut.

        Raises
        ------
        StreamedError
            When it is an error.
        UpstreamError
            When it is not JSON, or has an unknown form.
        """
        data = data.strip()
        if not data or data == DONE:
            self._ended = self._ended or bool(data)
            return None
        try:
            event = (None if self._whole else parse_without_logprobs(data)) or parse_json(data)
        except UpstreamError:
            if self._ended:
                return None
            raise
        if (said := error_in(event)) is not None:
            raise StreamedError(said)
        if not isinstance(event, dict):
            return None
        try:
            delta = self._read(in_usual_form(event)).checked()
        except (AttributeError, LookupError, TypeError, ValueError):
            raise UpstreamError(
                "The server streamed an event of unknown form.", code="upstream_nonsense"
            ) from None
        if delta.finish:
            self._ended = True
        if self._prompt is not None:
            if delta.prompt_ids:
                self._prompt.prompt_ids = delta.prompt_ids
            if delta.usage:
                self._prompt.counted = delta.usage.get("prompt_tokens")
        return event, delta

    def burst(self, events: Iterable[bytes]) -> Iterator[tuple[Json, Delta]]:
        """Read events that came together.

        Raises
        ------
        UpstreamError
            As `event` does; those before it have then been given.
        """
        for data in events:
            if (found := self.event(data)) is not None:
                yield found

    def end(self) -> None:
        """Check that the stream is complete.

        Raises
        ------
        UpstreamError
            When the answer has not ended.
        """
        if not self._ended:
            raise UpstreamError("The server broke off the answer.", code="upstream_died")

    async def all(self, bursts: Bursts) -> Deltas:
        """Read a whole stream, event by event.

        Raises
        ------
        UpstreamError
            As `burst` and `end` do.
        """
        async for burst in bursts:
            for pair in self.burst(burst):
                yield pair
        self.end()
