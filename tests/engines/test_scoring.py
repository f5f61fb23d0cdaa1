"""The probe on the device scores as the probe in numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.artifacts.probe import Probe
from lynxstop.engines.torch.device_probe import DeviceProbe


@given(st.integers(0, 2**32 - 1), st.sampled_from([(), (5,), (7, 3)]), st.integers(1, 9))
def test_scores_are_equal(seed: int, hidden: tuple[int, ...], cues: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = (6, *hidden, 1)
    affines = tuple(
        (rng.normal(size=(out, into)).astype(np.float32), rng.normal(size=out).astype(np.float32))
        for into, out in pairwise(sizes)
    )
    probe = Probe((0, 3), affines)
    features = rng.normal(size=(cues, 6)).astype(np.float32)
    features[rng.random((cues, 6)) < 0.02] = np.nan
    on_device = DeviceProbe(probe, torch.device("cpu")).score(torch.tensor(features)).numpy()
    np.testing.assert_allclose(on_device, probe.score(features), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_gives_no_score(poison: float) -> None:
    probe = Probe((0,), ((np.ones((1, 2), np.float32), np.zeros(1, np.float32)),))
    scores = DeviceProbe(probe, torch.device("cpu")).score(torch.tensor([[1.0, poison], [1.0, 2.0]]))
    assert torch.isnan(scores).tolist() == [True, False]
