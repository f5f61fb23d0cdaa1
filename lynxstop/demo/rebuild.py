"""The whole way from the model up: collect, train, calibrate; then compare with what is shipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Recipe
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.recording import record
from lynxstop.extras import need
from lynxstop.probes.train import train
from lynxstop.recordings.problems import load_problems
from lynxstop.recordings.storage import Recording
from lynxstop.replay.serving import scores_of
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, install
from lynxstop.workflows.make_bundle import make_bundle

RISKS = (0.01, 0.02, 0.05, 0.10)
DEFAULT_RISK = 0.05
SEED = 0


def rebuild(workdir: Path, console: Console) -> dict[str, Any]:
    """Make the shipped bundle again in `workdir`; an interrupted rebuild goes on where it stopped.

    Returns
    -------
    dict
        Sizes, the probe's AUC, and for each level the new and the shipped threshold. `reproduced` says that
        probe and thresholds are equal to the last bit, which is to be expected on the same kind of processor
        with the same libraries; `scores_differ_by` says how far the two probes' scores are apart.
    """
    with _one_thread():
        return _rebuild(workdir, console)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of floats depend on how they are split; one thread gives the same bits every time."""
    need("torch", "transformers").set_num_threads(1)
    with need("threadpoolctl", "calibrate").threadpool_limits(1):
        yield


def _rebuild(workdir: Path, console: Console) -> dict[str, Any]:
    recipe = Recipe.load(shipped.BUNDLE / "recipe.toml")
    for name in ("train", "calibration"):
        problems = load_problems(shipped.PROBLEMS / f"{name}.jsonl")
        console.print(f"Collecting {len(problems)} traces: {name}")
        record(shipped.MODEL, problems, workdir / name, recipe, CollectOptions(seed=SEED), console=console)
    console.print("Training the probe")
    training = Recording.open(workdir / "train")
    trained = train(training, seed=SEED)
    made = make_bundle(training, trained, workdir / "bundle", "reasoner")
    console.print("Calibrating")
    calibration = calibrate_bundle(
        made, Recording.open(workdir / "calibration"), CalibrationOptions(risks=RISKS)
    )
    made = install(made, calibration, DEFAULT_RISK)
    return {
        "bundle": str(made.path),
        "training_traces": len(training.traces()),
        "training_cues": len(training.cues()),
        "auc": trained.auc,
        "levels": calibration.rows(),
        **_compare(made, training),
    }


def _compare(made: Bundle, training: Recording) -> dict[str, Any]:
    if not (shipped.BUNDLE / "policy.json").exists():
        return {"reproduced": None}
    old = Bundle.load(shipped.BUNDLE)
    thresholds = {
        level.risk: (
            level.threshold,
            next((v.threshold for v in old.policy.pooled if v.risk == level.risk), None),
        )
        for level in made.policy.pooled
    }
    scores = [scores_of(bundle, training) for bundle in (made, old)]
    # Files may differ where probes do not: the order of a safetensors header's metadata is not fixed.
    assert made.probe is not None
    assert old.probe is not None
    new, shipped_one = made.probe.tensors(), old.probe.tensors()
    same = made.probe.layers == old.probe.layers and new.keys() == shipped_one.keys()
    same = same and all(np.array_equal(new[name], shipped_one[name]) for name in new)
    return {
        "reproduced": same and all(one == other for one, other in thresholds.values()),
        "thresholds": thresholds,
        "scores_differ_by": float(np.max(np.abs(scores[0] - scores[1]))),
    }
