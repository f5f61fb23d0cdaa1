"""What a rule is: one float per decision point, higher means exit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from lynxstop.errors import StepError

if TYPE_CHECKING:
    from lynxstop.rules.training import Training

Use = Literal["hidden", "statistics", "trial"]
"""What a rule needs beside the tokens: a probe's logit, `Statistics`, answers forced for trial."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An answer forced at a decision point.

    Parameters
    ----------
    answer : str
        Extracted and normalised; empty when there is none.
    text : str
        All of it.
    tokens : int
        Tokens it took.
    confidence, mean_prob, min_prob : float
        Geometric mean, mean and minimum of the token probabilities.
    first_entropy : float
        Entropy of its first token, in nats.
    """

    answer: str
    text: str
    tokens: int
    confidence: float
    mean_prob: float
    min_prob: float
    first_entropy: float


class Point:
    """A decision point as a rule sees it.

    Parameters
    ----------
    signals : mapping of str to float
        The signals the rule asked for; NaN where undefined.
    logit : float
        Of the probe; NaN without one.
    position : int
        Thinking tokens up to here.
    trial : Trial, optional
        The answer forced here, if one can be had.

    Attributes
    ----------
    cost : int
        Tokens that were spent on trial answers here.
    """

    __slots__ = ("_trial", "cost", "logit", "position", "signals")

    def __init__(
        self, signals: Mapping[str, float], logit: float, position: int, trial: Trial | None = None
    ) -> None:
        self.signals, self.logit, self.position = signals, logit, position
        self._trial = trial
        self.cost = 0

    def fresh(self) -> Point:
        """Return the same point with nothing spent."""
        return Point(self.signals, self.logit, self.position, self._trial)

    def trial(self) -> Trial:
        """Force a trial answer, and pay for it."""
        self.cost = self._known.tokens
        return self._known

    def first_entropy(self) -> float:
        """Entropy behind a forced end of thinking; costs one token."""
        self.cost = max(self.cost, 1)
        return self._known.first_entropy

    @property
    def _known(self) -> Trial:
        if self._trial is None:
            raise StepError("This rule needs trial answers, and none were recorded.")
        return self._trial


Score = Callable[[Point], float]
"""Scores the decision points of one request, in order; NaN abstains."""


@dataclass(frozen=True)
class Rule:
    """Base of all rules: a frozen dataclass whose fields are its constants.

    Class attributes
    ----------------
    name : str
    paper : str
        Where it was published; empty for lynxstop's own.
    uses : frozenset of Use
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    uses: ClassVar[frozenset[Use]] = frozenset()

    @property
    def signals(self) -> tuple[str, ...]:
        """Keys of the signals it reads, see `lynxstop.signals.table.signal`."""
        return ()

    @property
    def published(self) -> float | None:
        """The threshold its authors use, on the scale of its score; None when they name none."""
        return None

    def fit(self, training: Training) -> Self:
        """Fix constants on the training split; most rules have nothing to learn."""
        return self

    def start(self) -> Score:
        """Begin a request."""
        raise NotImplementedError

    @property
    def needs(self) -> frozenset[str]:
        """What it needs; a rule made of others needs what they do."""
        return self.uses

    def constants(self) -> dict[str, Any]:
        """Return its constants as plain data."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
