"""What live inputs are compared with."""

import numpy as np

from lynxstop.calibration.traces import TraceTable
from lynxstop.proxy.monitoring import _tests


def test_samples_of_one_problem_are_no_further_requests() -> None:
    # given 30 problems, of which each was sampled 40 times with much the same score
    rng = np.random.default_rng(0)
    warned = 0
    for _ in range(20):
        middle = rng.normal(size=30)
        table = TraceTable.from_arrays(
            trace_ids=[str(number) for number in range(1200)],
            problem_ids=[f"{number}" for number in range(30) for _ in range(40)],
            lengths=[1] * 1200,
            scores=np.repeat(middle, 40) + 0.1 * rng.normal(size=1200),
            losses=[0.0] * 1200,
        )
        first, _ = _tests(table, np.inf)
        for value in rng.normal(size=800):
            first.add(value, rng.random())
        warned += first.warning

    # then requests like those problems raise hardly more than the 1% of false warnings
    assert warned <= 2
