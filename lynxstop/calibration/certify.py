"""From a claim and the evidence to a certificate: the computation that calibrating and verifying share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lynxstop._version import __version__
from lynxstop.calibration.case import Case, Floats, Method, Verdict, refusal
from lynxstop.calibration.certificate import Certificate, Claim, Tested
from lynxstop.calibration.groups import members
from lynxstop.calibration.losses import table_loss
from lynxstop.calibration.methods import method_named
from lynxstop.calibration.plan import missing
from lynxstop.calibration.promise import NOT_PROMISED, Unknown, Weighing, sentence
from lynxstop.calibration.repeats import joined, repeated
from lynxstop.calibration.subgroups import observed as observed_subgroups
from lynxstop.calibration.sweep import Curve
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.units import Units, as_units
from lynxstop.calibration.weighted import ESS_FLOOR, check_weights, effective_size, highest_weight
from lynxstop.errors import CalibrationError


def case_for(table: TraceTable, claim: Claim) -> Case:
    """Prepare the calibration problem of a claim's group.

    Raises
    ------
    CalibrationError
        When the losses are fractions and the method is valid for 0 and 1 only.
    """
    method, settings = method_named(claim.method), claim.settings
    mine = joined(members(table, claim.group))
    units = as_units(mine, settings.samples, settings.seed, settings.unit)
    if method.grows and units.table.traces < mine.traces:
        raise CalibrationError(
            f"The method {method.name!r} counts every trace, and some were left out: problems have several "
            "samples, or unequally many.",
            hint="Use --samples mean, and --unit problem where problems have unequal numbers of samples.",
        )
    losses = units.table.charged(settings.unknown_loss)
    _check_losses(method, units, losses)
    importance = None
    if settings.importance is not None:
        everyone = check_weights(np.asarray(settings.importance, dtype=np.float64), table)
        importance = everyone[np.searchsorted(table.trace_ids, units.table.trace_ids)]
    return Case(
        units=units,
        losses=losses,
        grid=None if settings.grid is None else np.asarray(settings.grid, dtype=np.float32),
        importance=importance,
        importance_limit=settings.importance_limit,
    )


def certify(case: Case, claim: Claim, table: TraceTable) -> Certificate:
    """Test a claim.

    Parameters
    ----------
    case : Case
        From `case_for`; may be shared by the levels of a group.
    claim : Claim
    table : TraceTable
        The whole table.
    """
    method = method_named(claim.method)
    if method.selective:
        case = replace(case, start=claim.settings.start)
    verdict = method.certify(case, claim.risk, claim.delta)
    at = _at(case, verdict)
    if at.exits[0] == 0 and not verdict.refused:
        # What never exits needs no threshold, and must not look certified.
        verdict = refusal(verdict)
        at = _at(case, verdict)
    evidence, again, table = table.digest(), repeated(members(table, claim.group)), case.units.table
    effective = None if case.importance is None else effective_size(case.units, case.importance)
    observed, exits, saved = float(at.losses[0]), float(at.exits[0]), _saved(case, at)
    return Certificate(
        **dict(claim),
        lynxstop=__version__,
        promise=sentence(
            claim,
            method,
            case.units,
            observed=observed,
            of=int(exits) if table_loss(claim.loss).selective else case.units.count,
            saved=saved,
            fractions=bool(((case.losses > 0) & (case.losses < 1)).any()),
            refused=verdict.refused,
            repeated=again or 0,
            weighing=_weighing(case, verdict, effective),
            unknown=_unknown(case, claim, verdict),
        ),
        not_promised=NOT_PROMISED,
        kind=method.promise,
        threshold=verdict.threshold,
        threshold_hex=verdict.threshold.hex(),
        losses=verdict.losses,
        n=verdict.n,
        p_value=verdict.p_value,
        bound=verdict.bound,
        observed=observed,
        exits=exits,
        saved=saved,
        problems=case.units.count,
        traces=table.traces,
        cues=len(table.scores),
        unknown=table.unknown,
        subgroups=observed_subgroups(case, verdict),
        repeated=again,
        missing=missing(
            verdict, method, units=case.units.count, risk=claim.risk, delta=claim.delta, effective=effective
        ),
        effective_size=effective,
        tested=_tested(verdict),
        evidence_sha256=evidence,
    )


def _at(case: Case, verdict: Verdict, weights: Floats | None = None) -> Curve:
    return case.at(np.array([verdict.threshold], dtype=np.float32), weights)


def _weighing(case: Case, verdict: Verdict, effective: float | None) -> Weighing | None:
    if case.importance is None or effective is None:
        return None
    shared = case.importance * case.units.weights
    share = float(_at(case, verdict, shared).losses[0]) / float(shared.sum())
    return Weighing(effective, ESS_FLOOR, highest_weight(case), share)


def _unknown(case: Case, claim: Claim, verdict: Verdict) -> Unknown | None:
    charge = claim.settings.unknown_loss
    if charge == 1.0:
        return None
    table = case.units.table
    judged = replace(case, losses=np.isnan(table.losses).astype(np.float64))
    return Unknown(charge, table.unknown, len(table.scores), float(_at(judged, verdict).losses[0]))


def _check_losses(method: Method, units: Units, losses: Floats) -> None:
    if method.fractions:
        return
    if ((losses > 0) & (losses < 1)).any():
        raise CalibrationError(
            f"The method {method.name!r} is valid for losses of 0 or 1, and some lie between.",
            hint="Use the method 'hoeffding_bentkus' or 'crc'.",
        )
    if (units.weights < 1).any():
        raise CalibrationError(
            f"The method {method.name!r} is not valid for the mean loss of several samples.",
            hint="Draw one sample per problem, or use the method 'hoeffding_bentkus' or 'crc'.",
        )


def _saved(case: Case, at: Curve) -> float | None:
    full = case.units.table.full_tokens
    if full is None:
        return None
    total = float((full * case.units.weights).sum())
    return float(at.saved[0]) / total if total else 0.0


def _tested(verdict: Verdict) -> Tested:
    sequence = verdict.sequence
    return Tested(
        thresholds=tuple(sequence.thresholds.tolist()),
        losses=tuple(sequence.losses.tolist()),
        n=tuple(sequence.n.tolist()),
        statistic=tuple(sequence.statistic.tolist()),
    )
