"""The promise as one sentence, and what it does not say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lynxstop.calibration.case import Promise
from lynxstop.calibration.losses import Loss
from lynxstop.calibration.units import Unit

NOT_PROMISED = (
    "Not promised: anything about one given request, another mix of prompts, or a changed model, tokenizer, "
    "chat template, quantisation, engine or sampling."
)


@dataclass(frozen=True)
class Weighing:
    """The mix of prompts that weights stand for.

    Parameters
    ----------
    effective, floor : float
        How many unweighted problems the weighted ones are worth, and how many it takes.
    limit : float
        Largest weight that the promise covers.
    share : float
        Observed loss under the weights.
    """

    effective: float
    floor: float
    limit: float
    share: float


@dataclass(frozen=True)
class Unknown:
    """Exit answers that could not be judged, and count less than a loss of 1.

    Parameters
    ----------
    charge : float
        Loss that each counts as.
    answers, cues : int
        How many of how many.
    exits : float
        Of those that the threshold exits at.
    """

    charge: float
    answers: int
    cues: int
    exits: float


def sentence(
    loss: Loss,
    kind: Promise,
    *,
    risk: float,
    confidence: float,
    tests: int,
    tried: int,
    grows: bool,
    problems: int,
    drawn_from: int,
    unit: Unit,
    observed: float,
    of: int,
    saved: float | None,
    created: datetime,
    group: str | None,
    fractions: bool,
    refused: bool,
    weighing: Weighing | None = None,
    unknown: Unknown | None = None,
    repeated: int = 0,
    at: str | None = None,
    apart: str | None = None,
    expires: datetime | None = None,
) -> str:
    """Say what a certificate promises.

    Parameters
    ----------
    problems, drawn_from : int
        Problems that count, and those that they were drawn from, by their number of requests.
    unit : {"request", "problem"}
        What is counted.
    observed, of
        Losses of first exits, and among how many units.
    tests : int
        Promises that hold together.
    tried : int
        What the certified rule, seed or loss was chosen among.
    grows : bool
        Whether it holds at all looks at growing data.
    weighing : Weighing, optional
        When requests are weighted.
    unknown : Unknown, optional
        When an exit answer that could not be judged counts less than a loss of 1.
    repeated : int
        Problem ids whose prompt an earlier one has.
    at : str, optional
        How the requests are sampled, where several samplings were certified.
    apart : str, optional
        Whose promises were made beside this one that do not hold together with it.
    expires : datetime, optional
        When it ends.
    """
    whose = (f" of group {group!r}" if group else "") + (f" at {at}" if at else "")
    drawn = "" if drawn_from == problems else f", drawn from {drawn_from} by their number of requests"
    basis = f"Calibrated on {problems} problems{whose}{drawn} ({created:%Y-%m-%d})."
    basis += _REPEATED.get(
        repeated, f" {repeated} problem ids repeat prompts of others and count as the same."
    )
    charged = "" if unknown is None else f" {_unknown(unknown)}"
    if refused:
        why = ""
        if weighing is not None and weighing.effective < weighing.floor:
            why = (
                f" The weights leave what {weighing.effective:.3g} unweighted problems are worth, "
                f"and {weighing.floor:g} are needed."
            )
        return f"{basis} No threshold could be certified at risk {risk:.4g}: requests think to the end.{why}"
    requests = _population(unit, whose, weighing)
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
    if kind == "confidence" and apart:
        how += f", though not together with those of other {apart}"
    if kind == "confidence" and tried > 1:
        how += f", for the best of {tried} that were tried"
    if grows:
        how += ", however often problems are added and looked at"
    seen = f"Observed {observed:.6g}/{of}"
    if weighing is not None:
        seen += f", which is {_percent(weighing.share)} by weight"
    tokens = f"; {_percent(saved)} of thinking tokens saved" if saved is not None else ""
    return f"{basis} {how}, {what}. {seen}{tokens}.{charged}{until(expires)}"


def until(expires: datetime | None) -> str:
    """Say when a promise ends, as its last sentence; empty when it does not."""
    return "" if expires is None else f" Valid until {expires.isoformat(timespec='minutes')}."


_REPEATED = {0: "", 1: " 1 problem id repeats the prompt of another and counts as the same."}


def _population(unit: Unit, whose: str, weighing: Weighing | None) -> str:
    if unit == "problem":
        requests = f"problems drawn like these{whose}, each asked once,"
    else:
        requests = f"requests drawn like these{whose}"
    if weighing is None:
        return requests
    return (
        f"{requests.removesuffix(',')}, but in the mix that the weights stand for "
        f"(none above {weighing.limit:.4g}),"
    )


def _unknown(unknown: Unknown) -> str:
    return (
        f"{unknown.answers} of {unknown.cues} exit answers could not be judged and count as a loss of "
        f"{unknown.charge:.4g} each, {unknown.exits:.6g} of them at exits: the true loss may be higher."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
