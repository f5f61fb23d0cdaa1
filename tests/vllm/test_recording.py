"""Recording, and with it the hidden states of each architecture against transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lynxstop.artifacts.recipe import Recipe
from lynxstop.artifacts.setup import setup_from_recipe
from lynxstop.core.types import Request, Sampling
from lynxstop.engines.vllm.engine import VllmEngine
from lynxstop.engines.vllm.loading import EXTENSION
from lynxstop.engines.vllm.row_files import read_rows
from lynxstop.errors import ModelError

KINDS = ["Llama", "Qwen2", "Qwen3", "Qwen3Moe", "Gemma", "DeepseekV2", "DeepseekV3"]
FULL = {"lynxstop_risk": "off"}


def named(count: int) -> list[dict[str, Any]]:
    return [FULL | {"lynxstop_record": f"trace-{number}"} for number in range(count)]


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k == "Qwen3" else pytest.mark.slow) for k in KINDS]
)
def test_recorded_states_equal_those_of_transformers(
    kind: str, make_llm: Any, make_model: Any, make_bundle: Any, prompts: Any, generate: Any, reference: Any,
    adapter_of: Callable[[Any], Any], tmp_path: Path,
) -> None:  # fmt: skip
    # given all states of a model, the embeddings and the one behind the final norm included
    model = make_model(kind)
    bundle = make_bundle(model, (0, 1, 2, 3), scale=0.1)
    # when full traces are recorded in the engine
    try:
        llm = make_llm(model, bundle, settings={"record": str(tmp_path)}, max_num_batched_tokens=32)
        found = generate(llm, prompts, xargs=named(len(prompts)))
    except RuntimeError as error:
        if "expect weight to be bfloat16" in str(error):
            pytest.skip("vLLM has no float32 kernel for these experts on a CPU with AMX.")
        raise
    adapter_of(llm).recorder.rows.flush()
    rows = {(row.request, row.token): row for row in read_rows(tmp_path)}
    # then at each cue features, score and statistics are those of transformers
    expected = reference(model, bundle, prompts, risk=None, record=True)
    compared = 0
    for number, (ids, trace) in enumerate(zip(found, expected, strict=True)):
        assert ids[: len(trace.output_ids)] == trace.output_ids
        for place, event in enumerate(trace.events):
            assert trace.features is not None
            row = rows[f"trace-{number}", event.index]
            scale = max(1.0, float(np.abs(trace.features[place]).max()))
            assert row.features is not None
            np.testing.assert_allclose(row.features, trace.features[place], atol=1e-4 * scale, rtol=0)
            signals = trace.signals[place]
            known = [event.score, signals.entropy, signals.top_gap, signals.end_margin]
            np.testing.assert_allclose(row.statistics, known, atol=1e-3, rtol=1e-3)
            assert row.position == event.position
            compared += 1
    assert compared >= 10


def test_an_architecture_that_cannot_be_tapped_is_refused_at_start(
    make_llm: Any, make_model: Any, make_bundle: Any
) -> None:
    # given a model whose layers nobody has compared, and a probe on an inner layer
    model = make_model("Gemma2")
    # when the engine starts, then it says why not
    with pytest.raises(ModelError, match="cannot be tapped"):
        make_llm(model, make_bundle(model, (1, 3)))


def test_layers_that_the_model_does_not_have_are_refused_at_start(
    make_llm: Any, make_model: Any, tmp_path: Path
) -> None:
    # given a recipe that counts more layers from the end than there are, when it is to be recorded by
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("[1, -1]", "[-6, -1]"))
    settings = {"recipe": str(tmp_path / "recipe.toml"), "record": str(tmp_path / "s")}
    # then no other layer is taken in its place
    with pytest.raises(ModelError, match="no hidden state -2: the model has 3 layers"):
        make_llm(make_model("Qwen3"), settings=settings)


RECIPE = """
[cues]
words = ["wait", "hmm"]
[exit]
text = "\\n{close}=3"
[probe]
layers = [1, -1]
[guards]
budget = 40
"""


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(0.0, 1.0, 0), (1.3, 0.9, 15)])
def test_a_recipe_is_recorded_by_and_exits_are_forced_from_the_cache(
    temperature: float, top_p: float, top_k: int, make_llm: Any, make_model: Any, make_bundle: Any,
    prompts: Any, reference: Any, tmp_path: Path,
) -> None:  # fmt: skip
    # given a recipe, no bundle yet, and the transformers engine's traces by the same recipe
    model = make_model("Qwen3")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    settings = {"recipe": str(tmp_path / "recipe.toml"), "record": ":memory:"}
    llm = make_llm(
        model, settings=settings, enable_prefix_caching=True, block_size=32, worker_extension_cls=EXTENSION,
        max_num_batched_tokens=32,
    )  # fmt: skip
    sampling = Sampling(max_tokens=60, answer_tokens=8, temperature=temperature, top_p=top_p, top_k=top_k)
    bundle = make_bundle(model, (1, 3), budget=40)
    setup = setup_from_recipe(Recipe.load(tmp_path / "recipe.toml"), llm.get_tokenizer())
    engine = VllmEngine(llm, setup, (1, 3))
    ours, theirs = reference(model, bundle, prompts, risk=None, sampling=sampling, forced=True, record=True)
    # when vLLM generates and records them, and forces an exit at every cue
    requests = [Request(str(i), tuple(prompt)) for i, prompt in enumerate(prompts)]
    found = list(engine.generate(requests, sampling, record=True))
    answers = engine.force_exits(found, sampling)
    # then traces, events, features and answers are the same
    assert [g.output_ids for g in found] == [g.output_ids for g in ours]
    assert [[(e.index, e.seen_at) for e in g.events] for g in found] == [
        [(e.index, e.seen_at) for e in g.events] for g in ours
    ]
    for one, other in zip(found, ours, strict=True):
        assert one.features is not None
        assert other.features is not None
        np.testing.assert_allclose(one.features, other.features, atol=1e-3)
        # with the statistics of every token, unknown where they are unknown to transformers
        assert one.tokens is not None
        assert other.tokens is not None
        np.testing.assert_array_equal(one.tokens.ids, other.tokens.ids)
        np.testing.assert_array_equal(one.tokens.thinking, other.tokens.thinking)
        np.testing.assert_allclose(one.tokens.statistics, other.tokens.statistics, atol=2e-3)
        mine, known = ([astuple(s) for s in made.signals or ()] for made in (one, other))
        np.testing.assert_allclose(mine, known, atol=2e-3)
    for answered, expected in zip(answers, theirs, strict=True):
        assert [(a.ids, a.finish) for a in answered] == [(a.ids, a.finish) for a in expected]
        for name in ("confidence", "first_entropy"):
            numbers, wanted = ([getattr(a, name) for a in row] for row in (answered, expected))
            np.testing.assert_allclose(numbers, wanted, atol=1e-3)
    # and part of their prompts came from the cache
    assert 0 < engine.cache.cached < engine.cache.total
    # and what was fetched is gone
    assert llm.collective_rpc("lynxstop_take_rows") == [b""]


def test_a_request_that_asks_for_no_statistics_leaves_rows_of_cues_only(
    make_llm: Any,
    make_model: Any,
    prompts: Any,
    generate: Any,
    adapter_of: Callable[[Any], Any],
    tmp_path: Path,
) -> None:
    # given an engine that records
    model = make_model("Qwen3")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    llm = make_llm(model, settings={"recipe": str(tmp_path / "recipe.toml"), "record": str(tmp_path / "s")})
    # when one request asks for the statistics of its first five tokens, and one for none
    asked = [
        {"lynxstop_record": "five", "lynxstop_statistics": 5},
        {"lynxstop_record": "none"},
    ]
    generate(llm, prompts[:2], xargs=asked, ignore_eos=True)
    adapter_of(llm).recorder.rows.flush()
    # then five distributions are recorded, the one behind the prompt first, and all cues of both
    rows = list(read_rows(tmp_path / "s"))
    plain = {(row.request, row.token) for row in rows if row.features is None}
    assert {name for name, _ in plain} == {"five"}
    assert {row.token for row in rows if row.request == "five"} >= {-1, 0, 1, 2, 3}
    assert max(token for _, token in plain) <= 3
    assert {row.request for row in rows if row.features is not None} == {"five", "none"}


def test_rows_that_cannot_be_written_are_counted_on_metrics(
    make_llm: Any,
    make_model: Any,
    prompts: Any,
    generate: Any,
    adapter_of: Any,
    counts_of: Any,
    tmp_path: Path,
) -> None:
    # given an engine that records to a folder
    model = make_model("Qwen3")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    llm = make_llm(model, settings={"recipe": str(tmp_path / "recipe.toml"), "record": str(tmp_path / "s")})
    spool = adapter_of(llm).recorder.rows
    before = counts_of(llm)["dropped"]
    # when there is a file where the folder was
    (tmp_path / "s").rmdir()
    (tmp_path / "s").write_text("")
    generate(llm, prompts[:4], xargs=named(4))
    spool.flush()
    # then the rows are lost, and the loss shows
    assert spool.dropped > 0
    assert counts_of(llm)["dropped"] - before == spool.dropped
