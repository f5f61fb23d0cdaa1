"""Parse an event without its log-probabilities: they are most of its bytes, and needed later, or never.

An event with 20 alternatives per token is thirty times as long as its text. The log-probabilities are kept as
the server wrote them, and parsed later together with those of other tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from lynxstop.errors import UpstreamError
from lynxstop.remote.tokens import StreamToken

Json = dict[str, Any]

BEGIN = b'"logprobs":{"content":['
"""What precedes them. A JSON string cannot hold it: there, quotation marks have a backslash before them."""

END = b"}]}]}"
"""The end of the last of them and of what they are in; this can be inside a string."""

EACH = b'"top_logprobs":'
"""What every entry has once; like the first it cannot be inside a string."""
_NAME = len(b'"logprobs":')

LOST = "\ufffd"
"""Replaces bytes that are not UTF-8; only the list of log-probabilities has the bytes themselves."""

_TOKEN = re.compile(rb'\{(?:"id":(\d+),)?"token":("(?:[^"\\]|\\.)*"),')


class RawLogprobs(NamedTuple):
    """A list of log-probabilities in the form of chats, without its brackets, as the server wrote it."""

    raw: bytes

    def only(self, text: str, ids: Sequence[int] | None) -> StreamToken | None:
        """Return the token if there is exactly one and its text is `text`, so that its bytes are known.

        Parameters
        ----------
        text : str
            The text of the event.
        ids : sequence of int, optional
            Token ids that the event has outside the list.
        """
        raw = self.raw
        found = _TOKEN.match(raw)
        if found is None or raw.count(EACH) != 1 or LOST in text:
            return None
        own, token = found.groups()
        if orjson.loads(token) != text:
            return None
        if ids and len(ids) == 1:
            return StreamToken(text.encode(), id=ids[0], entry=raw)
        return StreamToken(text.encode(), id=None if own is None else int(own), entry=raw)

    def parsed(self) -> list[Json]:
        """Return the list.

        Raises
        ------
        UpstreamError
            When it is not JSON.
        """
        return list(parse_json(b"[%b]" % self.raw))


def parse_json(data: bytes) -> Any:
    """Parse JSON that a server sent, also with NaN, Infinity or half of a surrogate pair, as Python does.

    Raises
    ------
    UpstreamError
        When it is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError):
        raise UpstreamError(
            "The server streamed an event that is no JSON object.", code="upstream_nonsense"
        ) from None


def parse_without_logprobs(data: bytes) -> Json | None:
    """Parse an event, with `RawLogprobs` for the log-probabilities of its first choice.

    Returns
    -------
    dict or None
        None when they are missing, or not in the usual form.
    """
    begin = data.find(BEGIN)
    end = data.find(END, begin) if begin > 0 else -1
    if end < 0:
        return None
    try:
        event: Json = orjson.loads(b"%bnull%b" % (data[: begin + _NAME], data[end + len(END) :]))
        choice = event["choices"][0]
        if choice["logprobs"] is not None:
            return None
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    choice["logprobs"] = RawLogprobs(data[begin + len(BEGIN) : end + 3])
    return event
