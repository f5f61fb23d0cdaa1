"""A bundle: one folder with the probe, the policy it is served under, and its certificates.

::

    BUNDLE/
    ├── policy.json          what is watched, how a stop is forced, certified levels, fingerprint, provenance
    ├── probe.safetensors    float32 weights; absent when the policy's rule reads no hidden states
    ├── scores.safetensors   out-of-fold scores of the training split, which fix the tested thresholds
    ├── training.json        how the probe was chosen and what it is ahead of
    ├── certificates/        one JSON file per certified level
    └── README.md            the card
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from lynxstop.artifacts import atomic
from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.artifacts.provenance import Provenance
from lynxstop.artifacts.threshold import Threshold
from lynxstop.core.cues import CueSet
from lynxstop.core.points import CUE
from lynxstop.core.policy import Cut, Level, StopPolicy
from lynxstop.core.thinking import Delimiters
from lynxstop.errors import BundleError, ConfigError, StepError
from lynxstop.probes.probe import Probe
from lynxstop.rules.base import Rule
from lynxstop.rules.served import serve
from lynxstop.rules.table import rule_from

SCHEMA_VERSION = 1
_MAX_POLICY_BYTES = 4 << 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CertifiedLevel(_Strict):
    """One line of the menu: a risk level and the threshold that its certificate allows."""

    risk: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    loss: str
    method: str
    threshold: Threshold
    column: str | None = None
    group: str | None = None
    """The requests it is for: those with this value in this column; None is all."""
    certificate: str
    """File of the certificate, relative to the bundle."""
    sha256: str


class ServedSampling(_Strict):
    """Sampling parameters under which the bundle was collected, and is to be served."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    answer_tokens: int


class ServedRule(_Strict):
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
        return rule_from(self.name, self.constants)


class Policy(_Strict):
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
    cut: Cut = "behind"
    min_tokens: int = 0
    cooldown: int = 0
    budget: int | None = None
    target: str
    """What the probe or the rule was trained to foresee: "agrees" or "right"."""
    probe_sha256: str | None
    """None: there is no probe, and the rule reads no hidden states."""
    training_problems_sha256: str
    """Digest of the sorted ids of the training problems."""
    training_data_sha256: str
    default_risk: float | None = None
    levels: tuple[CertifiedLevel, ...] = ()
    rule: ServedRule | None = None
    """None: the probe's logit is the score, at cues."""
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
        """Levels of all requests, without those of groups."""
        return tuple(level for level in self.levels if level.group is None)

    def stop_policy(self) -> StopPolicy:
        """The policy as the core takes it."""
        return StopPolicy(
            exit_ids=self.exit_ids,
            levels=tuple(Level(level.risk, level.threshold, level.group) for level in self.levels),
            min_tokens=self.min_tokens,
            cooldown=self.cooldown,
            budget=self.budget,
            points=CUE if self.rule is None else self.rule.points,
            every=0 if self.rule is None else self.rule.every,
            rule=None if self.rule is None else serve(self.rule.rule),
        )


