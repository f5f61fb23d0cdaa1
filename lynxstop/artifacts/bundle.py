"""A bundle: one folder with the probe, the policy it is served under, and its certificates.

::

    BUNDLE/
    ├── policy.json          what is watched, how a stop is forced, certified levels, fingerprint, provenance
    ├── probe.safetensors    float32 weights; absent when the policy's rule reads no hidden states
    ├── scores.safetensors   out-of-fold scores of the training split, its problems and prompt digests
    ├── training.json        how the probe was chosen and what it is ahead of
    ├── certificates/        one JSON file per certified level
    ├── README.md            the card
    └── SHA256SUMS           digests of all of these, once it is calibrated
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from lynxstop.artifacts import atomic
from lynxstop.artifacts.migrations import CERTIFICATE, upgrade
from lynxstop.artifacts.policy import LATER_SETTINGS
from lynxstop.artifacts.policy import CertifiedLevel as CertifiedLevel
from lynxstop.artifacts.policy import Policy as Policy
from lynxstop.artifacts.policy import ServedRule as ServedRule
from lynxstop.artifacts.policy import ServedSampling as ServedSampling
from lynxstop.artifacts.policy_file import MAX_CERTIFICATE, read_object, read_policy, write_policy
from lynxstop.artifacts.probe import Probe
from lynxstop.artifacts.sums import SUMS
from lynxstop.errors import BundleError, ConfigError

SCORES, TRAINING, WEIGHTS = "scores.safetensors", "training.json", "probe.safetensors"
FOLDER, CERTIFICATES = "certificates", ("risk-*.json", "evidence-*.parquet")
MAX_TENSORS = 256 << 20
"""Bytes of a file of tensors: many times what the widest models need."""
_MAX_TRAINING = 16 << 20
_AGAIN = "Copy the whole bundle again, or train and calibrate again."


@dataclass(frozen=True, slots=True, eq=False)
class TrainingScores:
    """Out-of-fold scores of the training split: float32, shape (cues,), and the problems they come from."""

    scores: NDArray[np.float32]
    problems: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    """Digests of their prompts; empty where they were not recorded."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A loaded bundle; `probe` is None where the policy's rule reads no hidden states."""

    path: Path
    policy: Policy
    probe: Probe | None

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Load a bundle and check all that is served.

        Raises
        ------
        StepError
            When there is no bundle at `path`.
        BundleError
            When a file is missing, cannot be read, or is too large, damaged, tampered with, or of a newer
            version.
        """
        try:
            policy = read_policy(path)
            probe = _read_probe(path / WEIGHTS, policy)
            _check_levels(path, policy)
        except OSError as error:
            raise BundleError(
                f"{error.filename or path} cannot be read: {error.strerror}.",
                hint="The user that this runs as must be able to read the whole folder.",
            ) from error
        return cls(path=path, policy=policy, probe=probe)

    def check(self) -> None:
        """Check the files that are not served, too.

        Raises
        ------
        BundleError
            When one is missing, too large, damaged or changed.
        """
        self.training_scores()
        self.training()

    def training_scores(self) -> TrainingScores:
        """Read the out-of-fold scores that calibration fixes its thresholds on.

        Raises
        ------
        BundleError
            When the file is missing, too large, damaged or changed.
        """
        path = self._checked(SCORES, MAX_TENSORS)
        try:
            tensors = load_tensors(path.read_bytes())
            scores, problems = tensors["scores"], tensors["problems"]
            if (
                scores.dtype != np.float32
                or problems.dtype != np.uint8
                or not scores.ndim == problems.ndim == 1
            ):
                raise ValueError("it holds other numbers than scores and problems")
            prompts = tensors.get("prompts", np.zeros(0, np.uint8)).tobytes().decode("ascii")
            names = problems.tobytes().decode().split("\n")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{path} is damaged: {error}.", hint="Run `lynxstop train` again.") from error
        return TrainingScores(scores, tuple(names), tuple(prompts.split("\n")) if prompts else ())

    def training(self) -> dict[str, Any]:
        """Read how the probe was chosen.

        Raises
        ------
        BundleError
            When the file is missing, too large, damaged or changed.
        """
        return read_object(self._checked(TRAINING, _MAX_TRAINING), _MAX_TRAINING, "a training report")

    def with_levels(
        self, levels: list[CertifiedLevel], certificates: dict[str, str], default_risk: float | None
    ) -> Bundle:
        """Write certified levels into the bundle on disk, replacing all of the same risk and sampling, groups
        included.

        `certificates` maps file names relative to the bundle to their JSON text. The policy is written last,
        so an interrupted call leaves the bundle as it was.
        """
        new = {(level.risk, level.sampling) for level in levels}
        kept = [old for old in self.policy.levels if (old.risk, old.sampling) not in new]
        if len({level.column for level in (*kept, *levels)} - {None}) > 1:
            raise ConfigError(
                "The groups of a bundle come from one column.",
                hint="Certify all its levels again, by the same --by.",
            )
        merged = tuple(sorted([*kept, *levels], key=_place))
        policy = self.policy.model_copy(update={"levels": merged, "default_risk": default_risk})
        for name, text in certificates.items():
            atomic.write_text(self.path / name, text)
        write_policy(self.path, policy)
        return replace(self, policy=policy)

    def _checked(self, name: str, most: int) -> Path:
        path = self.path / name
        _require_file(path, most)
        if name in self.policy.files and atomic.sha256(path) != self.policy.files[name]:
            raise BundleError(f"{path} is damaged or was changed: its digest differs.", hint=_AGAIN)
        return path


def _place(level: CertifiedLevel) -> tuple[float, str, str]:
    """Sort levels by risk, then those of the bundle's own sampling, then those of all requests first."""
    sampling = level.served.sampling
    return level.risk, "" if sampling is None else sampling.label, level.group or ""


