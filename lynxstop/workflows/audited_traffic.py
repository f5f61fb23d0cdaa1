"""Certificates from the audits of live traffic: what is served today, tested on requests of today.

An audit compares the answer of an exit with that of the finished thinking. So it knows the loss at one
threshold, the one that was served: what a stricter one would have lost lies after the exit, and what a more
lenient one would have lost was never answered. Every level is therefore tested at its own threshold, on the
audits of requests that were served at it, and at no other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lynxstop.artifacts.bundle import Bundle, CertifiedLevel
from lynxstop.artifacts.served import served_as
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import Calibration, calibrate
from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import CalibrationError, ConfigError, DataError
from lynxstop.monitor.damage import Damage
from lynxstop.monitor.entries import Audit, Begun, Damaged, Lost, Reset
from lynxstop.monitor.journal import Journal
from lynxstop.monitor.levels import open_monitors
from lynxstop.monitor.monitor import LevelKey
from lynxstop.workflows.calibrate_bundle import THRESHOLDS, digests_of
from lynxstop.workflows.calibrate_samplings import sampled_as

LOSS = "disagree"
METHOD = "anytime"
"""Audits are looked at whenever somebody wants to, and more of them come in."""


@dataclass(slots=True)
class LevelAudits:
    """Audits of a level since its last reset.

    Attributes
    ----------
    ended : list of Audit
    lost : int
        Audits that began and did not end, and entries that are damaged: losses, each of them.
    """

    ended: list[Audit] = field(default_factory=list)
    lost: int = 0

    @property
    def count(self) -> int:
        """How many requests were audited."""
        return len(self.ended) + self.lost


@dataclass(frozen=True, slots=True)
class AuditedTraffic:
    """What a journal holds since the last resets.

    Attributes
    ----------
    levels : dict from LevelKey to LevelAudits
    repeats : int
        Audited requests whose prompt an earlier one had; each counts, as in the traffic.
    calibrated : int
        Audited requests whose prompt is one of the calibration data.
    """

    levels: dict[LevelKey, LevelAudits]
    repeats: int
    calibrated: int


def read_audits(journal: Journal) -> AuditedTraffic:
    """Read a journal of audits; comparisons of two full answers are left out.

    Raises
    ------
    DataError
        When the journal cannot be read, or audits were lost since it was reset as a whole.
    """
    levels: dict[LevelKey, LevelAudits] = {}
    pending: dict[str, LevelKey] = {}
    damage, lost = Damage(), ""
    for entry, _ in journal.read(0):
        if isinstance(entry, Damaged):
            damage.total += 1
        elif isinstance(entry, Reset):
            levels = {key: audits for key, audits in levels.items() if not key.within(entry)}
            pending = {name: key for name, key in pending.items() if not key.within(entry)}
            damage.reset(entry)
            if not any((entry.model, entry.group, entry.risk)):
                lost = ""
        elif isinstance(entry, Lost):
            lost = entry.why
        elif isinstance(entry, Begun):
            pending[entry.id] = LevelKey(entry.model, entry.group, entry.risk)
        elif not entry.repeat and (not entry.id or pending.pop(entry.id, None) is not None):
            key = LevelKey(entry.model, entry.group, entry.risk)
            levels.setdefault(key, LevelAudits()).ended.append(entry)
    if lost:
        raise DataError(lost, hint="Run `lynxstop monitor reset`, and audit anew.")
    for key in pending.values():
        levels.setdefault(key, LevelAudits()).lost += 1
    for key, audits in levels.items():
        audits.lost += damage.of(key)
    ended = [entry for audits in levels.values() for entry in audits.ended]
    prompts = [entry.prompt for entry in ended if entry.prompt]
    return AuditedTraffic(levels, len(prompts) - len(set(prompts)), sum(one.calibrated for one in ended))


def audited_levels(
    bundle: Bundle, traffic: AuditedTraffic, risks: Sequence[float] = ()
) -> list[CertifiedLevel]:
    """Return which levels can be certified again: all that have audits, or those of them at these risks.

    Raises
    ------
    ConfigError
        When none was served at a risk that is asked for: audits at other thresholds say nothing about it.
    DataError
        When there is none, or the audits are of several models.
    """
    if len(models := {key.model for key in traffic.levels}) > 1:
        raise DataError(
            f"The audits are of several models: {', '.join(sorted(models))}.",
            hint="Audit each model into a folder of its own, or reset the models of other bundles.",
        )
    if any(level.group is not None for level in bundle.policy.levels):
        raise ConfigError(
            "The bundle has levels of groups, which are certified together.",
            hint="Record traffic in shadow mode, and use --from-shadow with --by.",
        )
    audited = {(key.group, key.risk) for key in traffic.levels}
    served = [level for level in bundle.policy.levels if math.isfinite(level.threshold)]
    found = [level for level in served if (level.served.whose, level.risk) in audited]
    if not found:
        raise DataError(
            "There are no audits of a level of this bundle since the last reset.",
            hint="Give the folder that [monitor] state of its proxy names, after requests were audited.",
        )
    known = sorted({level.risk for level in found})
    if other := sorted(set(risks) - set(known)):
        raise ConfigError(
            f"No audited request was served at {', '.join(f'{risk:g}' for risk in other)}: "
            f"audits at {', '.join(f'{risk:g}' for risk in known)} are of exits at other thresholds.",
            hint="Leave --risk out, or certify traffic that was recorded in shadow mode: --from-shadow.",
        )
    return [level for level in found if not risks or level.risk in risks]


def calibrate_from_audits(
    bundle: Bundle, traffic: AuditedTraffic, levels: Sequence[CertifiedLevel], options: CalibrationOptions
) -> tuple[list[Calibration], dict[str, int | None]]:
    """Certify levels of a bundle again, each at its served threshold; nothing is written.

    Parameters
    ----------
    bundle : Bundle
    traffic : AuditedTraffic
    levels : sequence of CertifiedLevel
        As `audited_levels` gives them.
    options : CalibrationOptions
        Its levels are those risks, which share the error.

    Returns
    -------
    calibrations : list of Calibration
        One per level, in their order; a level that its audits refute never exits.
    too_few : dict from str to int or None
        Levels whose audits are too few to say either, by `name_of`, and how many more it takes.

    Raises
    ------
    ConfigError
        On another loss than audits measure, or a choice that needs more than they hold.
    DataError
        When audits were made at another threshold than the bundle has.
    CalibrationError
        When no level has enough audits.
    """
    if options.loss != LOSS or options.by is not None or options.unit != "request":
        raise ConfigError(
            f"Audits measure the loss {LOSS!r} of all requests.", hint="Leave out --loss, --by and --unit."
        )
    done: list[Calibration] = []
    too_few: dict[str, int | None] = {}
    of_level = {(key.group, key.risk): audits for key, audits in traffic.levels.items()}
    for level in levels:
        audits = of_level[level.served.whose, level.risk]
        made = _certified(bundle, level, audits, options)
        [certificate] = made.certificates
        idle = not audits.lost and not any(entry.exited for entry in audits.ended)
        if certificate.refused and (idle or certificate.missing is not None):
            too_few[name_of(level.served.whose, level.risk)] = certificate.missing
        else:
            done.append(made)
    if not done:
        said = ", ".join(f"{name} takes {said_too_few(more)}" for name, more in too_few.items())
        raise CalibrationError(
            f"The audits are too few to certify a level: {said}.",
            hint="Wait, or raise [monitor] audit. The bundle stays as it is.",
        )
    return done, too_few


def name_of(whose: str | None, risk: float) -> str:
    """Name a level by its risk, and by its sampling where that is not the bundle's own."""
    return f"{risk:g}" if whose is None else f"{risk:g} at {whose}"


