"""A tiny bundle, and recorded traces that fit it."""

import hashlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from lynxstop.artifacts.bundle import Policy, ServedSampling, TrainingScores, write_bundle
from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.artifacts.probe import Probe
from lynxstop.artifacts.provenance import provenance
from lynxstop.calibration.traces import TraceTable

PRINT = Fingerprint(config="c", weights="w", tokenizer="t", template="m")
SHARED: dict[str, Any] = {
    "engine": "transformers",
    "dtype": "float32",
    "cue_words": ("wait",),
    "cue_paragraph": False,
    "think_open": ("<think>",),
    "think_close": ("</think>",),
    "exit_ids": (7,),
    "cut": "after",
    "budget": None,
}
SAMPLING: dict[str, Any] = {
    "temperature": 0.8,
    "top_p": 1.0,
    "top_k": 0,
    "max_tokens": 64,
    "answer_tokens": 8,
}


TRAINING = {
    "kind": "logistic",
    "layers": [2],
    "target": "agrees",
    "cues": 10,
    "problems": 2,
    "rate": 0.5,
    "auc": 0.9,
    "rivals": {},
    "search": [{"layers": [2], "C": 1.0, "auc": 0.9}],
}


@dataclass(frozen=True)
class Data:
    """Recorded traces in memory: one feature per cue, which is the probe's score."""

    table: TraceTable
    meta: SimpleNamespace
    whole: bool = True
    digest: str = "data"

    def traces(self):
        table = self.table
        return pa.table(
            {
                "trace_id": table.trace_ids.tolist(),
                "problem_id": table.problem_ids.tolist(),
                "family": ["all"] * table.traces if table.groups is None else table.groups.tolist(),
                "thinking_tokens": table.full_tokens,
                "full_status": ["parsed"] * table.traces,
                "full_right": [True] * table.traces,
                "full_answer": ["1"] * table.traces,
                "cues": table.lengths,
            }
        )

    def cues(self):
        table = self.table
        return pa.table(
            {
                "position": table.tokens,
                "thinking_at_exit": table.tokens,
                "trial_status": ["parsed"] * len(table.scores),
                "trial_answer": ["2" if lost else "1" for lost in table.losses],
                "right": table.losses == 0,
                "agrees": table.losses == 0,
            }
        )

    def features(self, layers=None):
        return self.table.scores[:, None]


def recorded(table):
    """Traces recorded as the tiny bundle is served."""
    return Data(table, SimpleNamespace(fingerprint=PRINT, grader="math", **SHARED, **SAMPLING))


def tiny_bundle(path, out_of_fold):
    """Write a bundle whose probe gives back its only feature, trained on the problems t1 and t2."""
    policy = Policy(
        name="tiny",
        fingerprint=PRINT,
        sampling=ServedSampling(**SAMPLING),
        exit_text="</think>",
        target="agrees",
        probe_sha256="",
        training_problems_sha256=hashlib.sha256(b"t1\nt2").hexdigest(),
        training_data_sha256="0",
        provenance=provenance(),
        **SHARED,
    )
    probe = Probe(layers=(2,), affines=((np.ones((1, 1), np.float32), np.zeros(1, np.float32)),))
    scores = TrainingScores(scores=np.append(out_of_fold, np.float32(np.nan)), problems=("t1", "t2"))
    return write_bundle(path, policy, probe, scores, TRAINING)
