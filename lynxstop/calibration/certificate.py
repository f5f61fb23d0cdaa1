"""A certificate: what was promised, on what it rests, and everything needed to recompute it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import (
    AwareDatetime,
    Field,
    ValidationError,
    model_validator,
)

from lynxstop.artifacts.expiry import expired
from lynxstop.artifacts.migrations import CERTIFICATE, upgrade
from lynxstop.artifacts.policy_file import MAX_CERTIFICATE, read_object
from lynxstop.artifacts.seal import DIGEST, digest_of, seal
from lynxstop.artifacts.strict import Strict, first_of
from lynxstop.artifacts.threshold import Threshold
from lynxstop.calibration.case import Promise
from lynxstop.calibration.units import Samples, Unit
from lynxstop.core.conditions import Conditions
from lynxstop.errors import CalibrationError
from lynxstop.notebook import curve_html, table_html


def share(risk: float, levels: Sequence[float]) -> float:
    """Share of the error that one of several levels gets, in inverse proportion to its risk.

    A strict level rests on few losses, so that a smaller error costs it many exits; a lenient one hardly
    notices. Any shares that were fixed beforehand and sum to 1 are valid.
    """
    return (1.0 / risk) / sum(1.0 / level for level in levels)


class Tested(Strict):
    """The tested sequence, columns of equal length; see `lynxstop.calibration.case.Sequence`."""

    thresholds: tuple[Threshold, ...]
    losses: tuple[float, ...]
    n: tuple[float, ...]
    statistic: tuple[float, ...]


class Group(Strict):
    """The requests a certificate is about; its absence means all."""

    column: str
    value: str


class Subgroup(Strict):
    """What was observed of a part of the problems; a description, which promises nothing."""

    column: str
    value: str
    problems: float
    exits: float
    losses: float
    interval: tuple[float, float] | None
    """Exact 95% interval of the share of losses, of this part alone; None for means of several samples."""


class Grading(Strict):
    """How often a second comparator contradicts the one that the losses rest on."""

    pairs: int = Field(ge=0)
    """Distinct pairs of an exit's and a full answer that both decided."""
    contradicted: int = Field(ge=0)
    """Of these, same by one and different by the other."""


class Settings(Strict):
    """Choices made before the data were seen; with the evidence they determine the certificate."""

    samples: Samples
    unit: Unit = "request"
    """Whether a problem counts as often as it is asked, or once."""
    seed: int = Field(ge=0)
    unknown_loss: float = Field(ge=0, le=1)
    """Loss charged for an exit answer that could not be judged."""
    tests: int = Field(ge=1)
    """Promises that hold together; each was tested at delta / (tests * tried), on average over the levels."""
    levels: tuple[float, ...] | None = None
    """Levels that share the error in inverse proportion to their risk; None: in equal parts."""
    tried: int = Field(default=1, ge=1)
    """Rules, seeds, losses or methods that the certified one was chosen among, on these data."""
    grid: tuple[float, ...] | None
    """Thresholds fixed on the training split, strictest first; None tests every float32 number."""
    by: str | None = None
    """Column that groups were taken from."""
    by_sampling: bool = False
    """Whether further samplings were certified beside this one, each on its own data."""
    apart: bool = False
    """Whether promises about groups or samplings were made beside this one that do not hold together with
    it."""
    start: int | None = None
    """Where a selective sequence starts in the grid."""
    importance: tuple[float, ...] | None = None
    importance_limit: float | None = None

    @model_validator(mode="after")
    def _fixed_sequence(self) -> Self:
        if self.grid is not None:
            as_scores = np.asarray(self.grid, dtype=np.float32)
            if not len(as_scores) or not np.array_equal(as_scores, np.asarray(self.grid)):
                raise ValueError("the grid holds other numbers than thresholds of float32")
            if not (np.isfinite(as_scores).all() and (np.diff(as_scores) < 0).all()):
                raise ValueError("the grid does not fall strictly, so it is not a sequence that was fixed")
        if self.levels is not None and not (self.levels and all(0.0 < level < 1.0 for level in self.levels)):
            raise ValueError("the levels do not lie between 0 and 1")
        if self.levels is not None and len(set(self.levels)) != len(self.levels):
            raise ValueError("the levels are not distinct")
        if self.start is not None and not 0 <= self.start < len(self.grid or ()):
            raise ValueError("the start lies outside the grid")
        return self