def said_too_few(more: int | None) -> str:
    """Say what a level lacks whose audits are too few."""
    return "an audited request that exits" if more is None else f"about {more} more"


def _certified(
    bundle: Bundle, level: CertifiedLevel, audits: LevelAudits, options: CalibrationOptions
) -> Calibration:
    samplings = {one.sampling for one in bundle.policy.levels}
    policy = sampled_as(bundle, level.sampling or bundle.policy.sampling).policy
    training = bundle.training_scores()
    table = _table(level, audits)
    content = json.dumps([table.digest(), level.risk]).encode()
    found = calibrate(
        table,
        options,
        train_scores=np.array([level.threshold], dtype=np.float32),
        # The one threshold is that of the certificate which these audits test.
        digests=digests_of(policy, hashlib.sha256(content).hexdigest()) | {THRESHOLDS: level.sha256},
        train_problems=training.problems,
        # Each sampling that the bundle is certified at has its share of the error.
        elsewhere=len(samplings) - 1,
        fingerprint=served_as(policy),
    )
    return replace(found, certificates=tuple(one for one in found.certificates if one.risk == level.risk))


def _table(level: CertifiedLevel, audits: LevelAudits) -> TraceTable:
    """Give every audited request a trace: with one event where it was stopped, or with none."""
    above = np.nextafter(np.float32(level.threshold), np.float32(np.inf))
    lengths, scores, losses = [], [], []
    for entry in audits.ended:
        # One that was given up does not know its threshold, and is a loss at any.
        if entry.threshold is None and not (entry.exited and entry.loss == 1.0):
            raise DataError(
                "Some audits do not say at which threshold they were made.",
                hint="They are of an earlier version: run `lynxstop monitor reset`, and audit anew.",
            )
        if entry.threshold not in (None, level.threshold):
            raise DataError(
                f"Some audits at {level.risk:g} were made at the threshold {entry.threshold:g}, and the "
                f"bundle has {level.threshold:g}.",
                hint="Run `lynxstop monitor reset` after every calibration, and audit anew.",
            )
        lengths.append(int(entry.exited))
        if entry.exited:
            # An exit by the token budget need not exceed the threshold.
            scores.append(max(above, np.float32(-np.inf if entry.exit_score is None else entry.exit_score)))
            losses.append(entry.loss)
    lengths += [1] * audits.lost
    scores += [above] * audits.lost
    losses += [1.0] * audits.lost
    names = [f"audit-{number:07d}" for number in range(len(lengths))]
    return TraceTable.from_arrays(problem_ids=names, lengths=lengths, scores=scores, losses=losses)


def changed(journal: Journal) -> dict[str, str]:
    """Say of which levels the risk rose lately: a certificate on all audits is about an older mix, too."""
    findings = open_monitors(journal, None).findings
    return {name_of(key.group, key.risk): found.reason for key, found in findings.items() if found.changed}


def summary(traffic: AuditedTraffic, too_few: dict[str, int | None]) -> dict[str, Any]:
    """Return what to tell beside the certificates, as plain JSON."""
    return {
        "audits": {name_of(key.group, key.risk): audits.count for key, audits in traffic.levels.items()},
        "lost": sum(audits.lost for audits in traffic.levels.values()),
        "repeated_prompts": traffic.repeats,
        "calibration_prompts": traffic.calibrated,
        "too_few": too_few,
    }
