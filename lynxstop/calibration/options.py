"""The choices of a calibration, all of which are made before its data are seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from lynxstop.calibration.case import Method
from lynxstop.calibration.losses import Loss, table_loss
from lynxstop.calibration.methods import method_named
from lynxstop.calibration.units import Samples, Unit
from lynxstop.errors import ConfigError

LEAST_RISK = 1e-9
"""Level below which more problems are needed than anybody can collect."""
MOST_TRIED = 1_000_000
"""Attempts above which nothing is left of the error to share."""
Together = Literal["levels", "all", "none"]


@dataclass(frozen=True)
class CalibrationOptions:
    """What is to be certified, and how.

    Parameters
    ----------
    risks : sequence of float
        Levels, alpha.
    confidence : float
        1 - delta.
    loss : str
        Name of the loss: one of `LOSSES`, or a column of a score table.
    method : str, optional
        One of `METHODS`; "ltt" by default, "selective" for the loss `wrong|exit`.
    by : str, optional
        Column of the groups: certify every group beside the whole.
    subgroups : sequence of str
        Columns whose values are counted apart in the certificate's table; nothing is promised about them.
        Of recorded traces, family and difficulty are counted in any case.
    unit : {"request", "problem"}
        What the promise is about: requests, where a problem counts as often as it is asked, or problems,
        where each counts once.
    samples : {"one", "mean"}, optional
        What several samples of a problem become; by default "mean" for a method that allows losses between 0
        and 1, "one" otherwise.
    together : {"levels", "all", "none"}
        Which promises hold at once with the given confidence: the levels of a group, everything returned, or
        each on its own.
    unknown_loss : float
        Loss charged for an exit answer that could not be judged.
    tried : int
        Rules, seeds, losses or methods that were tried on these data, this one included: each is tested at
        its share of the error, so that the best of them may be chosen.
    seed : int
        Draws one sample per problem, and problems by their number of samples.
    expires : datetime, optional
        When the certificates expire; never by default.

    Raises
    ------
    ConfigError
        On a value outside its range, or a method that does not bound the loss.
    """

    risks: Sequence[float]
    confidence: float = 0.95
    loss: str = "disagree"
    method: str | None = None
    by: str | None = None
    unit: Unit = "request"
    samples: Samples | None = None
    together: Together = "levels"
    unknown_loss: float = 1.0
    tried: int = 1
    seed: int = 0
    expires: datetime | None = None
    subgroups: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._check_levels()
        if self.samples not in (None, "one", "mean"):
            raise ConfigError(f"Several samples of a problem become 'one' or 'mean', not {self.samples!r}.")
        if self.unit not in ("request", "problem"):
            raise ConfigError(f"A promise is about a 'request' or a 'problem', not {self.unit!r}.")
        if self.together not in ("levels", "all", "none"):
            raise ConfigError(f"Promises hold together by 'levels', 'all' or 'none', not {self.together!r}.")
        if not 0.0 <= self.unknown_loss <= 1.0:
            raise ConfigError(f"The loss of an unknown answer lies in [0, 1], not at {self.unknown_loss!r}.")
        if not 1 <= self.tried <= MOST_TRIED:
            raise ConfigError(
                f"Between 1 and {MOST_TRIED:,} may have been tried: this one was.",
                hint="Count it in: --tried.",
            )
        if self.tried > 1 and self.certifier.promise != "confidence":
            raise ConfigError(
                f"The method {self.certifier.name!r} has no confidence to share among those tried.",
                hint="Use 'ltt', or choose on other data than these.",
            )
        if self.seed < 0:
            raise ConfigError("A seed is 0 or more.")
        if self.certifier.selective != self.about.selective:
            raise ConfigError(
                f"The method {self.certifier.name!r} does not bound the loss {self.loss!r}.",
                hint="The method 'selective' and the loss 'wrong|exit' belong together.",
            )

    @property
    def about(self) -> Loss:
        """The loss."""
        return table_loss(self.loss)

    @property
    def certifier(self) -> Method:
        """The method, the default one of the loss when none is named."""
        return method_named(self.method or ("selective" if self.about.selective else "ltt"))

    def tests(self, groups: int) -> int:
        """How many promises share the error, with `groups` groups certified."""
        return {"levels": len(self.risks), "all": len(self.risks) * groups, "none": 1}[self.together]

    def _check_levels(self) -> None:
        if not self.risks or len(set(self.risks)) != len(self.risks):
            raise ConfigError("Give one or several distinct risk levels.")
        for risk in self.risks:
            if not 0.0 < risk < 1.0:
                raise ConfigError(
                    f"A risk level lies strictly between 0 and 1, not at {risk!r}.", hint="Give 0.05 or 5%."
                )
            if risk < LEAST_RISK:
                raise ConfigError(
                    f"No data certify a risk of {risk!r}: {LEAST_RISK:g} is the least.",
                    hint="Give 0.05 or 5%.",
                )
        if not 0.0 < self.confidence < 1.0:
            raise ConfigError(
                f"The confidence lies strictly between 0 and 1, not at {self.confidence!r}.",
                hint="Give 0.95 or 95%.",
            )
