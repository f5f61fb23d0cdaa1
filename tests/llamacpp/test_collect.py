"""`lynxstop collect --engine openai` from llama.cpp's real server records what transformers records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.cli import app
from lynxstop.recordings.storage import Recording

pytest.importorskip("torch")
pytest.importorskip("transformers")

RECIPE = """
[cues]
words = ["wait", "hmm", "alternatively"]
[exit]
text = "\\n{close}\\n\\nThe answer is \\\\boxed{"
cut = "after"
[sampling]
temperature = 0.0
max_tokens = 1100
answer_tokens = 16
[guards]
budget = 900
"""


def collect(model: object, out: Path, *options: str) -> Recording:
    recipe = out.with_suffix(".toml")
    recipe.write_text(RECIPE)
    words = [model, shipped.PROBLEMS / "test.jsonl", out, "--recipe", recipe, "--limit", 20, "--json"]
    made = CliRunner().invoke(app, ["collect", *map(str, words), *options])
    assert made.exit_code == 0, (made.stderr, made.exception)
    return Recording.open(out)


def column(rows: Any, name: str) -> list[Any]:
    return list(rows.column(name).to_pylist())


def test_traces_exits_and_labels_are_those_of_transformers(llama_server: str, tmp_path: Path) -> None:
    # given greedy traces of the shipped model, and exits forced at every cue of them
    theirs = collect(shipped.MODEL, tmp_path / "transformers")
    # when they are recorded from the server's streams
    ours = collect("reasoner", tmp_path / "server", "--engine", "openai", "--base-url", llama_server)
    # then thinking, cues and answers are the same
    for name in ("problem_id", "thinking_tokens", "prompt_tokens", "full_answer", "full_right", "cues"):
        assert column(ours.traces(), name) == column(theirs.traces(), name), name
    for name in ("position", "word", "trial_text", "trial_status", "trial_tokens", "right", "agrees"):
        assert column(ours.cues(), name) == column(theirs.cues(), name), name
    assert all(column(ours.traces(), "full_right"))
    # then log-probabilities are the model's; entropies are bounded by the 20 most likely tokens
    for name in ("top_gap", "min_logprob", "mean_logprob", "trial_confidence"):
        ours_, theirs_ = column(ours.cues(), name), column(theirs.cues(), name)
        np.testing.assert_allclose(ours_, theirs_, atol=1e-3, err_msg=name)
    entropies = np.array([column(data.cues(), "entropy") for data in (ours, theirs)])
    assert (entropies[0] < entropies[1] + 1e-3).all()
    np.testing.assert_allclose(entropies[0], entropies[1], atol=0.05)
    assert json.loads((tmp_path / "server" / "meta.json").read_text())["engine"] == "openai"
