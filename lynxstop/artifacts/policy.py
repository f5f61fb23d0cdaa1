"""What a bundle is served under: the content of policy.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.artifacts.migrations import POLICY
from lynxstop.artifacts.provenance import Provenance
from lynxstop.artifacts.strict import Strict
from lynxstop.artifacts.threshold import Threshold
from lynxstop.core.conditions import Conditions
from lynxstop.core.cues import CueSet
from lynxstop.core.points import CUE
from lynxstop.core.policy import GUARDS, ExitSide, Level, StopPolicy
from lynxstop.core.thinking import Delimiters

if TYPE_CHECKING:
    from lynxstop.core.scorer import ScorerFactory
    from lynxstop.rules.base import Rule

SCHEMA_VERSION = len(POLICY) + 1

LATER_SETTINGS: dict[str, Any] = {
    "rule": None,
    "cut": "after",
    "stride": 1,
    "max_points": None,
    "tilt": 0.0,
    "grader": "math",
}
"""Settings that the first certificates did not name, and their value in the bundles of that time."""


class ServedSampling(Strict):
    """Sampling parameters under which the bundle was collected, and is to be served."""

    temperature: float = Field(ge=0, allow_inf_nan=False)
    top_p: float = Field(gt=0, le=1)
    top_k: int = Field(ge=0)
    max_tokens: int = Field(ge=1)
    answer_tokens: int = Field(ge=1)

    @property
    def conditions(self) -> Conditions:
        """What a request is compared with before it is stopped under a certificate."""
        return Conditions(self.temperature, self.top_p, self.top_k, self.max_tokens)


class CertifiedLevel(Strict):
    """One line of the menu: a risk level and the threshold that its certificate allows."""

    risk: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    loss: str
    method: str
    threshold: Threshold
    column: str | None = None
    group: str | None = None
    """The requests it is for: those with this value in this column; None is all."""
    sampling: ServedSampling | None = None
    """How the requests that it is for are sampled; None: as the policy says."""
    certificate: str
    """File of the certificate, relative to the bundle."""
    sha256: str

    @property
    def whose(self) -> str:
        """The requests it is for, in words."""
        group = "all" if self.group is None else f"{self.column} {self.group}"
        return group if self.sampling is None else f"{group}, {self.sampling.conditions.label}"

    @property
    def served(self) -> Level:
        """The level as the core takes it."""
        sampling = None if self.sampling is None else self.sampling.conditions
        return Level(self.risk, self.threshold, self.group, sampling)


class ServedRule(Strict):
    """The rule that makes scores from signals and the probe's logit, as plain data."""

    name: str
    constants: dict[str, Any] = Field(default_factory=dict)
    points: int = CUE
    """Kinds of decision points, bits of `lynxstop.core.points`."""
    every: int = 0

    @property
    def rule(self) -> Rule:
        """The rule itself.

        Raises
        ------
        ConfigError
            When there is no such rule, or its constants are damaged.
        """
        from lynxstop.rules.table import rule_from

        return rule_from(self.name, self.constants)

    def factory(self) -> ScorerFactory:
        """The rule as the core takes it; a bundle without a rule need not import any.

        Raises
        ------
        ConfigError
            As `rule`, and when it needs trial answers or cannot score.
        """
        from lynxstop.rules.served import check_scores, serve

        served = serve(self.rule)
        check_scores(served)
        return served


class Policy(Strict):
    """Content of policy.json."""

    schema_version: int = SCHEMA_VERSION
    name: str
    fingerprint: Fingerprint
    engine: str
    dtype: str
    sampling: ServedSampling
    cue_words: tuple[str, ...]
    cue_paragraph: bool
    think_open: tuple[str, ...]
    think_close: tuple[str, ...]
    exit_text: str
    exit_ids: tuple[int, ...]
    cut: ExitSide = "after"
    min_tokens: int = 0
    cooldown: int = 0
    stride: int = 1
    max_points: int | None = None
    tilt: float = Field(default=0.0, allow_inf_nan=False)
    """Taken off the score for each eligible decision point before; see `lynxstop.core.rule.tilted`."""
    budget: int | None = None
    grader: str = "math"
    """Compared the answers that certificates rest on: a name of `lynxstop.grading.graders`."""
    target: str
    """What the probe or the rule was trained to predict: "agrees" or "right"."""
    probe_sha256: str | None
    """None: there is no probe, and the rule reads no hidden states."""
    training_problems_sha256: str
    """Digest of the sorted ids of the training problems."""
    training_data_sha256: str
    default_risk: float | None = None
    levels: tuple[CertifiedLevel, ...] = ()
    rule: ServedRule | None = None
    """None: the probe's logit is the score, at cues."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the files that training wrote beside the probe."""
    provenance: Provenance

    @property
    def cues(self) -> CueSet:
        """The cues watched for."""
        return CueSet(words=self.cue_words, paragraph=self.cue_paragraph)

    @property
    def delimiters(self) -> Delimiters:
        """The delimiters of a thinking block."""
        return Delimiters(open=self.think_open, close=self.think_close)

    @property
    def pooled(self) -> tuple[CertifiedLevel, ...]:
        """Levels of all requests at the bundle's own sampling, without those of groups."""
        return tuple(level for level in self.levels if level.served.whose is None)

    def certified(self, level: Level) -> CertifiedLevel | None:
        """Return the line of the menu that a level of `stop_policy` comes from; None for any other level."""
        return next((one for one in self.levels if one.served == level), None)

    def stop_policy(self) -> StopPolicy:
        """The policy as the core takes it."""
        return StopPolicy(
            exit_ids=self.exit_ids,
            levels=tuple(level.served for level in self.levels),
            **{name: getattr(self, name) for name in GUARDS},
            tilt=self.tilt,
            budget=self.budget,
            points=CUE if self.rule is None else self.rule.points,
            every=0 if self.rule is None else self.rule.every,
            rule=None if self.rule is None else self.rule.factory(),
        )
