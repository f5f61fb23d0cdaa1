"""Tool calls in the pieces in which a stream has them: which call each piece belongs to."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Json = dict[str, Any]


class CallPiece(NamedTuple):
    """What a stream adds to a call.

    Parameters
    ----------
    number : int
        Of the call, in the order of their first pieces.
    opens : bool
        Whether this is the first that is reported of the call; its id and name are known by then.
    id, name : str
    arguments : str
        What is added to them.
    """

    number: int
    opens: bool
    id: str
    name: str
    arguments: str


class CallReader:
    """Reads the calls of one answer, of which some servers send the pieces in odd orders.

    A call is reported once its id and its name are known, or its arguments have begun; in any case before the
    next call, and at the end. One that never got an id is given one.
    """

    def __init__(self) -> None:
        self._calls: list[Json] = []
        self._told: list[CallPiece] = []

    def read(self, delta: Mapping[str, Any]) -> Iterator[CallPiece]:
        """Return what an event's `delta` adds to calls."""
        for part in pieces(delta):
            call = call_of(self._calls, part)
            if call is None:
                yield from self.end()
                self._calls.append({"index": part.get("index"), "function": {"arguments": ""}})
                call = self._calls[-1]
            number = next(place for place, known in enumerate(self._calls) if known is call)
            function, said = call["function"], function_of(part)
            call["id"] = call.get("id") or part.get("id")
            function["name"] = function.get("name") or said.get("name")
            function["arguments"] += (more := arguments_of(said))
            if number < len(self._told):
                if more:
                    yield self._told[number]._replace(opens=False, arguments=more)
            elif function["name"] and (call["id"] or more):
                yield from self.end()

    def end(self) -> Iterator[CallPiece]:
        """Return the last call, if it has not been told yet."""
        for number in range(len(self._told), len(self._calls)):
            call = self._calls[number]
            name, arguments = call["function"].get("name"), call["function"]["arguments"]
            id = str(call["id"] or f"call_{uuid.uuid4().hex}")
            self._told.append(CallPiece(number, True, id, str(name or ""), arguments))
            yield self._told[-1]


def pieces(delta: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give the pieces of calls in an event's `delta`; the older `function_call` is one, too."""
    found = delta.get("tool_calls")
    for part in found if isinstance(found, list) else [found]:
        if isinstance(part, Mapping):
            yield part
    if isinstance(older := delta.get("function_call"), Mapping):
        yield {"index": 0, "function": older}


def call_of(calls: Sequence[Json], part: Mapping[str, Any]) -> Json | None:
    """Return the call that a piece continues; None where it begins another.

    A call is known by its index, or is the last where a server gives none. At the same index, another id or
    name begins another call, and so does a name when the arguments so far are whole.
    """
    place = part.get("index")
    known = [call for call in calls if place is None or call.get("index") in (None, place)]
    if not known:
        return None
    call, said = known[-1], function_of(part)
    if part.get("id") and call.get("id"):
        return call if part["id"] == call["id"] else None
    name, before = said.get("name"), call["function"].get("name")
    if not name or not before or (name == before and not whole(call["function"].get("arguments"))):
        return call
    repeated = name == before and place is not None and not said.get("arguments")
    return call if repeated else None


def whole(arguments: Any) -> bool:
    """Whether the arguments of a call are complete JSON."""
    if not isinstance(arguments, str):
        return bool(arguments)
    try:
        json.loads(arguments)
    except ValueError:
        return False
    return True


def arguments_of(function: Mapping[str, Any]) -> str:
    """Return what a piece of a call adds to its arguments."""
    said = function.get("arguments") or ""
    return said if isinstance(said, str) else json.dumps(said)


def function_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a piece says of the function that is called."""
    said = part.get("function")
    return said if isinstance(said, Mapping) else {}
