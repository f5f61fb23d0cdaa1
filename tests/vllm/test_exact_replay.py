"""The decision replayed on a full trace of vLLM is the decision of the live request in vLLM, request by
request.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.setup import setup_from_bundle
from lynxstop.collect.texts import Texts
from lynxstop.core.rule import eligible_mask, tilted
from lynxstop.core.types import Request, Sampling
from lynxstop.demo import held_out
from lynxstop.engines.vllm.engine import VllmEngine
from lynxstop.engines.vllm.loading import EXTENSION
from tests.support.first_exit import first_exit

REQUESTS = 200


@pytest.mark.timeout(900)
@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.9, marks=pytest.mark.slow)])
def test_vllm_decides_live_as_replayed(make_llm: Any, tmp_path: Path, temperature: float) -> None:
    # given full traces of the shipped model, recorded in vLLM, and the answers forced at their cues
    bundle = Bundle.load(shipped.BUNDLE)
    assert bundle.probe is not None
    llm = make_llm(
        shipped.MODEL,
        bundle,
        settings={"record": ":memory:", "uncertified": "stop"},
        max_model_len=1200,
        max_num_seqs=64,
        enable_prefix_caching=True,
        worker_extension_cls=EXTENSION,
    )
    setup = setup_from_bundle(bundle, llm.get_tokenizer())
    engine = VllmEngine(llm, setup, bundle.probe.layers)
    texts = Texts(llm.get_tokenizer(), setup.delimiters, setup.cues)
    sampling = Sampling(max_tokens=1000, answer_tokens=16, temperature=temperature, seed=4)
    asked = [Request(p.id, texts.prompt_ids(p.prompt)) for p in held_out.problems(REQUESTS, 6)]
    full = list(engine.generate(asked, sampling, record=True))
    answers = engine.force_exits(full, sampling)

    # when the same requests run live at a certified level
    live = list(engine.generate([replace(request, risk=0.05) for request in asked], sampling))

    # then each is the full trace up to the replayed exit, the exit tokens, and the answer forced there
    policy = bundle.policy.stop_policy()
    exits = 0
    for whole, stopped, forced in zip(full, live, answers, strict=True):
        assert whole.features is not None
        positions = np.array([event.position for event in whole.events], dtype=np.int64)
        mask = eligible_mask(policy, positions)
        scores = tilted(bundle.probe.score(whole.features), mask.cumsum() - mask, policy.tilt)
        hit = first_exit(scores, mask, policy.level(0.05).threshold)
        if hit < 0:
            assert stopped.output_ids == whole.output_ids
            continue
        cut = whole.events[hit].seen_at + 1
        assert stopped.output_ids == [*whole.output_ids[:cut], *policy.exit_ids, *forced[hit].ids]
        exits += 1
    assert exits > REQUESTS / 2
