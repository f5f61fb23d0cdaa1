"""The report on a request: the exit, the score and threshold that led to it, and what it saved."""

from __future__ import annotations

import math
from typing import Any

from lynxstop.remote.session import StreamSession


def report(
    session: StreamSession,
    *,
    stopped: bool,
    saved_share: float | None,
    certificate: str | None,
) -> dict[str, Any]:
    """Write the `lynxstop` object of an answer.

    Parameters
    ----------
    session : StreamSession
    stopped : bool
        Whether the exit was taken; in shadow mode it is only decided.
    saved_share : float or None
        Share of the thinking tokens that the certified level saved on its calibration problems.
    certificate : str or None
        Name of the certificate that the level has.
    """
    taken, truncation = session.session.exit, session.truncation
    thinking = sum(session.thinking) if truncation is None else truncation.thinking_tokens
    found: dict[str, Any] = {
        "exit": None,
        "stopped": stopped,
        "thinking_tokens": thinking,
        "certificate": certificate,
    }
    if taken is not None:
        found["exit"] = str(taken.reason)
        if not taken.certified:
            found["certificate"] = None
        found["cue"] = taken.cue if taken.cue >= 0 else None
        found["score"] = _finite(taken.score)
        found["threshold"] = _finite(taken.threshold)
        if saved_share is not None and saved_share < 1:
            found["saved_estimate"] = round(thinking * saved_share / (1 - saved_share))
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
