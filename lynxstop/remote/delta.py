"""What one event of a stream adds to the answer, whatever kind of server wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lynxstop.remote.tokens import StreamToken

Json = dict[str, Any]

REASONING_FIELDS = ("reasoning", "reasoning_content", "thinking")
"""Fields in which servers send thinking, in the order in which they are tried."""


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
        """Return itself.

        Raises
        ------
        TypeError
            When the usage has counts that are none.
        """
        if self.usage is not None:
            for name in ("prompt_tokens", "completion_tokens"):
                count = self.usage.get(name)
                if count is not None and (not isinstance(count, int | float) or count < 0):
                    raise TypeError
        return self


def reasoning_field(said: Mapping[str, Any]) -> str | None:
    """Return the field of an event's `delta` that has thinking; None when no field has any."""
    return next((name for name in REASONING_FIELDS if said.get(name)), None)
