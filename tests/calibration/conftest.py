"""Small tables of traces."""

import numpy as np
import pytest
from hypothesis import settings

from lynxstop.calibration.traces import TraceTable
from tests.support.tiny_bundle import recorded, tiny_bundle

# Examples are whole calibrations: on a busy machine their time says nothing.
settings.register_profile("calibration", deadline=None, max_examples=50)
settings.load_profile("calibration")


@pytest.fixture
def simulated():
    """Return a maker of traces with dependent cues."""

    def make(n, seed=0, *, start="p", groups=False):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(0, 15, n)
        owner = np.repeat(np.arange(n), lengths)
        position = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        scores = rng.normal(0, 1, n)[owner] + rng.normal(0, 1, len(owner))
        return TraceTable.from_arrays(
            problem_ids=[f"{start}{i:05d}" for i in range(n)],
            lengths=lengths,
            scores=scores,
            losses=rng.random(len(owner)) < 1 / (1 + np.exp(2 + 2 * scores)),
            tokens=20 * position + 20,
            full_tokens=20 * lengths + 20,
            groups=np.where(np.arange(n) % 3, "maths", "code") if groups else None,
        )

    return make


@pytest.fixture
def data(simulated):
    """Recorded traces of 500 problems."""
    return recorded(simulated(500, groups=True))


@pytest.fixture
def bundle(tmp_path, simulated):
    """A bundle that is not yet calibrated."""
    return tiny_bundle(tmp_path / "bundle", simulated(100, 7).scores)
