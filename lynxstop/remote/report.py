"""The report on a request: the exit, the score and threshold that led to it, and what it saved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from lynxstop.core.exits import Exit


def report(
    taken: Exit | None,
    thinking: int | None,
    *,
    stopped: bool,
    saved_share: float | None,
    certificate: str | None,
    departures: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the `lynxstop` object of an answer.

    Parameters
    ----------
    taken : Exit or None
    thinking : int or None
        Thinking tokens; None where they are not known.
    stopped : bool
        Whether the exit was taken; in shadow mode it is only decided.
    saved_share : float or None
        Share of the thinking tokens that the certified level saved on its calibration problems.
    certificate : str or None
        Name of the certificate that the level has.
    departures : sequence of str
        What of the request lies outside the certified conditions, where the certificate does not hold.
    """
    found: dict[str, Any] = {
        "exit": None,
        "stopped": stopped,
        "thinking_tokens": thinking,
        "certificate": None if departures else certificate,
    }
    if departures:
        found["departures"] = list(departures)
    if taken is not None:
        found["exit"] = str(taken.reason)
        if not taken.certified:
            found["certificate"] = None
        found["cue"] = taken.cue if taken.cue >= 0 else None
        found["score"] = _finite(taken.score)
        found["threshold"] = _finite(taken.threshold)
        if saved_share is not None and saved_share < 1 and thinking is not None:
            found["saved_estimate"] = round(thinking * saved_share / (1 - saved_share))
    return found


def as_headers(shown: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """Write parts of a report as headers: text as it is, all else as JSON; what is None is left out."""
    return [
        (
            f"x-lynxstop-{name.replace('_', '-')}".encode(),
            value.encode() if isinstance(value, str) else orjson.dumps(value),
        )
        for name, value in shown.items()
        if value is not None
    ]


def with_exit(usage: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage with the exit in its details, where clients keep it that drop keys they do not know.

    Parameters
    ----------
    usage : dict
    found : dict
        A report; without an exit that was taken nothing is added.
    """
    if not found.get("stopped"):
        return dict(usage)
    shown = {"lynxstop_exit": found["exit"], "lynxstop_saved": found.get("saved_estimate")}
    details = {**(usage.get("completion_tokens_details") or {}), **_set(shown)}
    return {**usage, "completion_tokens_details": details}


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
