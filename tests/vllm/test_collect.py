"""`lynxstop collect --engine vllm`: what a data set needs, with vLLM alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Recipe
from lynxstop.cli import app
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect as collect_with
from lynxstop.collect.sources import SourceOptions, load_source
from lynxstop.core.types import Generation, Request, Sampling
from lynxstop.engines.vllm.engine import VllmEngine
from lynxstop.errors import ConfigError, DataError
from lynxstop.recordings.problems import load_problems
from lynxstop.recordings.storage import Recording

pytestmark = [
    pytest.mark.skipif(not (shipped.MODEL / "model.safetensors").exists(), reason="no shipped model"),
    pytest.mark.filterwarnings("ignore"),
]
# The fixture make_llm is asked for where vLLM has to be installed: the test is skipped elsewhere.
FEW = ("--limit", "12", "--shard-size", "8", "--seed", "3")
VLLM = (
    "--engine", "vllm", "--argument", "enforce_eager=true", "--argument", "max_model_len=1280",
    "--argument", "block_size=32",
)  # fmt: skip
RECIPE = shipped.BUNDLE / "recipe.toml"


def lynxstop(*words: object) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout) if "--json" in words else None


def collect(out: Path, *options: object, recipe: Path = RECIPE) -> Recording:
    lynxstop(
        "collect", shipped.MODEL, shipped.PROBLEMS / "test.jsonl", out, "--recipe", recipe, "--json",
        *(options or FEW),
    )  # fmt: skip
    return Recording.open(out)


def test_vllm_collects_the_data_of_transformers(make_llm: Callable[..., Any], tmp_path: Path) -> None:
    # given sampled traces of the shipped model, recorded by the transformers engine
    theirs = collect(tmp_path / "transformers")
    # when vLLM records the same problems with the same seed
    ours = collect(tmp_path / "vllm", *FEW, *VLLM)
    # then traces and answers are the same, and numbers are except for their last bits
    assert ours.traces().equals(theirs.traces())
    assert ours.meta.engine == "vllm"
    for name in ours.cues().column_names:
        one, other = (data.cues()[name].to_pylist() for data in (ours, theirs))
        if one and isinstance(one[0], float):
            np.testing.assert_allclose(one, other, atol=1e-4)
        else:
            assert one == other, name
    np.testing.assert_allclose(ours.features(), theirs.features(), atol=1e-3)
    for mine, known in zip(ours.tokens(), theirs.tokens(), strict=True):
        np.testing.assert_array_equal(mine.thinking, known.thinking)
        np.testing.assert_allclose(mine.statistics, known.statistics, atol=1e-3)


def test_an_interrupted_collection_goes_on_to_the_same_bytes(
    make_llm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a data set of two shards, and one that was interrupted in the second
    recipe = Recipe.load(RECIPE)
    options = SourceOptions(arguments={"enforce_eager": True, "max_model_len": 1280, "block_size": 32})
    asked: dict[str, Any] = {
        "problems": load_problems(shipped.PROBLEMS / "test.jsonl")[:12],
        "sampling": Sampling(**recipe.sampling.model_dump(), seed=3),
        "options": CollectOptions(shard_size=8, keep_every=math.inf),
    }
    with closing(load_source("vllm", str(shipped.MODEL), recipe, options)) as source:
        collect_with(source, out=tmp_path / "whole", **asked)
        generate, calls = VllmEngine.generate, iter((False, True))

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            if next(calls):
                raise KeyboardInterrupt
            return generate(*args, **kwargs)

        monkeypatch.setattr(VllmEngine, "generate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect_with(source, out=tmp_path / "cut", **asked)
        monkeypatch.undo()
    # when another engine goes on
    with closing(load_source("vllm", str(shipped.MODEL), recipe, options)) as source:
        collect_with(source, out=tmp_path / "cut", **asked)
    # then there is no difference
    for file in ("traces-00001.parquet", "cues-00001.parquet", "features-00001.safetensors"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.slow
def test_other_decision_points_are_collected_too(make_llm: Callable[..., Any], tmp_path: Path) -> None:
    # given a recipe with ends of sentences as decision points
    (tmp_path / "recipe.toml").write_text(RECIPE.read_text() + "\n[points]\nboundaries = true\n")
    # when both engines record by it
    few = ("--limit", "3", "--max-cues", "4")
    ours = collect(tmp_path / "vllm", *few, *VLLM, recipe=tmp_path / "recipe.toml")
    theirs = collect(tmp_path / "transformers", *few, recipe=tmp_path / "recipe.toml")
    # then they find the same points
    assert ours.traces().equals(theirs.traces())
    for name in ("cue", "kind", "index", "seen_at", "trial_text"):
        assert ours.cues()[name].to_pylist() == theirs.cues()[name].to_pylist()
    assert set(ours.cues()["kind"].to_pylist()) >= {2}
    np.testing.assert_allclose(ours.features(), theirs.features(), atol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_step_works_on_data_of_vllm(make_llm: Callable[..., Any], tmp_path: Path) -> None:
    # given training and calibration data of vLLM
    for name in ("train", "calibration"):
        lynxstop(
            "collect", shipped.MODEL, shipped.PROBLEMS / f"{name}.jsonl", tmp_path / name, "--recipe", RECIPE,
            "--limit", "150", *VLLM, "--json",
        )  # fmt: skip
    # when a rule that needs the statistics of every token is trained, certified and compared with all others
    lynxstop("train", tmp_path / "train", tmp_path / "bundle", "--rule", "combined", "--json")
    lynxstop("calibrate", tmp_path / "bundle", tmp_path / "calibration", "--risk", "0.2", "--json")
    found = lynxstop(
        "evaluate", tmp_path / "calibration", "--bundle", tmp_path / "bundle", "--rules", "all",
        "--risk", "0.2", "--json",
    )  # fmt: skip
    # then the bundle belongs to the engine, and every rule has its numbers
    assert Bundle.load(tmp_path / "bundle").policy.engine == "vllm"
    assert found


def test_what_does_not_fit_in_the_context_is_said_before_hours_are_spent(
    make_llm: Callable[..., Any],
) -> None:
    # given a context that is shorter than the longest trace of the recipe
    recipe = Recipe.load(RECIPE)
    longest = (recipe.guards.budget or 0) + recipe.sampling.answer_tokens
    short, long = (
        SourceOptions(arguments={"enforce_eager": True, "max_model_len": longest + more, "block_size": 32})
        for more in (0, 64)
    )
    with pytest.raises(ConfigError, match=f"the context has {longest:,}"):
        load_source("vllm", str(shipped.MODEL), recipe, short)
    # and one that a long prompt leaves too little of
    with closing(load_source("vllm", str(shipped.MODEL), recipe, long)) as source:
        sampling = Sampling(**recipe.sampling.model_dump())
        trace = Generation(Request("a", (5,) * 100), [7] * longest, longest, "length", [], None)
        # then an exit that does not fit has no answer, and the others have theirs
        [[early, late]] = source.engine.force_exits([trace], sampling, [[10, longest - 1]])
        assert early.ids
        assert (late.ids, late.finish) == ((), "length")
        with pytest.raises(DataError, match="The prompt of 'b' has 2,000 tokens"):
            list(source.engine.generate([Request("b", (5,) * 2000)], sampling))


def test_arguments_that_lynxstop_sets_are_refused() -> None:
    options = SourceOptions(arguments={"additional_config": {}})
    with pytest.raises(ConfigError, match="additional_config"):
        load_source("vllm", str(shipped.MODEL), Recipe(), options)
    with pytest.raises(ConfigError, match="device"):
        load_source("vllm", str(shipped.MODEL), Recipe(), SourceOptions(device="cuda"))
