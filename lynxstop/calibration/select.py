"""Choose the best of several rules, seeds or losses without breaking its promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import Calibration, calibrate
from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import ConfigError


def calibrate_best(
    tables: Mapping[str, TraceTable],
    options: CalibrationOptions,
    *,
    by: Literal["correction", "split"] = "correction",
    **given: Any,
) -> tuple[str, Calibration]:
    """Certify the candidate that saves most.

    Parameters
    ----------
    tables : mapping of str to TraceTable
        The same problems, as scored by each candidate.
    options : CalibrationOptions
    by : {"correction", "split"}
        "correction" certifies each candidate at its share of the error (Bonferroni) on all problems, so that
        any of them may be taken; "split" chooses on one half of the problems and certifies on the other, and
        is better among very many candidates.
    given
        As in `calibrate`.

    Returns
    -------
    tuple of str and Calibration
        The name of the best, and what it is certified for.

    Raises
    ------
    ConfigError
        Without candidates, or when they are not about the same problems.
    """
    if not tables:
        raise ConfigError("There is nothing to choose among.")
    problems = [np.unique(table.problem_ids) for table in tables.values()]
    if not all(np.array_equal(problems[0], others) for others in problems):
        raise ConfigError("The candidates were not scored on the same problems.")
    if by == "split":
        learn = np.random.default_rng(options.seed).permutation(problems[0])[: len(problems[0]) // 2]
        halves = {name: np.isin(table.problem_ids, learn) for name, table in tables.items()}
        drafts = {
            name: calibrate(table.select(halves[name]), options, **given) for name, table in tables.items()
        }
        best = max(drafts, key=lambda name: _worth(drafts[name]))
        return best, calibrate(tables[best].select(~halves[best]), options, **given)
    shared = replace(options, tried=options.tried * len(tables))
    made = {name: calibrate(table, shared, **given) for name, table in tables.items()}
    best = max(made, key=lambda name: _worth(made[name]))
    return best, made[best]


def _worth(calibration: Calibration) -> float:
    """Mean share over the levels of thinking tokens saved; of requests that exit, where none are known."""
    worth = [one.exits / one.problems if one.saved is None else one.saved for one in calibration.certificates]
    return float(np.mean(worth))
