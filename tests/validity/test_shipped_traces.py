"""The promise on real traces of the shipped model: certify on some problems, look at the others."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.calibration.certificate import Certificate
from lynxstop.calibration.evidence import read_evidence
from lynxstop.calibration.grid import quantile_grid
from lynxstop.calibration.traces import TraceTable
from lynxstop_research.resplits import resplit

FOLDER = Path(__file__).parents[2] / "calibration" / "reasoner"


@pytest.fixture(scope="module")
def traces() -> TraceTable:
    return read_evidence(FOLDER / "held-out.parquet")


@pytest.fixture(scope="module")
def grid() -> np.ndarray:
    return quantile_grid(Bundle.load(shipped.BUNDLE).training_scores().scores)


def refuted(violations: int, splits: int, delta: float = 0.05) -> bool:
    """Whether the violations are more than a rate of `delta` explains, at the 1% level."""
    return bool(binomtest(violations, splits, delta, alternative="greater").pvalue < 0.01)


@pytest.mark.parametrize("alpha", [0.02, 0.05])
def test_learn_then_test_holds_and_saves(traces: TraceTable, grid: np.ndarray, alpha: float) -> None:
    found = resplit(traces, alpha=alpha, grid=grid, splits=200)

    assert not refuted(found.violations, 200)
    assert found.saved.mean() > 0.3


def test_the_promise_is_used_up_not_wasted(traces: TraceTable, grid: np.ndarray) -> None:
    found = resplit(traces, alpha=0.05, grid=grid, splits=200)

    assert 0.5 * 0.05 < found.risk.mean() < 0.05


def test_a_bound_on_average_is_caught_as_no_bound_with_confidence(
    traces: TraceTable, grid: np.ndarray
) -> None:
    found = resplit(traces, alpha=0.05, grid=grid, method="crc", splits=200)

    assert refuted(found.violations, 200)


def test_the_shipped_certificates_are_those_of_the_bundle() -> None:
    bundle = Bundle.load(shipped.BUNDLE)

    assert {0.01, 0.02, 0.05, 0.1} == {level.risk for level in bundle.policy.levels}
    for level in bundle.policy.levels:
        copy = FOLDER / Path(level.certificate).name
        assert copy.read_bytes() == (bundle.path / level.certificate).read_bytes()
        assert Certificate.load(copy).problems >= 1000
