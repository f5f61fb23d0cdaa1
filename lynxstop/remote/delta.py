"""What one event of a stream adds to the answer, whatever kind of server wrote it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lynxstop.remote.tokens import StreamToken

Json = dict[str, Any]

REASONING_FIELDS = ("reasoning", "reasoning_content", "thinking")
"""Fields in which servers send thinking, in the order in which they are tried."""

_TEXTS = ("text", "content", *REASONING_FIELDS)


class Delta(NamedTuple):
    """One streamed event, read.

    Parameters
    ----------
    thinking, content : str
        Text that the server put into the field for thinking, or for the answer.
    tokens : sequence of StreamToken
        The tokens of these texts, as far as the server shows them.
    finish : str or None
        Why the answer ended, in the last event of a choice.
    usage : dict or None
    prompt_ids : sequence of int or None
        Tokens of the prompt, if the event has them.
    opaque : bool
        Whether the event holds something that is not handled here, such as a tool call.
    """

    thinking: str = ""
    content: str = ""
    tokens: Sequence[StreamToken] = ()
    finish: str | None = None
    usage: Json | None = None
    prompt_ids: Sequence[int] | None = None
    opaque: bool = False

    def checked(self) -> Delta:
        """Return itself, without a usage whose counts are none."""
        return self if self.usage is None or _counts(self.usage) else self._replace(usage=None)


def _counts(usage: Any) -> bool:
    if not isinstance(usage, Mapping):
        return False
    counts = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
    details = usage.get("completion_tokens_details")
    return (not details or isinstance(details, Mapping)) and all(
        count is None or (isinstance(count, int | float) and 0 <= count < math.inf) for count in counts
    )


def in_usual_form(event: Json) -> Json:
    """Write what an event says in the usual form, in place, whatever it is: its choices, and their texts.

    A choice that is not an object says nothing. A `delta` that is none is the content, and a number in place
    of a text is the text of that number.
    """
    if not (choices := event.get("choices")):
        return event
    event["choices"] = choices = [
        choice for choice in (choices if isinstance(choices, list) else ()) if isinstance(choice, dict)
    ]
    for choice in choices:
        said = choice.get("delta")
        if said and not isinstance(said, dict):
            choice["delta"] = said = {"content": said}
        for part in (choice, said or {}):
            for name in _TEXTS:
                if type(part.get(name)) in (int, float):
                    part[name] = json.dumps(part[name])
    return event


def reasoning_field(said: Mapping[str, Any]) -> str | None:
    """Return the field of an event's `delta` that has thinking; None when no field has any."""
    return next((name for name in REASONING_FIELDS if said.get(name)), None)
