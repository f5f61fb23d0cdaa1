"""Sequential tests of a risk, O(1) per observation; state is plain JSON.

Both tests bet against H: mean loss <= alpha. A bet on an alternative risk p multiplies its wealth, after a
loss L in [0, 1], by ``1 + eta (L - alpha)`` with ``eta = (p - alpha) / (alpha (1 - alpha))``, whose mean
under H is at most 1. A mixture over a fixed grid of p needs no tuning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lynxstop.errors import ConfigError, DataError

Floats = NDArray[np.float64]

_BETS = 24
_NEAREST, _FARTHEST = 1.2, 0.9
"""The alternatives reach from `_NEAREST` times the risk to this share of the way from the risk to 1."""


def alternatives(risk: float) -> Floats:
    """Risks that the tests bet on, all above `risk`; shape (bets,)."""
    highest = risk + _FARTHEST * (1.0 - risk)
    return np.geomspace(min(_NEAREST * risk, highest), highest, _BETS)


def log_factors(risk: float, loss: float) -> Floats:
    """Logarithms of what a loss multiplies the wealth of each bet by; shape (bets,).

    Raises
    ------
    DataError
        When the loss lies outside [0, 1].
    """
    if not 0.0 <= loss <= 1.0:
        raise DataError(f"A loss of {loss} lies outside [0, 1].")
    return _log_factors(risk, loss)


@lru_cache(maxsize=1024)
def _log_factors(risk: float, loss: float) -> Floats:
    eta = (alternatives(risk) - risk) / (risk * (1.0 - risk))
    found = np.log1p(eta * (loss - risk))
    found.flags.writeable = False
    return found


def _log_mean(values: Floats) -> float:
    top = float(values.max())
    return top + math.log(float(np.exp(values - top).mean()))


@dataclass(slots=True)
class RiskTest:
    """Betting e-process for "the risk is above `risk`", valid at any time and sticky.

    Under H, the probability that `e_value` ever reaches 1 / level is at most `level` (Ville's inequality;
    Waudby-Smith and Ramdas 2024, arXiv 2010.09686).

    Parameters
    ----------
    risk : float
        The certified risk, in (0, 1).
    level : float
        Probability of a false alarm over all time.

    Attributes
    ----------
    highest : float
        Logarithm of the largest e-value so far.
    """

    risk: float
    level: float = 0.01
    wealth: Floats = field(default_factory=lambda: np.zeros(_BETS))
    highest: float = 0.0

    def __post_init__(self) -> None:
        _check(self.risk, self.level)

    def add(self, loss: float) -> None:
        """Read one audited loss in [0, 1]."""
        self.wealth = self.wealth + log_factors(self.risk, loss)
        self.highest = max(self.highest, self.log_e)

    @property
    def log_e(self) -> float:
        """Logarithm of the current e-value."""
        return _log_mean(self.wealth)

    @property
    def alarm(self) -> bool:
        """Whether the e-value has ever reached 1 / level."""
        return self.highest >= -math.log(self.level)

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {
            "risk": self.risk,
            "level": self.level,
            "wealth": self.wealth.tolist(),
            "highest": self.highest,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Restore a state."""
        return cls(content["risk"], content["level"], _bets(content["wealth"]), float(content["highest"]))


@dataclass(slots=True)
class ChangeDetector:
    """Shiryaev-Roberts e-detector for "the risk rose recently"; it restarts after each alarm.

    While the risk stays at most `risk`, alarms are at least `run_length` observations apart on average
    (Shin, Ramdas and Rinaldo 2024, arXiv 2203.03532).

    Parameters
    ----------
    risk : float
        The certified risk, in (0, 1).
    run_length : float
        Average number of observations between false alarms.

    Attributes
    ----------
    alarms : int
        Alarms so far.
    """

    risk: float
    run_length: float = 10_000.0
    sums: Floats = field(default_factory=lambda: np.full(_BETS, -np.inf))
    alarms: int = 0

    def __post_init__(self) -> None:
        _check(self.risk, 1.0 / max(self.run_length, 1.0 + 1e-9))

    def add(self, loss: float) -> bool:
        """Read one audited loss in [0, 1]; True when it raises an alarm."""
        self.sums = np.logaddexp(self.sums, 0.0) + log_factors(self.risk, loss)
        if self.log_statistic < math.log(self.run_length):
            return False
        self.alarms += 1
        self.sums = np.full(_BETS, -np.inf)
        return True

    @property
    def log_statistic(self) -> float:
        """Logarithm of the detector's statistic; -inf right after a restart."""
        return -math.inf if np.isneginf(self.sums).all() else _log_mean(self.sums)

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain data; None stands for -inf."""
        sums = [None if math.isinf(value) else value for value in self.sums.tolist()]
        return {"risk": self.risk, "run_length": self.run_length, "sums": sums, "alarms": self.alarms}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Restore a state."""
        sums = [-math.inf if value is None else value for value in content["sums"]]
        return cls(content["risk"], content["run_length"], _bets(sums), int(content["alarms"]))


def _bets(values: list[float]) -> Floats:
    found = np.asarray(values, np.float64)
    if found.shape != (_BETS,) or np.isnan(found).any():
        raise DataError("The state of a sequential test is damaged.")
    return found


def _check(risk: float, level: float) -> None:
    if not (0.0 < risk < 1.0 and 0.0 < level < 1.0):
        raise ConfigError("A risk and a false-alarm level lie between 0 and 1, a run length above 1.")