def write_bundle(
    path: Path, policy: Policy, probe: Probe | None, scores: TrainingScores, training: Mapping[str, Any]
) -> Bundle:
    """Write a new, not yet calibrated bundle in place of any that is there, whose certificates are removed;
    the policy goes last, so that an interrupted write is no bundle.

    `policy.probe_sha256` is set to the digest of the written probe, or to None without one, and
    `policy.files` to those of the other files.
    """
    path.mkdir(parents=True, exist_ok=True)
    for name in ("policy.json", SUMS):
        (path / name).unlink(missing_ok=True)
    for pattern in CERTIFICATES:
        for old in (path / FOLDER).glob(pattern):
            old.unlink()
    weights = path / WEIGHTS
    if probe is None:
        weights.unlink(missing_ok=True)
    else:
        probe.save(weights)
    texts = {"problems": scores.problems, "prompts": scores.prompts}
    tensors = {name: np.frombuffer("\n".join(of).encode(), np.uint8) for name, of in texts.items()}
    atomic.write_bytes(path / SCORES, save_tensors({"scores": scores.scores, **tensors}))
    atomic.write_text(path / TRAINING, json.dumps(training, indent=2) + "\n")
    written = {
        "probe_sha256": None if probe is None else atomic.sha256(weights),
        "files": {name: atomic.sha256(path / name) for name in (SCORES, TRAINING)},
    }
    write_policy(path, policy.model_copy(update=written))
    return Bundle.load(path)


def _require_file(path: Path, most: int) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing.", hint="Copy the whole bundle folder, or train again.")
    if path.stat().st_size > most:
        raise BundleError(f"{path} is larger than {most >> 20} MiB and is not read.", hint=_AGAIN)


def _read_probe(path: Path, policy: Policy) -> Probe | None:
    if policy.probe_sha256 is None:
        if policy.stop_policy().needs_probe:
            raise BundleError(f"{path.parent} names no probe, and its scores need one.", hint=_AGAIN)
        return None
    _require_file(path, MAX_TENSORS)
    if atomic.sha256(path) != policy.probe_sha256:
        raise BundleError(f"{path} is not the probe this policy was made for (digest differs).", hint=_AGAIN)
    return Probe.load(path)


def _check_levels(path: Path, policy: Policy) -> None:
    """Refuse levels that are not what their certificates say of this very policy."""
    served = policy.model_dump(mode="json")
    for level in policy.levels:
        _check_certificate(path, level, served)
    if policy.default_risk is not None and policy.default_risk not in {v.risk for v in policy.pooled}:
        raise BundleError(
            f"The default risk {policy.default_risk:g} of {path} is not one of its certified levels.",
            hint="Run `lynxstop calibrate` with --default-risk again.",
        )


def _check_certificate(path: Path, level: CertifiedLevel, served: Mapping[str, Any]) -> None:
    again = "Copy the bundle again, or run `lynxstop calibrate` again."
    certificate = (path / level.certificate).resolve()
    if not certificate.is_relative_to(path.resolve()) or not certificate.is_file():
        raise BundleError(f"The certificate of risk level {level.risk:g} is missing from {path}.", hint=again)
    _require_file(certificate, MAX_CERTIFICATE)
    if atomic.sha256(certificate) != level.sha256:
        raise BundleError(f"{certificate} was changed after certification.", hint=again)
    content = read_object(certificate, MAX_CERTIFICATE, "a certificate")
    certified = upgrade(content, CERTIFICATE, str(certificate), BundleError)
    parts = {name: certified.get(name) or {} for name in ("group", "fingerprint", "digests")}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise BundleError(f"{certificate} is damaged.", hint=again)
    group = parts["group"]
    claimed = certified | {"column": group.get("column"), "group": group.get("value")}
    said = level.model_dump(mode="json", exclude={"certificate", "sha256", "sampling"})
    if level.sampling is not None:
        served = {**served, "sampling": level.sampling.model_dump(mode="json")}
    # What a certificate leaves out was not there to be chosen when it was made.
    rests_on = LATER_SETTINGS | parts["fingerprint"]
    probe = parts["digests"].get("probe")
    differing = [name for name, value in said.items() if claimed.get(name) != value]
    if parts["fingerprint"]:
        differing += [name for name, value in rests_on.items() if served.get(name) != value]
        differing += ["probe"] * (probe != served["probe_sha256"])
    if differing:
        raise BundleError(
            f"Risk level {level.risk:g} of {path} is not what its certificate says: "
            f"{', '.join(differing)} {'differ' if differing[1:] else 'differs'}.",
            hint=again,
        )
