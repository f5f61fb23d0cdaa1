"""`calibrate`: from scored traces to certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.case import Method
from lynxstop.calibration.certificate import Certificate, Claim, Grading, Settings
from lynxstop.calibration.certify import case_for, certify
from lynxstop.calibration.grid import quantile_grid, start_index
from lynxstop.calibration.groups import split_groups
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.plan import advice
from lynxstop.calibration.repeats import check_unseen
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.units import check_disjoint
from lynxstop.calibration.weighted import check_weights
from lynxstop.errors import CalibrationError, ConfigError

Scores = TraceTable | NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """What `calibrate` returns.

    Attributes
    ----------
    certificates : tuple of Certificate
        By group, the one of all requests first, then by ascending risk.
    evidence : TraceTable
        What they can be recomputed from.
    """

    certificates: tuple[Certificate, ...]
    evidence: TraceTable

    @property
    def pooled(self) -> tuple[Certificate, ...]:
        """Certificates about all requests."""
        return tuple(certificate for certificate in self.certificates if certificate.group is None)

    @property
    def refused(self) -> tuple[Certificate, ...]:
        """Levels at which nothing exits."""
        return tuple(certificate for certificate in self.certificates if certificate.refused)

    def rows(self) -> list[dict[str, Any]]:
        """Return the table of levels: one plain dictionary per certificate."""
        return [
            {
                "group": certificate.group.value if certificate.group else None,
                "sampling": certificate.at,
                "risk": certificate.risk,
                "threshold": certificate.threshold,
                "losses": certificate.observed,
                "k": certificate.losses,
                "n": certificate.n,
                "bound": certificate.bound,
                "p_value": certificate.p_value,
                "problems": certificate.problems,
                "exits": certificate.exits / certificate.problems,
                "saved": certificate.saved,
                "refused": certificate.refused,
                "missing": certificate.missing,
                "unit": certificate.settings.unit,
                "unknown": certificate.unknown,
                "repeated": certificate.repeated,
                "unknown_loss": certificate.settings.unknown_loss,
                "promise": certificate.promise,
            }
            for certificate in self.certificates
        ]

    def _repr_html_(self) -> str:
        return "".join(certificate._repr_html_() for certificate in self.certificates)

    def require(self) -> None:
        """Refuse a refusal.

        Raises
        ------
        CalibrationError
            When a level never exits; says how many problems are missing.
        """
        for certificate in self.refused:
            raise CalibrationError(certificate.promise, hint=advice(certificate.missing))


def calibrate(
    table: TraceTable,
    options: CalibrationOptions,
    *,
    train_scores: Scores = None,
    train_problems: Sequence[str] = (),
    train_prompts: Sequence[str] = (),
    weights: NDArray[np.float64] | None = None,
    weight_limit: float | None = None,
    elsewhere: int = 0,
    digests: Mapping[str, str] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    grading: Grading | None = None,
    created: datetime | None = None,
) -> Calibration:
    """Turn scored traces into certified thresholds.

    Parameters
    ----------
    table : TraceTable
        Calibration traces with their losses; problems the probe has not seen.
    options : CalibrationOptions
        What is to be certified, and how; `by` names the column that `table.groups` came from.
    train_scores : TraceTable or array, optional
        Scores of the training split: they fix the thresholds that are tested. None tests all of float32.
    train_problems : sequence of str
        Problem ids of the training split, checked to be others.
    train_prompts : sequence of str
        Digests of its prompts, checked to be others, too.
    weights, weight_limit : array of shape (traces,), float, optional
        Covariate-shift weights in the order of `table`, for the method "weighted".
    elsewhere : int
        Groups, or wholes, that are certified in the same run at other samplings.
    digests, fingerprint, grading, created
        Recorded as they are.

    Raises
    ------
    ConfigError, DataError, CalibrationError
        On options that do not fit together, unusable data, or data that the method is not valid for.
    """
    chosen = options.certifier
    _check_given(chosen, train_scores, weights)
    _check_training(table, train_scores, train_problems)
    check_unseen(train_prompts, table.problem_ids, table.prompts)
    parts = split_groups(table, options.by)
    settings = Settings(
        samples=options.samples or ("mean" if chosen.fractions else "one"),
        unit=options.unit,
        seed=options.seed,
        unknown_loss=options.unknown_loss,
        tests=options.tests(len(parts) + elsewhere),
        levels=None if options.together == "none" else tuple(sorted(options.risks)),
        tried=options.tried,
        grid=None if train_scores is None else tuple(quantile_grid(train_scores).tolist()),
        importance=None if weights is None else tuple(check_weights(weights, table).tolist()),
        importance_limit=weight_limit,
        by=options.by,
        by_sampling=elsewhere > 0,
        apart=(options.by is not None or elsewhere > 0) and options.together != "all",
    )
    claim = Claim(
        loss=options.loss,
        method=chosen.name,
        risk=min(options.risks),
        confidence=options.confidence,
        settings=settings,
        digests=dict(digests or {}),
        fingerprint=dict(fingerprint or {}),
        grading=grading,
        created=created or datetime.now(UTC).replace(microsecond=0),
        expires=options.expires,
    )
    certificates = []
    for group in parts:
        case = case_for(table, claim.model_copy(update={"group": group}))
        for risk in sorted(options.risks):
            asked = claim.model_copy(update={"group": group, "risk": risk})
            if chosen.selective and isinstance(train_scores, TraceTable) and case.grid is not None:
                start = start_index(train_scores, case.grid, case.units.count, risk, asked.delta)
                asked = asked.model_copy(update={"settings": settings.model_copy(update={"start": start})})
            certificates.append(certify(case, asked, table))
    return Calibration(tuple(certificates), table)


def _check_given(method: Method, train_scores: Scores, weights: NDArray[np.float64] | None) -> None:
    if method.needs == "train" and not isinstance(train_scores, TraceTable):
        raise ConfigError(f"The method {method.name!r} needs training traces.", hint="Give a table of them.")
    if method.needs == "grid" and train_scores is None:
        raise ConfigError(
            f"The method {method.name!r} needs training scores.", hint="Give them, or use 'ltt'."
        )
    if (method.needs == "weights") != (weights is not None):
        raise ConfigError("Weights go with the method 'weighted', and it with them.")


def _check_training(table: TraceTable, train_scores: Scores, train_problems: Sequence[str]) -> None:
    if isinstance(train_scores, TraceTable):
        check_disjoint(train_scores.problem_ids, table.problem_ids)
        known = () if train_scores.prompts is None else train_scores.prompts.tolist()
        check_unseen(known, table.problem_ids, table.prompts)
    check_disjoint(np.asarray(train_problems, dtype=np.str_), table.problem_ids)
