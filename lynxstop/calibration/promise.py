"""The promise as one sentence, and what it does not say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lynxstop.calibration.case import Method
from lynxstop.calibration.certificate import Claim, Settings
from lynxstop.calibration.losses import table_loss
from lynxstop.calibration.units import Units

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
    claim: Claim,
    method: Method,
    units: Units,
    *,
    observed: float,
    of: int,
    saved: float | None,
    fractions: bool,
    refused: bool,
    repeated: int,
    weighing: Weighing | None,
    unknown: Unknown | None,
) -> str:
    """Say what a certificate promises.

    Parameters
    ----------
    claim : Claim
    method : Method
    units : Units
        What was counted.
    observed, of
        Losses of first exits, and among how many units.
    saved : float, optional
        Share of thinking tokens saved.
    fractions : bool
        Whether a loss lies between 0 and 1.
    refused : bool
        Whether nothing could be certified.
    repeated : int
        Problem ids whose prompt an earlier one has.
    weighing : Weighing, optional
        When requests are weighted.
    unknown : Unknown, optional
        When an exit answer that could not be judged counts less than a loss of 1.
    """
    risk, loss, at = claim.risk, table_loss(claim.loss), claim.at
    whose = (f" of group {claim.group.value!r}" if claim.group else "") + (f" at {at}" if at else "")
    drawn = (
        "" if units.problems == units.count else f", drawn from {units.problems} by their number of requests"
    )
    basis = f"Calibrated on {units.count} problems{whose}{drawn} ({claim.created:%Y-%m-%d})."
    basis += _REPEATED.get(
        repeated, f" {repeated} problem ids repeat prompts of others and count as the same."
    )
    if refused:
        why = ""
        if weighing is not None and weighing.effective < weighing.floor:
            why = (
                f" The weights leave what {weighing.effective:.3g} unweighted problems are worth, "
                f"and {weighing.floor:g} are needed."
            )
        return f"{basis} No threshold could be certified at risk {risk:g}: requests think to the end.{why}"
    requests = _population(claim.settings, whose, weighing)
    if method.promise == "cue":
        what = (
            f"at most {_level(risk)} of the cues whose exit answer is bad are exited at: "
            "a promise per cue, not per request"
        )
    elif loss.selective:
        what = f"of the {requests} that are stopped early, at most {_level(risk)} {loss.phrase}"
    elif fractions:
        what = f"the mean loss {loss.name!r} of {requests} is at most {risk:g}"
    else:
        what = f"at most {_level(risk)} of {requests} {loss.phrase}"
    seen = f"Observed {observed:.6g}/{of}"
    if weighing is not None:
        seen += f", which is {_percent(weighing.share)} by weight"
    tokens = "" if saved is None else f"; {_percent(saved)} of thinking tokens saved"
    charged = "" if unknown is None else f" {_unknown(unknown)}"
    return f"{basis} {_how(claim, method)}, {what}. {seen}{tokens}.{charged}{until(claim.expires)}"


def _how(claim: Claim, method: Method) -> str:
    """How surely it holds, and together with which others."""
    settings = claim.settings
    if method.promise != "confidence":
        return "On average over calibration sets"
    how = f"With confidence {_level(claim.confidence)}"
    if settings.tests > 1:
        how += f", together with {settings.tests - 1} other{'s' if settings.tests > 2 else ''}"
    if settings.apart:
        others = ["groups"] * (settings.by is not None) + ["samplings"] * settings.by_sampling
        how += f", though not together with those of other {' or '.join(others)}"
    if settings.tried > 1:
        how += f", for the best of {settings.tried} that were tried"
    if method.grows:
        how += ", however often problems are added and looked at"
    return how


def until(expires: datetime | None) -> str:
    """Say when a promise ends, as its last sentence; empty when it does not."""
    return "" if expires is None else f" Valid until {expires.isoformat(timespec='minutes')}."


_REPEATED = {0: "", 1: " 1 problem id repeats the prompt of another and counts as the same."}


def _population(settings: Settings, whose: str, weighing: Weighing | None) -> str:
    if settings.unit == "problem":
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


def _level(share: float) -> str:
    """A risk or a confidence; not rounded to fewer digits than anybody gives, which would promise more."""
    return f"{100 * share:g}%"
