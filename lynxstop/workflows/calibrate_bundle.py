"""Certify the levels of a bundle on recorded traces, and write them into it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts import atomic
from lynxstop.artifacts.bundle import FOLDER, SCORES, Bundle, CertifiedLevel, Policy, ServedSampling
from lynxstop.artifacts.card import card
from lynxstop.artifacts.fingerprint import require_same
from lynxstop.artifacts.front_matter import Measured
from lynxstop.artifacts.hub import own_files
from lynxstop.artifacts.served import SHARED, served_as
from lynxstop.artifacts.sums import SUMS, read_sums, write_sums
from lynxstop.calibration.bounds import clopper_pearson_interval
from lynxstop.calibration.certificate import Certificate, Grading
from lynxstop.calibration.evidence import write_evidence
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import Calibration, calibrate
from lynxstop.calibration.traces import TraceTable
from lynxstop.core.points import CUE
from lynxstop.core.policy import GUARDS
from lynxstop.errors import ConfigError, FingerprintError
from lynxstop.grading.second import disagreement_rate
from lynxstop.recordings.storage import Recording
from lynxstop.replay.recorded import from_recorded
from lynxstop.replay.serving import scores_of
from lynxstop.replay.thinned import guards_of

_MOST_PAIRS = 5000
"""Pairs of answers that the second comparator judges; it takes milliseconds for each."""
THRESHOLDS = "thresholds"
"""Key, among a certificate's digests, of what its thresholds were fixed on."""
_SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "answer_tokens")


def scored(
    bundle: Bundle,
    data: Recording,
    *,
    loss: str = "disagree",
    by: str | None = None,
    split: str | None = None,
    subgroups: Sequence[str] | None = None,
) -> TraceTable:
    """Score recorded traces with the bundle's probe and rule, under the bundle's guards.

    Raises
    ------
    FingerprintError
        When the traces were recorded with another model, or otherwise than the bundle is served.
    DataError
        As `from_recorded`.
    """
    check_same(bundle.policy, data.meta)
    return from_recorded(
        data,
        scores_of(bundle, data),
        loss=loss,
        guards=bundle.policy.stop_policy(),
        by=by,
        split=split,
        abstains=bundle.policy.rule is not None,
        subgroups=subgroups,
    )


def calibrate_bundle(
    bundle: Bundle,
    data: Recording,
    options: CalibrationOptions,
    *,
    train: Recording | None = None,
    split: str | None = None,
    weights: NDArray[np.float64] | None = None,
    elsewhere: int = 0,
) -> Calibration:
    """Certify levels of a bundle; nothing is written.

    Parameters
    ----------
    bundle, data
        `data` must hold no training problem of the bundle.
    options : CalibrationOptions
        What is to be certified, and how.
    train : Recording, optional
        Recorded training traces, which the selective risk needs, and which fix the thresholds then. Else all
        of float32 is tested; only a method that needs a grid takes it from the bundle's out-of-fold scores.
    split : str, optional
        Take only the traces of this split of `data`.
    weights, elsewhere : optional
        As in `calibrate`.

    Raises
    ------
    FingerprintError, ConfigError, DataError, CalibrationError
    """
    table = scored(bundle, data, loss=options.loss, by=options.by, split=split, subgroups=options.subgroups)
    training = bundle.training_scores()
    policy = bundle.policy
    fixed_on: dict[str, str] = {}
    fixed: TraceTable | NDArray[np.float32] | None = None
    if train is not None:
        fixed, fixed_on = scored(bundle, train, loss=options.loss), {THRESHOLDS: train.digest}
    elif options.certifier.needs == "grid":
        fixed = training.scores[np.isfinite(training.scores)]
        fixed_on = {THRESHOLDS: policy.files.get(SCORES, "")}
    return calibrate(
        table,
        options,
        train_scores=fixed,
        train_problems=training.problems,
        train_prompts=training.prompts,
        weights=weights,
        elsewhere=elsewhere,
        digests=digests_of(policy, data.digest) | fixed_on,
        fingerprint=served_as(policy),
        grading=graded_twice(data),
    )


def digests_of(policy: Policy, data: str) -> dict[str, str]:
    """Return the digests that a certificate names: of the probe, the calibration data, the training ids."""
    probe = {} if policy.probe_sha256 is None else {"probe": policy.probe_sha256}
    return probe | {"data": data, "training_problems": policy.training_problems_sha256}


def graded_twice(data: Recording) -> Grading | None:
    """Let the second comparator judge recorded pairs of answers; None where answers are not mathematics."""
    if data.meta.grader != "math":
        return None
    traces, cues = data.traces(), data.cues()
    full = np.repeat(np.array(traces["full_answer"].to_pylist(), object), traces["cues"].to_numpy())
    pairs = zip(cues["trial_answer"].to_pylist(), full.tolist(), strict=True)
    distinct = dict.fromkeys(pair for pair in pairs if all(pair))
    found = disagreement_rate(islice(distinct, _MOST_PAIRS))
    return Grading(pairs=found.n, contradicted=found.disagree)


