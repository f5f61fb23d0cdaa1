"""Each certified sampling keeps its own promise, as the bundle serves it; one threshold for all does not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lynxstop.artifacts.bundle import Bundle
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.calibration.traces import TraceTable
from lynxstop.core.conditions import Conditions
from lynxstop.workflows.calibrate_bundle import install
from lynxstop.workflows.calibrate_samplings import calibrate_samplings
from tests.support.tiny_bundle import recorded, tiny_bundle
from tests.support.worlds import exceeds, single, turning

ALPHA, DELTA, N = 0.1, 0.05, 400
OPTIONS = CalibrationOptions(risks=[ALPHA])
WORLDS = {0.8: single, 1.3: turning}


def drawn(seed):
    """A recording of each sampling, of other problems."""
    return {t: world().draw(N, 2 * seed + (t > 1), start=f"at{t}-") for t, world in WORLDS.items()}


@pytest.mark.parametrize("repeats", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_each_sampling_keeps_its_promise(tmp_path, repeats):
    # given a world for each of two temperatures, drawn from again and again
    bundle = tiny_bundle(tmp_path / "bundle", np.linspace(-1, 1, 9, dtype=np.float32))
    broken, useful = dict.fromkeys(WORLDS, 0), dict.fromkeys(WORLDS, 0)
    for seed in range(repeats):
        # when both are certified in one run, and requests are served from the bundle
        data = [recorded(table) for table in drawn(seed).values()]
        data[1] = replace(data[1], meta=SimpleNamespace(**{**vars(data[1].meta), "temperature": 1.3}))
        own, further = calibrate_samplings(bundle, data, OPTIONS)
        install(bundle, own, None, [further])
        policy = Bundle.load(bundle.path).policy.stop_policy()
        for temperature, world in WORLDS.items():
            threshold = policy.level(ALPHA, None, Conditions(temperature)).threshold
            broken[temperature] += world().risk(threshold) > ALPHA
            useful[temperature] += np.isfinite(threshold)
    # then the risk at each of them is above the level no more often than promised
    for temperature in WORLDS:
        assert exceeds(broken[temperature], repeats, DELTA) > 1e-3, (temperature, broken)
        assert useful[temperature] > 0.9 * repeats


def test_one_threshold_for_all_samplings_is_caught():
    # given one certificate of the mix of both recordings
    broken = dict.fromkeys(WORLDS, 0)
    for seed in range(40):
        threshold = calibrate(_mixed(*drawn(seed).values()), OPTIONS).certificates[0].threshold
        for temperature, world in WORLDS.items():
            broken[temperature] += world().risk(threshold) > ALPHA
    # then one of the samplings has more than its share
    assert max(broken.values()) > 20


def _mixed(one, other):
    return TraceTable.from_arrays(
        problem_ids=[*one.problem_ids, *other.problem_ids],
        lengths=[*one.lengths, *other.lengths],
        scores=[*one.scores, *other.scores],
        losses=[*one.losses, *other.losses],
    )
