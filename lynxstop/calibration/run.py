"""`calibrate`: from scored traces to certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.case import Method
from lynxstop.calibration.certificate import Certificate, Claim, Settings
from lynxstop.calibration.certify import case_for, certify
from lynxstop.calibration.grid import quantile_grid, start_index
from lynxstop.calibration.groups import split_groups
from lynxstop.calibration.losses import Loss, table_loss
from lynxstop.calibration.methods import method_named
from lynxstop.calibration.plan import advice
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.units import Samples, check_disjoint
from lynxstop.calibration.weighted import check_weights
from lynxstop.errors import CalibrationError, ConfigError

Together = Literal["levels", "all", "none"]
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
                "promise": certificate.promise,
            }
            for certificate in self.certificates
        ]

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
    *,
    risks: Sequence[float],
    confidence: float = 0.95,
    loss: str = "disagree",
    method: str | None = None,
    train_scores: Scores = None,
    train_problems: Sequence[str] = (),
    by: str | None = None,
    samples: Samples | None = None,
    together: Together = "levels",
    unknown_loss: float = 1.0,
    weights: NDArray[np.float64] | None = None,
    weight_limit: float | None = None,
    seed: int = 0,
    digests: Mapping[str, str] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    created: datetime | None = None,
    expires: datetime | None = None,
) -> Calibration:
    """Turn scored traces into certified thresholds.

    Parameters
    ----------
    table : TraceTable
        Calibration traces with their losses; problems the probe has not seen.
    risks : sequence of float
        Levels, alpha.
    confidence : float
        1 - delta.
    loss : str
        Name of the loss in `table`.
    method : str, optional
        One of `METHODS`; "ltt" by default, "selective" for the loss `wrong|exit`.
    train_scores : TraceTable or array, optional
        Scores of the training split: they fix the thresholds that are tested. None tests all of float32.
    train_problems : sequence of str
        Problem ids of the training split, checked to be others.
    by : str, optional
        Name of the column `table.groups` came from: certify every group beside the whole.
    samples : {"one", "mean"}, optional
        What several samples of a problem become; by default "mean" for a method that allows losses between 0
        and 1, "one" otherwise.
    together : {"levels", "all", "none"}
        Which promises hold at once with the given confidence: the levels of a group, everything returned, or
        each on its own.
    unknown_loss : float
        Loss charged for an exit answer that could not be judged.
    weights, weight_limit : array of shape (traces,), float, optional
        Covariate-shift weights in the order of `table`, for the method "weighted".
    seed : int
        Draws one sample per problem.
    digests, fingerprint, created, expires
        Recorded as they are.

    Raises
    ------
    ConfigError, DataError, CalibrationError
        On a wrong option, unusable data, or data that the method is not valid for.
    """
    about = table_loss(loss)
    chosen = method_named(method or ("selective" if about.selective else "ltt"))
    _check_options(chosen, about, risks, confidence)
    _check_choices(samples, together, unknown_loss, seed)
    _check_given(chosen, train_scores, weights)
    _check_training(table, train_scores, train_problems)
    parts = split_groups(table, by)
    settings = Settings(
        samples=samples or ("mean" if chosen.fractions else "one"),
        seed=seed,
        unknown_loss=unknown_loss,
        tests={"levels": len(risks), "all": len(risks) * len(parts), "none": 1}[together],
        grid=None if train_scores is None else tuple(quantile_grid(train_scores).tolist()),
        importance=None if weights is None else tuple(check_weights(weights, table).tolist()),
        importance_limit=weight_limit,
        by=by,
    )
    claim = Claim(
        loss=loss,
        method=chosen.name,
        risk=min(risks),
        confidence=confidence,
        settings=settings,
        digests=dict(digests or {}),
        fingerprint=dict(fingerprint or {}),
        created=created or datetime.now(UTC).replace(microsecond=0),
        expires=expires,
    )
    evidence = table.digest()
    certificates = []
    for group in parts:
        case = case_for(table, claim.model_copy(update={"group": group}))
        for risk in sorted(risks):
            start = None
            if chosen.selective and isinstance(train_scores, TraceTable) and case.grid is not None:
                start = start_index(train_scores, case.grid, case.units.count, risk, claim.delta)
            asked = claim.model_copy(
                update={
                    "group": group,
                    "risk": risk,
                    "settings": settings.model_copy(update={"start": start}),
                }
            )
            certificates.append(certify(case, asked, evidence))
    return Calibration(tuple(certificates), table)


def _check_options(method: Method, loss: Loss, risks: Sequence[float], confidence: float) -> None:
    if not risks or len(set(risks)) != len(risks):
        raise ConfigError("Give one or several distinct risk levels.")
    for risk in risks:
        if not 0.0 < risk < 1.0:
            raise ConfigError(f"A risk level lies strictly between 0 and 1, not at {risk!r}.")
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"The confidence lies strictly between 0 and 1, not at {confidence!r}.")
    if method.selective != loss.selective:
        raise ConfigError(
            f"The method {method.name!r} does not bound the loss {loss.name!r}.",
            hint="The method 'selective' and the loss 'wrong|exit' belong together.",
        )


def _check_choices(samples: Samples | None, together: Together, unknown_loss: float, seed: int) -> None:
    if samples not in (None, "one", "mean"):
        raise ConfigError(f"Several samples of a problem become 'one' or 'mean', not {samples!r}.")
    if together not in ("levels", "all", "none"):
        raise ConfigError(f"Promises hold together by 'levels', 'all' or 'none', not {together!r}.")
    if not 0.0 <= unknown_loss <= 1.0:
        raise ConfigError(f"The loss of an unknown answer lies in [0, 1], not at {unknown_loss!r}.")
    if seed < 0:
        raise ConfigError("A seed is 0 or more.")


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
    check_disjoint(np.asarray(train_problems, dtype=np.str_), table.problem_ids)
