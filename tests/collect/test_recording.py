"""Recording with the shipped model."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lynxstop import shipped
from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.recording import record
from lynxstop.errors import ConfigError, ModelError
from lynxstop.recordings.problems import load_problems
from lynxstop.recordings.storage import Recording

if not (shipped.MODEL / "model.safetensors").exists():
    pytest.skip("the shipped model is not there", allow_module_level=True)


def recipe(max_tokens):
    return Recipe.model_validate(
        {
            "exit": {"text": "\n{close}\n\nThe answer is \\boxed{"},
            "probe": {"layers": [2, -1]},
            "sampling": {"temperature": 0.0, "top_p": 1.0, "max_tokens": max_tokens, "answer_tokens": 8},
        }
    )


def test_a_trace_cut_short_answers_too(tmp_path):
    # given room for some 130 thinking tokens, and a recipe without a budget
    problems = load_problems(shipped.PROBLEMS / "test.jsonl")[:6]
    summary = record(shipped.MODEL, problems, tmp_path / "d", recipe(150), CollectOptions(shard_size=4))
    # then the budget leaves room for an answer, and every trace has one
    data = Recording.open(tmp_path / "d")
    traces = data.traces().to_pylist()
    assert summary["budget"] == data.meta.budget == 150 - len(data.meta.exit_ids) - 8 - 1
    assert "budget" in {trace["exit_reason"] for trace in traces}
    assert {trace["full_status"] for trace in traces} == {"parsed"}
    assert all(trace["thinking_tokens"] <= data.meta.budget for trace in traces)
    # and the cues have words, features of both layers and the signals of a real distribution
    cues = data.cues().to_pylist()
    assert {cue["word"] for cue in cues} <= {"wait", "hmm", "alternatively"}
    assert data.layers == (2, 4)
    assert data.features().shape == (len(cues), 2 * data.meta.hidden)
    assert all(cue["entropy"] >= 0 and cue["min_logprob"] <= 0 <= cue["top_gap"] for cue in cues)
    assert all(0 < cue["trial_min_prob"] <= cue["trial_confidence"] <= 1 for cue in cues)


def test_no_room_to_think_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no room"):
        record(shipped.MODEL, load_problems(shipped.PROBLEMS / "test.jsonl")[:1], tmp_path / "d", recipe(12))


def test_a_trace_that_the_context_cannot_hold_is_an_error(tmp_path):
    # given a model that is made for 2,048 tokens, and a recipe that lets traces have more
    problems = load_problems(shipped.PROBLEMS / "test.jsonl")[:1]
    with pytest.raises(ConfigError, match="a trace have 2,999 tokens, and the context has 2,048"):
        record(shipped.MODEL, problems, tmp_path / "d", recipe(3000))


def test_one_of_several_processes_records_nothing(tmp_path, monkeypatch):
    # given a process that torchrun started beside another
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    # when it records, then it is told to be alone, before anything is loaded
    with pytest.raises(ConfigError, match="one of 2 processes") as refused:
        record("nosuch", [], tmp_path / "d", recipe(150))
    assert "without torchrun" in str(refused.value.hint)
    # and a single process of a launcher is alone
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ModelError, match="no model folder"):
        record("nosuch", [], tmp_path / "d", recipe(150))
