"""The promise as one sentence, and what it does not say."""

from __future__ import annotations

from datetime import datetime

from lynxstop.calibration.case import Promise
from lynxstop.calibration.losses import Loss

NOT_PROMISED = (
    "Not promised: anything about one given request, another mix of prompts, or a changed model, tokenizer, "
    "chat template, quantisation, engine or sampling."
)


def sentence(
    loss: Loss,
    kind: Promise,
    *,
    risk: float,
    confidence: float,
    tests: int,
    problems: int,
    observed: float,
    of: int,
    saved: float | None,
    created: datetime,
    group: str | None,
    fractions: bool,
    refused: bool,
) -> str:
    """Say what a certificate promises.

    Parameters
    ----------
    observed, of
        Losses of first exits, and among how many units.
    tests : int
        Promises that hold together.
    """
    whose = f" of group {group!r}" if group else ""
    basis = f"Calibrated on {problems} problems{whose} ({created:%Y-%m-%d})."
    if refused:
        return f"{basis} No threshold could be certified at risk {risk:.4g}: requests think to the end."
    requests = f"requests drawn like these{whose}"
    if kind == "cue":
        what = (
            f"at most {_percent(risk)} of the cues whose exit answer is bad are exited at: "
            "a promise per cue, not per request"
        )
    elif loss.selective:
        what = f"of the {requests} that are stopped early, at most {_percent(risk)} {loss.phrase}"
    elif fractions:
        what = f"the mean loss {loss.name!r} of {requests} is at most {risk:.4g}"
    else:
        what = f"at most {_percent(risk)} of {requests} {loss.phrase}"
    how = f"With confidence {_percent(confidence)}"
    if kind != "confidence":
        how = "On average over calibration sets"
    elif tests > 1:
        how += f", together with {tests - 1} other{'s' if tests > 2 else ''}"
    tokens = f"; {_percent(saved)} of thinking tokens saved" if saved is not None else ""
    return f"{basis} {how}, {what}. Observed {observed:.6g}/{of}{tokens}."


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