def install(
    bundle: Bundle,
    calibration: Calibration,
    default_risk: float | None = None,
    further: Sequence[Calibration] = (),
) -> Bundle:
    """Write certificates and their evidence into the bundle's folder, levels into its policy, and its card.

    A request of a certified group is served at its group's level, any other at that of all requests. The
    level that requests get by default stays, or becomes `default_risk`, or else the strictest that exits at
    all. `further` are those of other samplings, as `calibrate_samplings` gives them.

    Raises
    ------
    ConfigError
        When `default_risk` is not a level that the bundle has or gets; nothing is written then.
    """
    offered = {level.risk for level in bundle.policy.pooled} | {c.risk for c in calibration.pooled}
    if default_risk is not None and default_risk not in offered:
        raise ConfigError(
            f"The default risk {default_risk:g} is not one of the bundle's levels: "
            f"{', '.join(f'{risk:g}' for risk in sorted(offered)) or 'none'}.",
            hint="Certify it too, by --risk, or choose one of them.",
        )
    texts, levels = {}, []
    for made in (calibration, *further):
        write_evidence(made.evidence, bundle.path / FOLDER / evidence_name(made.certificates[0]))
        for certificate in made.certificates:
            name, text = f"{FOLDER}/{certificate_name(certificate)}", certificate.to_json()
            texts[name] = text
            levels.append(_level(certificate, name, text, bundle.policy))
    if default_risk is None:
        default_risk = bundle.policy.default_risk
    if default_risk is None:
        default_risk = next(
            (v.risk for v in levels if v.served.whose is None and np.isfinite(v.threshold)), None
        )
    certified = bundle.with_levels(levels, texts, default_risk)
    _prune(certified)
    text = card(certified.policy, certified.training(), measured(certified))
    atomic.write_text(certified.path / "README.md", text)
    write_bundle_sums(certified.path)
    return certified


def _level(certificate: Certificate, name: str, text: str, policy: Policy) -> CertifiedLevel:
    sampling = ServedSampling.model_validate(certificate.fingerprint.get("sampling", policy.sampling))
    return CertifiedLevel(
        risk=certificate.risk,
        confidence=certificate.confidence,
        loss=certificate.loss,
        method=certificate.method,
        threshold=certificate.threshold,
        column=certificate.group.column if certificate.group else None,
        group=certificate.group.value if certificate.group else None,
        sampling=None if sampling.conditions.draws_like(policy.sampling.conditions) else sampling,
        certificate=name,
        sha256=_sha256(text),
    )


def write_bundle_sums(folder: Path) -> None:
    """Write the digests of a bundle's files into it, after all of them."""
    write_sums(folder, [name for name in own_files(folder) if name != SUMS])


def measured(bundle: Bundle) -> list[Measured]:
    """Return the levels of all requests in numbers, from their certificates."""
    pooled = [level for level in bundle.policy.levels if level.group is None]
    return [_numbers(Certificate.load(bundle.path / one.certificate), one.served.whose) for one in pooled]


def _numbers(found: Certificate, at: str | None) -> Measured:
    return Measured(
        promise=found.promise,
        risk=found.risk,
        confidence=found.confidence,
        loss=found.loss,
        problems=found.problems,
        lost=found.observed / found.problems,
        exited=found.exits / found.problems,
        lost_interval=_interval(found.observed, found.problems),
        exited_interval=_interval(found.exits, found.problems),
        bound=found.bound,
        saved=found.saved,
        at=at,
    )


def _interval(count: float, n: int) -> tuple[float, float] | None:
    """Interval of a share; None for means over several samples, which are not counts."""
    return clopper_pearson_interval(count, n) if count == int(count) else None


def _prune(bundle: Bundle) -> None:
    """Remove certificates that no level names any more, and evidence that no certificate rests on."""
    folder, named = bundle.path / FOLDER, {level.certificate for level in bundle.policy.levels}
    for path in folder.glob("risk-*.json"):
        if f"{FOLDER}/{path.name}" not in named:
            path.unlink()
    needed = {evidence_name(Certificate.load(path)) for path in folder.glob("risk-*.json")}
    for path in folder.glob("evidence-*.parquet"):
        if path.name not in needed:
            path.unlink()


def write_certificates(calibration: Calibration, folder: Path) -> None:
    """Write certificates and their evidence into a folder, the evidence first."""
    names = [evidence_name(calibration.certificates[0])]
    write_evidence(calibration.evidence, folder / names[0])
    for certificate in calibration.certificates:
        names.append(certificate_name(certificate))
        atomic.write_text(folder / names[-1], certificate.to_json())
    kept = [name for name in read_sums(folder) or {} if (folder / name).is_file()]
    write_sums(folder, {*kept, *names})


def certificate_name(certificate: Certificate) -> str:
    """File name of a certificate; its digest keeps a replaced one in place until the policy names the new."""
    of = "group" if certificate.group else "all"
    if certificate.at is not None:
        of += "-" + re.sub(r"[^0-9a-z.]+", "-", certificate.at)
    return f"risk-{certificate.risk:g}-{of}-{_sha256(certificate.to_json())[:8]}.json"


def evidence_name(certificate: Certificate) -> str:
    """File name of a certificate's evidence."""
    return f"evidence-{certificate.evidence_sha256[:16]}.parquet"


def check_same(policy: Policy, meta: Any) -> None:
    """Refuse traces that were not recorded as the bundle is served; no statistics are looked at.

    Raises
    ------
    FingerprintError
        Naming what differs.
    """
    require_same(policy.fingerprint, meta.fingerprint, "The recorded data")
    differing = [name for name in (*SHARED, "cut", "grader") if getattr(policy, name) != getattr(meta, name)]
    differing += [name for name in _SAMPLING if getattr(policy.sampling, name) != getattr(meta, name)]
    recorded = guards_of(meta)
    if recorded != GUARDS:  # else every decision point was recorded, and any guards can be replayed
        differing += [name for name in GUARDS if getattr(policy, name) != recorded[name]]
        points = (CUE, 0) if policy.rule is None else (policy.rule.points, policy.rule.every)
        differing += ["points"] * (points != (meta.points, meta.every))
    if differing:
        raise FingerprintError(
            f"The data were recorded otherwise than the bundle is served: {', '.join(differing)} differ.",
            hint="Collect with the bundle's recipe, or train on data like these.",
        )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
