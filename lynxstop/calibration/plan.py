"""How many problems to collect, before anyone spends a GPU hour."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lynxstop.calibration.bounds import binomial_p
from lynxstop.calibration.case import Method, Verdict
from lynxstop.calibration.weighted import ESS_FLOOR
from lynxstop.errors import ConfigError

_LIMIT = 2**40


@dataclass(frozen=True)
class Plan:
    """A sample size, for one level of one group.

    Parameters
    ----------
    problems : int
        Problems to collect.
    allowed : int
        Losses that may be observed among them at the threshold that is certified.
    floor : int
        Problems below which nothing is certified, even without a loss.
    power : float
        Probability that a threshold with the expected loss is certified.
    """

    risk: float
    confidence: float
    expected_loss: float
    problems: int
    allowed: int
    floor: int
    power: float


def plan(
    risk: float,
    confidence: float = 0.95,
    *,
    expected_loss: float = 0.0,
    power: float = 0.8,
    exit_share: float = 1.0,
) -> Plan:
    """Size a calibration set for the exact binomial test.

    Parameters
    ----------
    risk, confidence : float
        The promise.
    expected_loss : float
        True risk of the threshold one hopes to certify; must be below `risk`.
    power : float
        Probability of certifying it.
    exit_share : float
        Share of requests the risk is about: below 1 for the selective risk.

    Raises
    ------
    ConfigError
        On a value outside its range, or when `expected_loss` reaches `risk`: no number of problems is enough.
    """
    for name, value in (("risk", risk), ("confidence", confidence), ("power", power)):
        if not 0.0 < value < 1.0:
            raise ConfigError(
                f"{name} lies strictly between 0 and 1, not at {value!r}.", hint="Give one like 0.05 or 95%."
            )
    if not 0.0 < exit_share <= 1.0:
        raise ConfigError(f"The share of exits lies in (0, 1], not at {exit_share!r}.")
    if not 0.0 <= expected_loss < risk:
        raise ConfigError(
            f"A threshold with an expected loss of {expected_loss:g} cannot be certified at risk {risk:g}.",
            hint="Raise the risk, or hope for a smaller loss: it must lie below the risk.",
        )
    delta = 1.0 - confidence
    low, high = -1, 0
    while _power(high, risk, delta, expected_loss) < power:
        low, high = high, max(1, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        if _power(middle, risk, delta, expected_loss) >= power:
            high = middle
        else:
            low = middle
    smallest = smallest_size(high, risk, delta)
    return Plan(
        risk=risk,
        confidence=confidence,
        expected_loss=expected_loss,
        problems=int(np.ceil(smallest / exit_share)),
        allowed=high,
        floor=int(np.ceil(smallest_size(0, risk, delta) / exit_share)),
        power=_power(high, risk, delta, expected_loss),
    )


def strictest(problems: int, confidence: float = 0.95) -> float:
    """Return the lowest risk that so many problems can certify, by a threshold without a loss on them."""
    return float(1.0 - (1.0 - confidence) ** (1.0 / problems)) if problems else 1.0


def chance(problems: int, risk: float, confidence: float = 0.95, *, expected_loss: float = 0.0) -> float:
    """Return the probability that so many problems certify a threshold whose true risk is `expected_loss`."""
    counts = np.arange(problems + 1)
    passing = counts[np.asarray(binomial_p(counts, problems, risk)) <= 1.0 - confidence]
    return float(binomial_p(int(passing[-1]), problems, expected_loss)) if len(passing) else 0.0


def likely_losses(risk: float) -> tuple[float, ...]:
    """Return true risks to size for when none is named: 1% and 2% where they lie below the level."""
    return tuple(loss for loss in (0.01, 0.02) if loss < risk) or (risk / 2,)


@lru_cache(maxsize=4096)
def smallest_size(losses: int, risk: float, delta: float) -> int:
    """Smallest n at which `losses` among n still reject risk > `risk`: P(Bin(n, risk) <= losses) <= delta."""
    low, high = losses, max(2 * losses, 1)
    while binomial_p(losses, high, risk) > delta:
        low, high = high, 2 * high
        if high > _LIMIT:
            raise ConfigError(f"Risk {risk:g} at confidence {1 - delta:g} needs more than {_LIMIT} problems.")
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_p(losses, middle, risk) <= delta:
            high = middle
        else:
            low = middle
    return high


def missing(
    verdict: Verdict, method: Method, *, units: int, risk: float, delta: float, effective: float | None = None
) -> int | None:
    """Say how many more problems turn a refusal around, if losses go on as they were observed.

    The first tested threshold has to pass, or the first with a loss where stricter ones passed that nothing
    exceeds: from its losses comes the expected rate. With weights, `effective`
    is the effective size of the `units`. None when no number of problems is enough, and when nothing was
    refused.
    """
    if not verdict.refused or method.promise == "cue":
        return None
    lost = np.flatnonzero(verdict.sequence.losses > 0)
    if verdict.idle and not len(lost):
        return None
    row = int(lost[0]) if verdict.idle else 0
    seen, of = float(verdict.sequence.losses[row]), float(verdict.sequence.n[row])
    rate = seen / of if of else 0.0
    if rate >= risk:
        return None
    if method.promise == "expectation":
        wanted = (1.0 - risk) / (risk - rate)
        if effective is not None:
            wanted = max(wanted, ESS_FLOOR) * units / effective
        return max(1, int(np.ceil(wanted - 1e-9)) - units)
    share = of / units if method.selective and of else 1.0
    enough = plan(risk, 1.0 - delta, expected_loss=rate, power=0.5, exit_share=share)
    return max(1, enough.problems - units)


def advice(more: int | None) -> str:
    """Say what to do after a refusal."""
    if more is None:
        return "No number of problems is enough at this loss: raise the risk, or train a better probe."
    return f"About {more} more problems are needed, or a higher risk; `lynxstop plan` sizes a collection."


def _power(losses: int, risk: float, delta: float, expected_loss: float) -> float:
    return float(binomial_p(losses, smallest_size(losses, risk, delta), expected_loss))
