"""Rules inside the engine: sessions of the core, with statistics of the engine's own logits.

Tiny models; the second runner runs this file too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lynxstop.artifacts.bundle import Bundle, ServedRule
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL
from lynxstop.errors import BundleError
from lynxstop.rules.table import rule_named
from tests.support.stepped import EXIT, SHORT_OF_MEMORY, Served, metric, preempt_all, steps, strip


def learned(features: int) -> dict[str, Any]:
    """Constants of a rule as if it had been fitted; the numbers mean nothing."""
    draw = np.random.default_rng(3)
    weights = draw.normal(size=features).tolist()
    return {"means": [0.0] * features, "scales": [5.0] * features, "weights": weights, "bias": 0.1}


ALL = CUE | BOUNDARY | INTERVAL
RULE = ServedRule(name="combined", constants=learned(14), points=ALL, every=7)


@pytest.fixture(scope="module")
def ruled(make_model: Any, make_bundle: Any, prompts: Any, reference: Any) -> tuple[Path, Bundle]:
    """A bundle whose thresholds some points pass, late in their traces."""
    model = make_model("Qwen3")
    options = {"scale": 0.3, "rule": RULE, "min_tokens": 10, "cooldown": 2}
    blind = make_bundle(model, (1, 3), thresholds=(1e9, 1e9), **options)
    full = reference(model, blind, prompts, risk=0.05)
    best = np.array([max((e.score for e in g.events if e.eligible), default=-np.inf) for g in full])
    # between the best scores of two requests: about half of them exit
    ladder = np.sort(best[np.isfinite(best)])
    middle = len(ladder) // 2
    threshold = float(ladder[middle - 1 : middle + 1].mean())
    return model, make_bundle(model, (1, 3), thresholds=(threshold, threshold - 1.0), **options)


@pytest.fixture(scope="module")
def served(make_llm: Any, ruled: tuple[Path, Bundle]) -> Served:
    model, bundle = ruled
    return make_llm(model, bundle, settings={"uncertified": "stop"}, **SHORT_OF_MEMORY), model, bundle


def test_tokens_equal_those_of_the_transformers_engine(
    served: Served, prompts: Any, generate: Any, reference: Any, counts_of: Any
) -> None:
    # given a rule on hidden states and statistics, at points of all kinds
    llm, model, bundle = served
    expected = reference(model, bundle, prompts)
    before, preempted = counts_of(llm), metric(llm, "vllm:num_preemptions")
    # when both engines generate, vLLM with chunked prefill and preemptions
    found = generate(llm, prompts)
    after = counts_of(llm)
    # then all tokens agree, and so do exits and decision points
    assert metric(llm, "vllm:num_preemptions") > preempted
    assert [strip(ids) for ids in found] == [g.output_ids for g in expected]
    exits = [g.exit for g in expected if g.exit is not None]
    assert 3 <= len(exits) < len(prompts)
    assert len({e.kind for g in expected for e in g.events}) > 3
    assert after["exits_score"] - before["exits_score"] == len(exits)
    assert after["exit_tokens"] - before["exit_tokens"] == sum(e.thinking_tokens for e in exits)
    assert after["cues"] - before["cues"] >= sum(len(g.events) for g in expected)
    assert after["errors"] == after["lost"] == after["refused"] == after["not_finite"] == 0


def test_preemption_between_points_changes_no_decision(
    served: Served, prompts: Any, reference: Any, counts_of: Any
) -> None:
    # given a request that a rule stops
    llm, model, bundle = served
    runs = reference(model, bundle, prompts)
    number = next(i for i, g in enumerate(runs) if g.exit and g.exit.seen_at > 8)
    stop = runs[number].exit.seen_at
    # when it is preempted once behind each of its first tokens, two others running beside it
    some = [prompts[number], prompts[(number + 1) % len(prompts)], prompts[(number + 2) % len(prompts)]]
    expected = [runs[(number + i) % len(prompts)].output_ids for i in range(3)]
    for moment in range(1, stop + len(EXIT) + 3):
        preempted = False
        for so_far in steps(llm, some):
            if not preempted and len(so_far.get("r0", ())) == moment:
                preempt_all(llm)
                preempted = True
        # then no token changes: statistics of earlier tokens are not lost
        assert preempted
        assert [strip(so_far[f"r{i}"]) for i in range(3)] == expected, moment
    assert counts_of(llm)["lost"] == 0


def test_a_request_whose_statistics_are_lost_thinks_to_the_end(
    served: Served, prompts: Any, generate: Any, reference: Any, adapter_of: Any, counts_of: Any
) -> None:
    # given requests that a rule stops
    llm, model, bundle = served
    full = generate(llm, prompts, xargs={"lynxstop_risk": "off"})
    assert generate(llm, prompts) != full
    before = counts_of(llm)
    statistics = adapter_of(llm).sessions._statistics
    # when what was known of their next token is gone in the middle
    for number, so_far in enumerate(steps(llm, prompts[:3])):  # noqa: B007
        if number == 6:
            for slot in range(8):
                statistics.give(slot, None)
    # then they are left alone and counted, instead of being decided on wrong numbers
    assert [so_far[f"r{i}"] for i in range(3)] == full[:3]
    assert counts_of(llm)["lost"] - before["lost"] == 3
    # and later requests are served
    assert [strip(ids) for ids in generate(llm, prompts)] == [
        g.output_ids for g in reference(model, bundle, prompts)
    ]


def test_an_error_of_ours_leaves_requests_running(
    served: Served,
    prompts: Any,
    generate: Any,
    adapter_of: Any,
    counts_of: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given statistics that break in the middle of a run
    llm = served[0]
    full = generate(llm, prompts, xargs={"lynxstop_risk": "off"})
    errors = counts_of(llm)["errors"]
    sessions = adapter_of(llm).sessions
    look, calls = sessions._statistics.observe, iter(range(1000))

    def broken(*args: Any) -> Any:
        if next(calls) == 9:
            raise RuntimeError("broken")
        return look(*args)

    monkeypatch.setattr(sessions._statistics, "observe", broken)
    # when requests run, then those of the batch think to the end, and the error is counted
    found = generate(llm, prompts)
    assert found[:4] == full[:4]
    assert counts_of(llm)["errors"] == errors + 1
    # and those that come later are watched again
    assert found != full


def test_shadow_decides_and_counts_but_never_forces(
    served: Served, prompts: Any, generate: Any, counts_of: Any
) -> None:
    # given what a stopping run counts
    llm = served[0]
    start = counts_of(llm)
    generate(llm, prompts)
    stopped = counts_of(llm)
    # when the same requests run in shadow mode, beside others that are off
    found = generate(llm, prompts, xargs=[{"lynxstop_mode": "shadow"}] * len(prompts))
    shadow = counts_of(llm)
    # then their tokens are those of untouched requests, and the same exits are counted
    assert found == generate(llm, prompts, xargs={"lynxstop_risk": "off"})
    for name in ("exits_score", "exit_tokens"):
        assert shadow[name] - stopped[name] == stopped[name] - start[name] > 0
    # and those of the last run, which are off, count nothing
    assert counts_of(llm) == shadow


def test_requests_of_one_batch_have_their_own_terms(
    served: Served, prompts: Any, generate: Any, reference: Any
) -> None:
    # given requests with different risks in one batch
    llm, model, bundle = served
    args = [{"lynxstop_risk": risk} for risk in (0.05, 0.2, "off", 0.2)] * 4
    # when they run together, then each has the tokens it has alone
    found = generate(llm, prompts, xargs=args)
    runs = [reference(model, bundle, prompts, risk=risk) for risk in (0.05, 0.2, None, 0.2)]
    assert [strip(ids) for ids in found] == [runs[i % 4][i].output_ids for i in range(len(prompts))]


def test_a_model_that_opens_its_block_itself_is_judged_from_there(
    served: Served, prompts: Any, generate: Any, counts_of: Any
) -> None:
    # given prompts without an open block, and a model that is made to open one
    llm = served[0]
    before = counts_of(llm)
    options = {"frequency_penalty": 2.0, "allowed_token_ids": [0, 5, 11, 13, 12]}
    found = generate(llm, [[5, 11, 13], [13, 12]], xargs={"lynxstop_mode": "shadow"}, **options)
    # then its points are seen, and nothing is lost at its first thinking token
    after = counts_of(llm)
    assert any(0 in ids for ids in found)
    assert after["cues"] > before["cues"]
    assert after["lost"] == before["lost"]
    assert after["errors"] == before["errors"]


def test_a_structured_request_is_forced_to_the_end_of_thinking_only(
    ruled: tuple[Path, Bundle], prompts: Any
) -> None:
    # given a session whose request continues with a grammar
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from lynxstop.artifacts.setup import setup_from_bundle
    from lynxstop.engines.vllm.per_request import PerRequestSessions
    from lynxstop.engines.vllm.product_automaton import product
    from lynxstop.engines.vllm.request_options import RequestOptions
    from lynxstop.engines.vllm.session_batch import BatchStep

    model, bundle = ruled
    setup = setup_from_bundle(bundle, transformers.AutoTokenizer.from_pretrained(model))
    assert bundle.probe is not None
    sessions = PerRequestSessions(product(setup.watch), setup.policy, bundle.probe, torch.device("cpu"), 4, 2)
    for slot, structured in ((0, True), (1, False)):
        sessions.admit(slot, [0], RequestOptions(True, 0.0, budget=3, structured=structured))
    # when a budget stops it
    forced: list[list[int | None]] = []
    tokens, features = [13, 13], torch.zeros(2, 128)
    for number in range(10):
        # the first step feeds the end of the prompt, which is not read
        read = None if number else np.array([False, False])
        step = BatchStep(np.array([0, 1]), torch.tensor(tokens), None, read, lambda rows: [])
        sessions.observe(step, lambda rows: features if rows is None else features[rows], torch.zeros(2, 22))
        logits = torch.zeros(2, 22)
        sessions.force(logits)
        forced.append([int(row.argmax()) if row.max() > 1e8 else None for row in logits])
        tokens = [13 if token is None else token for token in forced[-1]]
    # then the tokens up to </think> are forced, and none behind it
    alone = [[one for one in of_row if one is not None] for of_row in zip(*forced, strict=True)]
    assert alone == [list(EXIT[:2]), list(EXIT)]


def test_a_bundle_whose_rule_needs_trial_answers_cannot_be_loaded(make_model: Any, make_bundle: Any) -> None:
    # given a rule that is replayed only, when a bundle names it, then no engine gets to serve it
    assert "trial" in rule_named("cascade").needs
    with pytest.raises(BundleError, match="needs trial answers"):
        make_bundle(make_model("Qwen3"), rule=ServedRule(name="cascade"))