class Claim(Strict):
    """What is to be certified: everything that is chosen before the calibration data are seen."""

    loss: str
    method: str
    risk: float = Field(gt=0, lt=1)
    """alpha"""
    confidence: float = Field(gt=0, lt=1)
    """1 - delta"""
    group: Group | None = None
    settings: Settings
    digests: dict[str, str] = Field(default_factory=dict)
    """Of the probe, the data, the split."""
    fingerprint: dict[str, Any] = Field(default_factory=dict)
    """Model, tokenizer, template, exit tokens, cues, engine, dtype and sampling."""
    grading: Grading | None = None
    """Measured on the recorded answers, which the evidence does not hold; None where it was not."""
    created: AwareDatetime
    expires: AwareDatetime | None = None

    @property
    def at(self) -> str | None:
        """How the requests that it is about are sampled, in words; None where there is one sampling only.

        Raises
        ------
        CalibrationError
            When it does not say.
        """
        if not self.settings.by_sampling:
            return None
        try:
            sampling = self.fingerprint["sampling"]
            return Conditions(*(sampling[name] for name in ("temperature", "top_p", "top_k"))).label
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                "The certificate is about one of several samplings, and does not say which.",
                hint="Copy the certificate again, or calibrate again.",
            ) from error

    @property
    def delta(self) -> float:
        """Error level of this claim's own test."""
        settings = self.settings
        whole = (1.0 - self.confidence) / (settings.tests * settings.tried)
        if settings.levels is None:
            return whole
        return whole * len(settings.levels) * share(self.risk, settings.levels)


class Certificate(Claim):
    """One certified level: the claim, and what came of it."""

    schema_version: int = len(CERTIFICATE) + 1
    lynxstop: str
    promise: str
    not_promised: str
    kind: Promise
    threshold: Threshold
    """Exit iff the float32 score exceeds it."""
    threshold_hex: str
    losses: float
    """k: losses at the threshold, in the form the method counts."""
    n: int
    """Among how many: problems; exits for a selective risk, bad cues for a promise per cue."""
    p_value: float | None
    bound: float | None
    """Upper limit of the risk at the threshold."""
    observed: float
    """Problems whose first exit at the threshold is a loss."""
    exits: float
    """Problems that exit at the threshold."""
    saved: float | None
    """Share of thinking tokens saved."""
    subgroups: tuple[Subgroup, ...] = ()
    problems: int
    traces: int
    cues: int
    unknown: int
    """Cues whose exit answer could not be judged."""
    repeated: int | None = Field(default=None, ge=0)
    """Problems whose prompt an earlier one has: they count as samples of it. None: no prompts are known, and
    problems were told apart by their ids alone."""
    missing: int | None
    """After a refusal: how many more problems it takes; None when no number is enough."""
    effective_size: float | None
    """With weights: how many unweighted problems these are worth."""
    tested: Tested
    evidence_sha256: str
    """Digest of the evidence's content, `TraceTable.digest`."""

    @model_validator(mode="after")
    def _exact(self) -> Self:
        if float.fromhex(self.threshold_hex) != self.threshold:
            raise ValueError("threshold and threshold_hex differ")
        return self

    @property
    def refused(self) -> bool:
        """Whether this level never exits."""
        return math.isinf(self.threshold)

    @property
    def expired(self) -> bool:
        """Whether its date of expiry has passed."""
        return expired(self.expires)

    def _repr_html_(self) -> str:
        tested = self.tested
        kept = [
            i
            for i, (at, n) in enumerate(zip(tested.thresholds, tested.n, strict=True))
            if math.isfinite(at) and n
        ]
        risks = [tested.losses[i] / tested.n[i] for i in kept]
        point = None if self.refused else (self.threshold, self.losses / max(self.n, 1))
        curve = curve_html(
            [tested.thresholds[i] for i in kept],
            risks,
            across="threshold",
            up="observed risk of the tested thresholds",
            level=self.risk,
            point=point,
        )
        rows = [
            ("risk", f"{100 * self.risk:g}% {self.loss} at {100 * self.confidence:g}% confidence"),
            ("threshold", "never exits" if self.refused else f"{self.threshold:.6g}"),
            ("losses", f"{self.losses:g} of {self.n}"),
            ("upper limit", "" if self.bound is None else f"{self.bound:.2%}"),
            ("exits", f"{self.exits / self.problems:.1%}"),
            ("thinking tokens saved", "" if self.saved is None else f"{self.saved:.1%}"),
        ]
        return table_html("Certificate", ("", ""), rows, self.promise, curve)

    def to_json(self) -> str:
        """Return the certificate as JSON text, with a digest of itself; floats keep all their digits."""
        return json.dumps(seal(self.model_dump(mode="json")), indent=1, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: Path) -> Certificate:
        """Read a certificate.

        Raises
        ------
        CalibrationError
            When the file is missing, too large, not JSON, or not a certificate of this version.
        """
        content = read_object(path, MAX_CERTIFICATE, "a certificate", CalibrationError)
        _check_digest(content, path)
        try:
            return cls.model_validate(upgrade(content, CERTIFICATE, str(path), CalibrationError))
        except ValidationError as error:
            raise CalibrationError(
                f"{path} is not a certificate that this version reads: {first_of(error)}.",
                hint="Copy it again, or calibrate again.",
            ) from error


def _check_digest(content: dict[str, Any], path: Path) -> None:
    """Take the digest out and compare it; the first two schema versions had none."""
    digest = content.pop(DIGEST, None)
    unsealed = digest is None and content.get("schema_version") in (1, 2)
    if not unsealed and digest != digest_of(content):
        # A newer version is refused by name first.
        upgrade(content, CERTIFICATE, str(path), CalibrationError)
        raise CalibrationError(
            f"{path} is damaged or was changed by hand: its digest differs.",
            hint="Copy the certificate again, or calibrate again.",
        )