class TrainingScores(_Strict):
    """Out-of-fold logits of the training split: shape (cues,), and the problems they come from."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    scores: NDArray[np.float32]
    problems: tuple[str, ...]


class Bundle(_Strict):
    """A loaded bundle."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    path: Path
    policy: Policy
    probe: Probe | None

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Load and check a bundle.

        Raises
        ------
        StepError
            When there is no bundle at `path`.
        BundleError
            When a file is missing, damaged, tampered with, or of an unknown version.
        """
        policy = _read_policy(path / "policy.json")
        probe = _read_probe(path / "probe.safetensors", policy)
        for level in policy.levels:
            _check_certificate(path, level)
        if policy.default_risk is not None and policy.default_risk not in {v.risk for v in policy.pooled}:
            raise BundleError(
                f"The default risk {policy.default_risk:g} of {path} is not one of its certified levels.",
                hint="Run `lynxstop calibrate` with --default-risk again.",
            )
        return cls(path=path, policy=policy, probe=probe)

    def training_scores(self) -> TrainingScores:
        """Read the out-of-fold scores that calibration fixes its thresholds on.

        Raises
        ------
        BundleError
            When the file is missing or damaged.
        """
        path = self.path / "scores.safetensors"
        try:
            tensors = load_tensors(path.read_bytes())
            problems = bytes(tensors["problems"].tobytes()).decode().split("\n")
            return TrainingScores(scores=tensors["scores"].astype(np.float32), problems=tuple(problems))
        except (OSError, SafetensorError, KeyError, UnicodeDecodeError) as error:
            raise BundleError(
                f"{path} is missing or damaged: {error}.", hint="Run `lynxstop train` again."
            ) from error

    def training(self) -> dict[str, Any]:
        """Read how the probe was chosen."""
        content: dict[str, Any] = json.loads((self.path / "training.json").read_text())
        return content

    def with_levels(
        self, levels: list[CertifiedLevel], certificates: dict[str, str], default_risk: float | None
    ) -> Bundle:
        """Write certified levels into the bundle on disk, replacing all of the same risk, groups included.

        `certificates` maps file names relative to the bundle to their JSON text. The policy is written last,
        so an interrupted call leaves the bundle as it was.
        """
        new = {level.risk for level in levels}
        kept = [old for old in self.policy.levels if old.risk not in new]
        if len({level.column for level in (*kept, *levels)} - {None}) > 1:
            raise ConfigError(
                "The groups of a bundle come from one column.",
                hint="Certify all its levels again, by the same --by.",
            )
        merged = tuple(sorted([*kept, *levels], key=lambda level: (level.risk, level.group or "")))
        policy = self.policy.model_copy(update={"levels": merged, "default_risk": default_risk})
        for name, text in certificates.items():
            atomic.write_text(self.path / name, text)
        write_policy(self.path, policy)
        return Bundle(path=self.path, policy=policy, probe=self.probe)


def write_bundle(
    path: Path, policy: Policy, probe: Probe | None, scores: TrainingScores, training: Mapping[str, Any]
) -> Bundle:
    """Write a new, not yet calibrated bundle; the policy goes last, so that an interrupted write is no
    bundle.

    `policy.probe_sha256` is set to the digest of the written probe, or to None without one.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / "policy.json").unlink(missing_ok=True)
    weights = path / "probe.safetensors"
    if probe is None:
        weights.unlink(missing_ok=True)
    else:
        probe.save(weights)
    problems = np.frombuffer("\n".join(scores.problems).encode(), dtype=np.uint8)
    atomic.write_bytes(
        path / "scores.safetensors", save_tensors({"scores": scores.scores, "problems": problems})
    )
    atomic.write_text(path / "training.json", json.dumps(training, indent=2) + "\n")
    digest = None if probe is None else atomic.sha256(weights)
    write_policy(path, policy.model_copy(update={"probe_sha256": digest}))
    return Bundle.load(path)


def write_policy(path: Path, policy: Policy) -> None:
    """Write policy.json atomically."""
    atomic.write_text(path / "policy.json", json.dumps(policy.model_dump(mode="json"), indent=2) + "\n")


def _read_probe(path: Path, policy: Policy) -> Probe | None:
    if policy.probe_sha256 is None:
        if policy.stop_policy().needs_probe:
            raise BundleError(
                f"{path.parent} names no probe, and its scores need one.",
                hint="Copy the whole bundle again, or train again.",
            )
        return None
    if not path.is_file():
        raise BundleError(f"{path} is missing.", hint="Copy the whole bundle folder, or train again.")
    if atomic.sha256(path) != policy.probe_sha256:
        raise BundleError(
            f"{path} is not the probe this policy was made for (digest differs).",
            hint="Copy the whole bundle again, or train and calibrate again.",
        )
    return Probe.load(path)


def _check_certificate(path: Path, level: CertifiedLevel) -> None:
    """Refuse a level whose certificate is missing, was changed, or certifies something else."""
    certificate = (path / level.certificate).resolve()
    if not certificate.is_relative_to(path.resolve()) or not certificate.is_file():
        raise BundleError(f"The certificate of risk level {level.risk:g} is missing from {path}.")
    if atomic.sha256(certificate) != level.sha256:
        raise BundleError(
            f"{certificate} was changed after certification.",
            hint="Copy the bundle again, or run `lynxstop calibrate` again.",
        )
    certified = json.loads(certificate.read_text())
    group = certified.get("group") or {"column": None, "value": None}
    certified |= {"column": group["column"], "group": group["value"]}
    for name, value in level.model_dump(exclude={"certificate", "sha256"}).items():
        if certified.get(name) != value:
            raise BundleError(
                f"Risk level {level.risk:g} of {path} is not what its certificate says: {name} differs.",
                hint="Copy the bundle again, or run `lynxstop calibrate` again.",
            )


def _read_policy(path: Path) -> Policy:
    if not path.is_file():
        raise StepError(
            f"There is no bundle at {path.parent}: policy.json is missing.",
            hint="Make one with `lynxstop collect` and `lynxstop train`.",
        )
    if path.stat().st_size > _MAX_POLICY_BYTES:
        raise BundleError(f"{path} is larger than a policy can be.", hint="Copy the bundle again.")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise BundleError(f"{path} does not hold a policy.", hint="Copy the bundle again.")
        if content.get("schema_version") != SCHEMA_VERSION:
            raise BundleError(
                f"{path} has schema version {content.get('schema_version')!r}; "
                f"this lynxstop reads {SCHEMA_VERSION}.",
                hint="Upgrade lynxstop, or train the bundle again.",
            )
        return Policy.model_validate(content)
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{path} is damaged: {where + ': ' if where else ''}{first['msg']}.",
            hint="Copy the bundle again, or train it again.",
        ) from error
