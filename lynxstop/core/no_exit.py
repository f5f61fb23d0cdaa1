"""Requests that no exit can serve as the client meant them: they think to the end, in every way in.

A certificate says nothing about these, and neither does the operator's choice for uncertified requests: the
exit itself would break what was asked for.

- `min_tokens` keeps the model from ending its text. After an exit it would answer, and then have to go on
  with something of its own making.
- A stop string, or a stop token, that the exit's own text completes would end the request inside that text.
  Servers look for stop strings in thinking and answer alike; where the model completes one, that is left as
  it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

SETTINGS = ("min_tokens", "stop", "stop_token_ids")
"""Names of everything that `why_no_exit` looks at."""


def why_no_exit(given: Mapping[str, Any], exit_text: str, exit_ids: Collection[int] = ()) -> str | None:
    """Return the setting of a request that no exit goes together with; None where there is none.

    Parameters
    ----------
    given : mapping
        Settings as OpenAI's and vLLM's interfaces name them; values of the wrong kind count as not given.
    exit_text : str
        What an exit writes into the output.
    exit_ids : collection of int
        Its tokens.

    Examples
    --------
    >>> why_no_exit({"min_tokens": 200, "stop": ["Q:"]}, "</think>")
    'min_tokens'
    >>> why_no_exit({"stop": "thought.</"}, "</think>")
    'stop'
    """
    least = given.get("min_tokens")
    if isinstance(least, int) and least > 0:
        return "min_tokens"
    stops, ids = given.get("stop"), given.get("stop_token_ids")
    shown = [stops] if isinstance(stops, str) else _list(stops)
    if any(completes(exit_text, one) for one in shown if isinstance(one, str) and one):
        return "stop"
    return "stop" if any(one in exit_ids for one in _list(ids) if isinstance(one, int)) else None


def completes(exit_text: str, stop: str) -> bool:
    """Say whether a stop string can end inside an exit's text, whatever was written before it."""
    return stop in exit_text or any(
        stop.endswith(exit_text[:end]) for end in range(1, min(len(stop), len(exit_text) + 1))
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
