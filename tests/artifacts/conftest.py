"""A small complete bundle and a small model folder, both made by the test."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lynxstop.artifacts.bundle import Bundle, Policy, ServedSampling, TrainingScores, write_bundle
from lynxstop.artifacts.fingerprint import fingerprint
from lynxstop.artifacts.probe import Probe
from lynxstop.artifacts.provenance import provenance


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 4, "transformers_version": "5.0"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "<think>"}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"weight": np.arange(8, dtype=np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def probe() -> Probe:
    weight = np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 4)
    return Probe(layers=(2,), affines=((weight, np.zeros(1, np.float32)),))


@pytest.fixture
def policy(model: Path) -> Policy:
    return Policy(
        name="tiny",
        fingerprint=fingerprint(model),
        engine="transformers",
        dtype="float32",
        sampling=ServedSampling(temperature=0.8, top_p=1.0, top_k=0, max_tokens=64, answer_tokens=8),
        cue_words=("wait",),
        cue_paragraph=False,
        think_open=("<think>",),
        think_close=("</think>",),
        exit_text="</think>",
        exit_ids=(7,),
        target="agrees",
        probe_sha256="",
        training_problems_sha256="0",
        training_data_sha256="0",
        provenance=provenance(),
    )


@pytest.fixture
def bundle(tmp_path: Path, policy: Policy, probe: Probe) -> Bundle:
    scores = TrainingScores(scores=np.array([0.5, -0.5], np.float32), problems=("p1", "p2"))
    return write_bundle(tmp_path / "bundle", policy, probe, scores, {"auc": 0.9})
