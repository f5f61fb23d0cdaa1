"""A recorded data set made of noise and one informative layer."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from lynxstop.artifacts.card import RIVALS
from lynxstop.recordings.content import InMemory
from lynxstop.recordings.schema import Meta
from lynxstop.recordings.storage import Recording

HIDDEN = 3
LAYERS = (1, 2, 4)


def data_set(problems=60, cues=4, seed=0, leak=False, hidden=HIDDEN, **columns):
    """Cues that layer 2 knows the truth of; with `leak`, features only name the problem."""
    rng = np.random.default_rng(seed)
    count = problems * cues
    owner = np.repeat(np.arange(problems), cues)
    truth = np.repeat(rng.random(problems) < 0.5, cues) if leak else rng.random(count) < 0.6
    X = rng.normal(size=(count, len(LAYERS) * hidden))
    X[:, hidden] += 2 * truth * (not leak)
    if leak:
        X = rng.normal(size=(problems, X.shape[1]))[owner]
    table = {name: rng.normal(size=count) for name in RIVALS if name != "agreement_run"}
    table |= {"cue": np.tile(np.arange(cues), problems), "entropy": rng.normal(size=count) / 2 - truth}
    table |= {"trial_answer": ["1"] * count, "agrees": truth, "right": truth}
    table |= {"trace_id": [f"p{i}#0" for i in owner]} | columns
    traces = {
        "trace_id": [f"p{i}#0" for i in range(problems)],
        "problem_id": [f"p{i}" for i in range(problems)],
    }
    traces |= {"cues": [cues] * problems, "events": [cues] * problems}
    meta = Meta.model_construct(layers=LAYERS, hidden=hidden)
    half = count // 2
    parts = [X[:half].astype(np.float32), X[half:].astype(np.float32)]
    return Recording(Path(), meta, InMemory(pa.table(traces), pa.table(table), parts))
