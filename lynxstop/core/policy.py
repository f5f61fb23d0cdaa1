"""The stop policy: certified levels, guards and the tokens of a forced exit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from lynxstop.core.conditions import Conditions
from lynxstop.core.points import ALL, CUE, INTERVAL
from lynxstop.core.scorer import ScorerFactory
from lynxstop.errors import ConfigError

ExitSide = Literal["after", "before"]
"""Where a forced exit cuts the text: after the token that confirms the cue, or before the cue's word."""


@dataclass(frozen=True, slots=True)
class Level:
    """One certified risk level.

    Parameters
    ----------
    risk : float
        Certified upper limit of the request-level risk, in (0, 1).
    threshold : float
        Exit iff the score (a logit) exceeds it; ``inf`` means never exit.
    group : str, optional
        The requests it is certified for; None is all of them.
    sampling : Conditions, optional
        How the requests that it is certified for are sampled; None is the bundle's own sampling.
    """

    risk: float
    threshold: float
    group: str | None = None
    sampling: Conditions | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.risk < 1.0:
            raise ConfigError(f"A risk level lies strictly between 0 and 1, not at {self.risk!r}.")
        if math.isnan(self.threshold):
            raise ConfigError(f"The threshold of risk level {self.risk} is not a number.")

    @property
    def whose(self) -> str | None:
        """The requests it is for, in words: group and sampling; None is all of the bundle's own sampling."""
        parts = [self.group, None if self.sampling is None else self.sampling.label]
        return ", ".join(part for part in parts if part is not None) or None


NEVER = Level(risk=0.5, threshold=math.inf)
"""The level of a request that thinks to the end."""


GUARDS: dict[str, Any] = {"min_tokens": 0, "cooldown": 0, "stride": 1, "max_points": None}
"""Settings of a policy that make decision points ineligible, and the values at which they make none."""


@dataclass(frozen=True, slots=True)
class StopPolicy:
    """Everything that decides a stop, apart from the scores.

    Parameters
    ----------
    exit_ids : tuple of int
        Tokens forced at an exit: they close the thinking block and may open the answer.
    levels : tuple of Level
        Certified levels, in ascending order of risk, those of a group or a further sampling beside those of
        all requests; empty while a probe is not yet calibrated.
    min_tokens : int
        Thinking tokens before the first eligible decision point.
    cooldown : int
        Thinking tokens between two eligible decision points.
    stride : int
        Only every `stride`-th decision point of a request is eligible; 1 is all of them.
    max_points : int, optional
        Eligible decision points of a request at most.
    budget : int, optional
        Thinking tokens after which an exit is forced whatever the score.
    tilt : float
        Taken off the score for each eligible decision point before; see `lynxstop.core.rule.tilted`.
    loop_guard : int, optional
        Copies of one passage in a row after which an exit is forced; see `lynxstop.core.loops.LoopGuard`. No
        certificate covers these exits. None never looks for loops.
    points : int
        Kinds of decision points, bits of `lynxstop.core.points`.
    every : int
        Thinking tokens between decision points of the kind `INTERVAL`.
    rule : ScorerFactory, optional
        Makes the score of a decision point; None takes the probe's logit as it is.

    Raises
    ------
    ConfigError
        On an empty exit, a negative guard, unordered levels or impossible decision points.
    """

    exit_ids: tuple[int, ...]
    levels: tuple[Level, ...] = ()
    min_tokens: int = 0
    cooldown: int = 0
    budget: int | None = None
    points: int = CUE
    every: int = 0
    rule: ScorerFactory | None = None
    stride: int = 1
    max_points: int | None = None
    tilt: float = 0.0
    loop_guard: int | None = None

    def __post_init__(self) -> None:
        if not self.exit_ids:
            raise ConfigError("An exit needs at least one token to force.")
        if self.min_tokens < 0 or self.cooldown < 0:
            raise ConfigError("min_tokens and cooldown are counts of tokens: 0 or more.")
        if self.stride < 1 or (self.max_points is not None and self.max_points < 1):
            raise ConfigError("stride and max_points are counts of decision points: 1 or more.")
        if self.loop_guard is not None and self.loop_guard < 2:
            raise ConfigError("A loop guard needs 2 repeats or more.")
        if not math.isfinite(self.tilt):
            raise ConfigError("A tilt is a finite number, in units of the score.")
        if self.budget is not None and self.budget < 1:
            raise ConfigError("A thinking budget is at least 1 token.")
        if not 0 < self.points <= ALL or self.every < 0 or bool(self.points & INTERVAL) != (self.every > 0):
            raise ConfigError(
                "Decision points are cues, boundaries and intervals.",
                hint="Give `every`, a number of tokens, together with intervals, and only then.",
            )
        risks = [level.risk for level in self.levels]
        if risks != sorted(risks) or len({(v.risk, v.group, v.sampling) for v in self.levels}) < len(risks):
            raise ConfigError("Risk levels must be distinct and in ascending order.")

    @property
    def thinned(self) -> bool:
        """Whether `stride` or `max_points` leaves out decision points."""
        return self.stride > 1 or self.max_points is not None

    @property
    def guards(self) -> dict[str, Any]:
        """Settings of `GUARDS`."""
        return {name: getattr(self, name) for name in GUARDS}

    @property
    def guarded(self) -> bool:
        """Whether any guard can make a decision point ineligible."""
        return self.guards != GUARDS

    @property
    def needs_probe(self) -> bool:
        """Whether scores need a probe's logit; a rule may do without."""
        return self.rule is None or self.rule.hidden

    def level(self, risk: float | None, group: str | None = None, served: Conditions | None = None) -> Level:
        """Return the level certified for `risk`; None gives the level that never exits.

        Parameters
        ----------
        risk : float or None
        group : str, optional
            A request of a group gets that group's level, one of an unknown group the level of all requests.
        served : Conditions, optional
            How the request is sampled. Where no level was certified for that, it gets the level of the
            bundle's own sampling, which it departs from; see `lynxstop.artifacts.certified.Certified`.

        Raises
        ------
        ConfigError
            When `risk` is not one of the certified levels; the message lists them.

        Examples
        --------
        >>> policy = StopPolicy(exit_ids=(7,), levels=(Level(0.05, 4.0), Level(0.1, 2.5)))
        >>> policy.level(0.1).threshold, policy.level(None).threshold
        (2.5, inf)
        """
        if risk is None:
            return NEVER
        levels = [v for v in self.levels if math.isclose(v.risk, risk, rel_tol=1e-9)]
        like = [v for v in levels if v.sampling and served and v.sampling.draws_like(served)]
        found = {v.group: v for v in like or [v for v in levels if v.sampling is None]}
        if level := found.get(group, found.get(None)):
            return level
        certified = ", ".join(f"{v.risk:g}" for v in self.levels if v.whose is None) or "none"
        raise ConfigError(
            f"Risk {risk:g} is not certified; certified levels: {certified}.",
            hint="Choose one of them, or certify this one with `lynxstop calibrate --risk`.",
        )
