"""Check a bundle, a folder of certificates or one certificate, taking no file's word for another's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lynxstop.artifacts.bundle import FOLDER, SCORES, Bundle
from lynxstop.artifacts.hub import own_files
from lynxstop.artifacts.policy_file import NAME
from lynxstop.artifacts.sums import SUMS, read_sums, sums_differ
from lynxstop.calibration.certificate import Certificate
from lynxstop.calibration.evidence import read_evidence
from lynxstop.calibration.grid import quantile_grid
from lynxstop.calibration.methods import method_named
from lynxstop.calibration.repeats import check_unseen
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.units import check_disjoint
from lynxstop.calibration.verify import differences
from lynxstop.errors import CalibrationError, DataError
from lynxstop.workflows.calibrate_bundle import THRESHOLDS, evidence_name


@dataclass(frozen=True)
class Verified:
    """One certificate, and what its evidence and its bundle do not confirm, as sentences."""

    path: Path
    certificate: Certificate
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Verification:
    """What `verify_path` returns; `differences` are those of files that are not certificates."""

    certificates: tuple[Verified, ...]
    differences: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether everything was confirmed."""
        return not self.differences and not any(one.differences for one in self.certificates)


def verify_path(path: Path, data: Path | None = None) -> Verification:
    """Recompute certificates from their evidence, and compare them with all that lies beside them.

    Parameters
    ----------
    path : Path
        A bundle, a folder of certificates, or a certificate.
    data : Path, optional
        The evidence, or the score table it was made from; found beside the certificate by default.

    Raises
    ------
    CalibrationError
        When there is no certificate.
    BundleError, DataError
        When a file is missing or damaged.
    """
    if not path.is_dir():
        return Verification((_verified(path, data, None),), tuple(_beside(path)))
    bundle = None
    if (path / NAME).is_file():
        bundle = Bundle.load(path)
        bundle.check()
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    certificates = sorted(folder.glob("risk-*.json"))
    if not certificates:
        raise CalibrationError(f"There is no certificate in {path}.", hint="Run `lynxstop calibrate`.")
    found = sums_differ(path)
    if bundle is not None:
        found += _about_bundle(bundle, certificates)
    return Verification(tuple(_verified(one, data, bundle) for one in certificates), tuple(found))


def _verified(path: Path, data: Path | None, bundle: Bundle | None) -> Verified:
    certificate = Certificate.load(path)
    evidence = read_evidence(data or path.parent / evidence_name(certificate), certificate)
    found = differences(certificate, evidence)
    if bundle is not None:
        found += _against_bundle(certificate, evidence, bundle)
    return Verified(path, certificate, tuple(found))


def _beside(path: Path) -> Iterator[str]:
    """What the digests of the folder, or of the bundle that it belongs to, say of one certificate."""
    names = (path.name, evidence_name(Certificate.load(path)))
    yield from sums_differ(path.parent, names)
    yield from sums_differ(path.parent.parent, [f"{path.parent.name}/{name}" for name in names])


def _about_bundle(bundle: Bundle, certificates: list[Path]) -> list[str]:
    named = {(bundle.path / level.certificate).resolve() for level in bundle.policy.levels}
    found = [
        f"{path.name} is the certificate of no level in {NAME}."
        for path in certificates
        if path.resolve() not in named
    ]
    if digests := read_sums(bundle.path):
        unnamed = set(own_files(bundle.path)) - {SUMS, *digests}
        found += [f"{name} is not named in {SUMS}." for name in sorted(unnamed)]
    card = bundle.path / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    for level in bundle.policy.levels:
        promise = Certificate.load(bundle.path / level.certificate).promise
        if text is not None and level.group is None and promise not in text:
            found.append(f"README.md does not say what is promised at risk {level.risk:g}.")
    problems = "\n".join(sorted(bundle.training_scores().problems))
    if hashlib.sha256(problems.encode()).hexdigest() != bundle.policy.training_problems_sha256:
        found.append(f"The training problems in {SCORES} are not those that {NAME} names.")
    return found


def _against_bundle(certificate: Certificate, evidence: TraceTable, bundle: Bundle) -> list[str]:
    found = []
    training = bundle.training_scores()
    if not certificate.fingerprint or not certificate.digests:
        found.append("It does not say which bundle it was made for.")
    elif certificate.digests.get("training_problems") != bundle.policy.training_problems_sha256:
        found.append(f"Its training problems are not those that {NAME} names.")
    try:
        check_disjoint(np.array(training.problems, dtype=np.str_), evidence.problem_ids)
        check_unseen(training.prompts, evidence.problem_ids, evidence.prompts)
    except DataError as error:
        found.append(error.message)
    if certificate.settings.grid is None:
        if THRESHOLDS in certificate.digests:
            found.append("It says where its thresholds come from, and tests every float32 number.")
        return found
    own = bundle.policy.files.get(SCORES)
    elsewhere = certificate.digests.get(THRESHOLDS, own) != own
    grid = quantile_grid(training.scores[np.isfinite(training.scores)])
    same = certificate.settings.grid == tuple(grid.tolist())
    if same == elsewhere and method_named(certificate.method).needs != "train":
        what = "are those of" if elsewhere else "were not fixed on"
        found.append(f"Its thresholds {what} the bundle's training scores, and it says otherwise.")
    return found
