"""Every kind of rule decides in vLLM what it decides in replay and in the transformers engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.collect.texts import Texts
from lynxstop.core.policy import StopPolicy
from lynxstop.core.types import Request, Sampling
from lynxstop.engines.transformers import TransformersEngine
from lynxstop.engines.transformers.loading import LoadedModel, load_engine
from lynxstop.recordings.storage import Recording
from tests.support.ruled import CASES, TOKENS, prepared, prompts, record_greedy


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(shipped.BUNDLE)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record_greedy(tmp_path_factory.mktemp("live") / "data")


@pytest.fixture(scope="module")
def loaded(bundle: Bundle) -> LoadedModel:
    return load_engine(shipped.MODEL, bundle, batch_size=5)


@pytest.fixture(scope="module")
def llm(make_llm: Any, bundle: Bundle) -> Any:
    return make_llm(shipped.MODEL, bundle, settings={"uncertified": "stop"}, max_model_len=512)


def serve_in(llm: Any, adapter: Any, policy: StopPolicy) -> None:
    """Let a running engine serve another policy: what start-up does, without the start."""
    from lynxstop.engines.vllm.attach import make_sessions
    from lynxstop.engines.vllm.request_options import RequestOptionsReader

    setup = replace(adapter.served.setup, policy=policy)
    adapter.served = replace(
        adapter.served,
        setup=setup,
        options=RequestOptionsReader(adapter.served.settings, policy, default_risk=0.05),
    )
    sessions = make_sessions(adapter.served, adapter.runner.device, adapter.runner.max_num_reqs + 1)
    adapter.sessions = adapter.slots.sessions = sessions


@pytest.mark.parametrize(("name", "points"), CASES)
def test_vllm_decides_as_replayed_and_as_transformers(
    recorded: Recording, bundle: Bundle, loaded: LoadedModel, llm: Any, adapter_of: Any, generate: Any,
    name: str, points: int,
) -> None:  # fmt: skip
    # given what a rule would have decided on recorded traces, and what the transformers engine makes of it
    policy, table, expected = prepared(recorded, bundle, name, points)
    asked = prompts(Texts(loaded.tokenizer, loaded.setup.delimiters, loaded.setup.cues))
    engine = TransformersEngine(
        loaded.engine.model, loaded.tokenizer, loaded.setup.watch, policy, probe=bundle.probe, batch_size=5
    )
    requests = [Request(str(number), ids, risk=0.05) for number, ids in enumerate(asked)]
    there = {g.request.id: g for g in engine.generate(requests, Sampling(max_tokens=TOKENS, answer_tokens=4))}
    # when vLLM serves it
    serve_in(llm, adapter_of(llm), policy)
    found = generate(llm, [list(ids) for ids in asked], tokens=TOKENS)
    # then every request is its full trace up to the replayed exit, and its tokens are the other engine's
    exits = 0
    for number, (tokens, decided, ids) in enumerate(zip(recorded.tokens(), expected, found, strict=True)):
        theirs = there[str(number)].output_ids
        assert ids[: len(theirs)] == theirs
        assert policy.budget is not None
        end = policy.budget if decided is None else decided.thinking_tokens
        cut = min(end, int(table.full_tokens[number]))
        assert ids[:cut] == tokens.ids[:cut].tolist()
        if decided is not None:
            assert tuple(ids[cut : cut + len(policy.exit_ids)]) == policy.exit_ids
            exits += 1
    assert exits > 0
