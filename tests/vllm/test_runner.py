"""A model runner in this process (the first one, unless the environment asks for the second): its tokens
are those
of every other engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY

from tests.support.stepped import Served, strip


@pytest.fixture(scope="module", params=[(3,), (1, 3)], ids=["last", "tapped"])
def served(request: pytest.FixtureRequest, make_llm: Any, make_model: Any, make_bundle: Any) -> Served:
    model = make_model("Qwen3")
    bundle = make_bundle(model, request.param)
    return make_llm(model, bundle), model, bundle


def test_the_runner_is_the_one_asked_for(served: Served, runner_of: Any) -> None:
    # given the environment's choice, when an engine starts, then it has that runner
    assert hasattr(runner_of(served[0]), "input_batch") == (os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "0")


def test_tokens_equal_those_of_the_transformers_engine(
    served: Served, prompts: Any, generate: Any, reference: Any, counts_of: Any
) -> None:
    # given the same model, bundle and prompts
    llm, model, bundle = served
    expected = reference(model, bundle, prompts)
    before = counts_of(llm)
    # when both generate greedily
    found = generate(llm, prompts)
    # then all tokens agree, the forced ones included, and so do the exits
    assert [strip(ids) for ids in found] == [g.output_ids for g in expected]
    exits = [g.exit for g in expected if g.exit is not None]
    assert len(exits) >= 3
    after = counts_of(llm)
    assert after["exits_score"] - before["exits_score"] == len(exits)
    assert after["cues"] - before["cues"] >= sum(len(g.events) for g in expected)
    assert after["errors"] == after["refused"] == 0


def test_off_leaves_a_request_untouched(
    served: Served, prompts: Any, generate: Any, make_llm: Any, counts_of: Any
) -> None:
    # given a server that stops by default
    llm, _model, _ = served
    before = counts_of(llm)
    # when requests ask to be left alone
    found = generate(llm, prompts, xargs={"lynxstop_risk": "off"})
    # then nothing is counted, and another risk gives other tokens
    assert counts_of(llm) == before
    assert found != generate(llm, prompts)


def test_requests_of_one_batch_have_their_own_terms(
    served: Served, prompts: Any, generate: Any, reference: Any
) -> None:
    # given requests with different risks and modes in one batch
    llm, model, bundle = served
    args = [{"lynxstop_risk": r} for r in (0.05, "0.2", "off", 0.2)] + [
        {"lynxstop_mode": m} for m in ("shadow", "stop")
    ] * 6
    # when they run together
    found = generate(llm, prompts, xargs=args)
    # then each has the tokens it has alone
    strict, loose, full = (reference(model, bundle, prompts, risk=risk) for risk in (0.05, 0.2, None))
    chosen = [strict, loose, full, loose] + [full, strict] * 6
    assert [strip(ids) for ids in found] == [run[i].output_ids for i, run in enumerate(chosen)]


def test_shadow_decides_and_counts_but_never_forces(
    served: Served, prompts: Any, generate: Any, counts_of: Any
) -> None:
    # given what a stopping run counts
    llm = served[0]
    start = counts_of(llm)
    generate(llm, prompts)
    stopped = counts_of(llm)
    # when the same requests run in shadow mode
    found = generate(llm, prompts, xargs={"lynxstop_mode": "shadow"})
    shadow = counts_of(llm)
    # then their tokens are those of untouched requests, and the same exits are counted
    assert found == generate(llm, prompts, xargs={"lynxstop_risk": "off"})
    assert shadow["exits_score"] - stopped["exits_score"] == stopped["exits_score"] - start["exits_score"] > 0
    assert shadow["exit_tokens"] - stopped["exit_tokens"] == stopped["exit_tokens"] - start["exit_tokens"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lynxstop_risk": 0.1}, "certified levels: 0.05, 0.2"),
        ({"lynxstop_risk": "low"}, 'a number or "off"'),
        ({"lynxstop_mode": "halt"}, "stop, shadow"),
        ({"lynxstop_record": 1}, "does not record"),
        ({"lynxstop_rsik": 0.05}, "lynxstop_rsik"),
    ],
)
def test_bad_arguments_are_refused(served: Served, generate: Any, args: dict[str, Any], message: str) -> None:
    # given a running engine, when a request asks for what there is not, then the error says what there is
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=message):
        generate(served[0], [[5, 0]], xargs=args)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"temperature": 0.3}, "temperature"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {5: -1.0}}, "logit_bias"),
        ({"tokens": 7}, "max_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_outside_the_certified_conditions_thinks(
    served: Served, prompts: Any, generate: Any, counts_of: Any, options: dict[str, Any], cause: str
) -> None:
    # given a bundle certified for greedy requests of at least 8 tokens
    llm = served[0]
    before, full = counts_of(llm), generate(llm, prompts, xargs={"lynxstop_risk": "off"}, seed=1, **options)
    labels = {"model_name": llm.llm_engine.model_config.served_model_name, "cause": cause}
    known = REGISTRY.get_sample_value("lynxstop:uncertified_total", labels) or 0
    # when requests that ask for a level are decoded otherwise
    found = generate(llm, prompts, seed=1, **options)
    # then none is stopped, and each is counted by its cause
    after = counts_of(llm)
    assert found == full
    assert after["exits_score"] == before["exits_score"]
    assert after["uncertified"] - before["uncertified"] == len(prompts)
    assert REGISTRY.get_sample_value("lynxstop:uncertified_total", labels) == known + len(prompts)


def test_an_error_of_ours_leaves_requests_running(
    served: Served, prompts: Any, generate: Any, adapter_of: Callable[[Any], Any], counts_of: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # given a probe that breaks at its first cue
    llm = served[0]
    full = generate(llm, prompts, xargs={"lynxstop_risk": "off"})
    errors = counts_of(llm)["errors"]

    def broken(*args: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(adapter_of(llm).sessions, "_score", broken)
    # when requests run
    found = generate(llm, prompts)
    # then they think to the end and the error is counted
    assert found == full
    assert counts_of(llm)["errors"] > errors
    # and requests that come later are watched again
    monkeypatch.undo()
    assert generate(llm, prompts) != full
