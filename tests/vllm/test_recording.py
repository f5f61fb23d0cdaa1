"""Recording, and with it the hidden states of each architecture against transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lynxstop.engines.vllm.spool import read_spool
from lynxstop.errors import ModelError

KINDS = ["Llama", "Qwen2", "Qwen3", "Qwen3Moe", "Gemma", "DeepseekV3"]
FULL = {"lynxstop_risk": "off"}


def named(count: int) -> list[dict[str, Any]]:
    return [FULL | {"lynxstop_record": f"trace-{number}"} for number in range(count)]


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k == "Qwen3" else pytest.mark.slow) for k in KINDS])
def test_recorded_states_equal_those_of_transformers(
    kind: str, make_llm: Any, make_model: Any, make_bundle: Any, prompts: Any, generate: Any, reference: Any,
    desk_of: Callable[[Any], Any], tmp_path: Path,
) -> None:  # fmt: skip
    # given all states of a model, the embeddings and the one behind the final norm included
    model = make_model(kind)
    bundle = make_bundle(model, (0, 1, 2, 3), scale=0.1)
    llm = make_llm(model, bundle, settings={"record": str(tmp_path)}, max_num_batched_tokens=32)
    # when full traces are recorded in the engine
    found = generate(llm, prompts, xargs=named(len(prompts)))
    desk_of(llm).watcher.recorder.spool.flush()
    rows = {(row.request, row.index): row for row in read_spool(tmp_path)}
    # then at each cue features, score and statistics are those of transformers
    expected = reference(model, bundle, prompts, risk=None, record=True)
    compared = 0
    for number, (ids, trace) in enumerate(zip(found, expected, strict=True)):
        assert ids[: len(trace.output_ids)] == trace.output_ids
        for place, event in enumerate(trace.events):
            row = rows[f"trace-{number}", event.index]
            scale = max(1.0, float(np.abs(trace.features[place]).max()))
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
