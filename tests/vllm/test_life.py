"""The whole life of a request on the first runner; each test makes the thing happen and shows that it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lynxstop.engines.vllm import attach
from tests.support.stepped import END, EXIT, SHORT_OF_MEMORY, Served, metric, preempt_all, steps, strip

OPEN, CLOSE, WAIT = 0, 1, 5


@pytest.fixture(scope="module", params=["host", "device"])
def served(request: pytest.FixtureRequest, make_llm: Any, make_model: Any, make_bundle: Any) -> Served:
    """An engine with the sessions of a CPU, and one with those of a device."""
    model = make_model("Qwen3")
    bundle = make_bundle(model, (1, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attach, "_on_host", lambda device: request.param == "host")
        return make_llm(model, bundle, settings={"uncertified": "stop"}, **SHORT_OF_MEMORY), model, bundle


def contains(ids: list[int], part: tuple[int, ...]) -> int:
    return sum(tuple(ids[i : i + len(part)]) == part for i in range(len(ids)))


def test_chunked_prefill_and_preemption_change_no_token(
    served: Served, prompts: Any, generate: Any, reference: Any, counts_of: Callable[[Any], dict[str, int]]
) -> None:
    # given an engine short of memory that prefills in chunks
    llm, model, bundle = served
    before = metric(llm, "vllm:num_preemptions")
    # when more requests run than it can hold
    found = generate(llm, prompts)
    # then some were preempted, and all tokens are those of the transformers engine
    assert metric(llm, "vllm:num_preemptions") > before
    expected = reference(model, bundle, prompts)
    assert [strip(ids) for ids in found] == [g.output_ids for g in expected]
    assert counts_of(llm)["lost"] == counts_of(llm)["errors"] == 0


def test_preemption_at_every_moment_of_an_exit(
    served: Served, prompts: Any, generate: Any, reference: Any
) -> None:
    # given a request that stops at a cue proven by the token after it
    llm, model, bundle = served
    runs = reference(model, bundle, prompts)
    number = next(i for i, g in enumerate(runs) if g.exit and g.exit.seen_at > g.events[g.exit.cue].index > 1)
    stop = runs[number].exit.seen_at
    alone = runs[number].output_ids
    # when it is preempted once, behind each of its first tokens: before, at, behind the cue, in the exit,
    # after it
    for moment in range(1, stop + len(EXIT) + 4):
        preempted = False
        for so_far in steps(llm, [prompts[number]]):
            if not preempted and len(so_far.get("r0", ())) == moment:
                preempt_all(llm)
                preempted = True
        # then its tokens never change
        assert preempted
        assert strip(so_far["r0"]) == alone, moment


def test_preemption_at_every_step(served: Served, prompts: Any, reference: Any) -> None:
    # given several requests that stop at different times
    llm, model, bundle = served
    some = prompts[:5]
    expected = [g.output_ids for g in reference(model, bundle, some, tokens=24)]
    # when all are preempted again and again, also in the middle of their way back
    for number, so_far in enumerate(steps(llm, some, tokens=24)):  # noqa: B007
        if number % 5 == 4 and number < 60:
            preempt_all(llm)
    # then no token changes
    assert [strip(so_far[f"r{i}"]) for i in range(len(some))] == expected


def test_requests_join_leave_and_are_aborted(
    served: Served, prompts: Any, reference: Any, adapter_of: Any
) -> None:
    # given running requests
    llm, model, bundle = served
    expected = reference(model, bundle, prompts[:6])
    exiting = [i for i, g in enumerate(expected) if g.exit]
    assert exiting
    # when two of them are aborted, one before its first token and one in mid-thought
    for number, so_far in enumerate(steps(llm, prompts[:6])):  # noqa: B007
        if number == 0:
            llm.llm_engine.abort_request(["r0"])
        if number == 9:
            llm.llm_engine.abort_request(["r3"])
    # then the others are what they are alone, and no slot stays taken
    for i in (1, 2, 4, 5):
        assert strip(so_far[f"r{i}"]) == expected[i].output_ids
    assert len(so_far.get("r3", ())) < len(expected[3].output_ids)
    list(steps(llm, [[6, 7]], tokens=2))
    assert adapter_of(llm).slots.watched.sum() <= 1


def test_children_of_one_request_stop_by_themselves(served: Served, prompts: Any, counts_of: Any) -> None:
    # given a request for several answers
    from vllm import SamplingParams

    llm, _, _ = served
    before = counts_of(llm)
    bias = {WAIT: 9.0, 11: 9.0, 13: 9.0, 14: 9.0}
    params = SamplingParams(
        n=6, temperature=2.0, max_tokens=48, logit_bias=bias, extra_args={"lynxstop_risk": 0.05}
    )
    # when they are sampled
    result = llm.generate([{"prompt_token_ids": prompts[0]}], params, use_tqdm=False)[0]
    # then those that stopped hold the exit once, whole, at places of their own
    after = counts_of(llm)
    stopped = [o.token_ids for o in result.outputs if contains(list(o.token_ids), EXIT)]
    assert after["exits_score"] - before["exits_score"] >= len(stopped) >= 2
    assert len({tuple(output.token_ids) for output in result.outputs}) > 1
    assert all(contains(ids, EXIT) == 1 for ids in map(list, stopped))
    assert after["refused"] == before["refused"]


def test_options_of_vllm_do_not_change_decisions(served: Served, prompts: Any, generate: Any) -> None:
    # given what requests say without options
    llm = served[0]
    plain = generate(llm, prompts)
    # when log-probabilities of prompt and output are asked for, then no token changes
    assert generate(llm, prompts, logprobs=2, prompt_logprobs=2) == plain
    # and neither with ignore_eos, up to where the answer ended
    longer = generate(llm, prompts, ignore_eos=True)
    assert [b[: len(strip(a))] for a, b in zip(plain, longer, strict=True)] == [strip(a) for a in plain]


@pytest.mark.parametrize("asked", [{"min_tokens": 40}, {"stop": ["=3"]}, {"stop": ["never", "x\n"]}])
def test_what_no_exit_goes_together_with_thinks_to_the_end(
    served: Served, prompts: Any, generate: Any, counts_of: Any, asked: Any
) -> None:
    # given what requests say without lynxstop when an exit would break what they ask for
    llm = served[0]
    bare = generate(llm, prompts, xargs={"lynxstop_risk": "off"}, skip_special_tokens=False, **asked)
    before = counts_of(llm)
    # when the same is asked with lynxstop, then no token differs, and nothing was stopped
    assert generate(llm, prompts, skip_special_tokens=False, **asked) == bare
    after = counts_of(llm)
    assert after["exits_score"] == before["exits_score"]
    assert after["uncertified"] > before["uncertified"]


def test_a_stop_string_of_the_answer_ends_a_stopped_request(
    served: Served, prompts: Any, generate: Any
) -> None:
    # given requests that are stopped and answer, and a stop string that only an answer completes
    llm = served[0]
    plain = generate(llm, prompts)
    number = next(i for i, ids in enumerate(plain) if contains(ids, EXIT))
    # when it is asked for, then exits are taken all the same
    found = generate(llm, prompts, stop=["3never"], skip_special_tokens=False)
    assert found[number] == plain[number]


def test_a_prompt_without_an_open_block_waits_for_one(
    served: Served, prompts: Any, generate: Any, counts_of: Any
) -> None:
    # given prompts full of cues whose block is closed, or was never opened
    llm = served[0]
    closed = [[OPEN, WAIT, 11, CLOSE, 13, WAIT, 11], [WAIT, 11, 13, WAIT]]
    before = counts_of(llm)
    found = generate(llm, closed)
    # when nothing opens one, then no cue counts
    assert not any(OPEN in ids for ids in found)
    assert counts_of(llm)["cues"] == before["cues"]
    # when the model is made to open one by itself, then it is watched from there
    opened = generate(
        llm,
        closed,
        frequency_penalty=2.0,
        allowed_token_ids=[OPEN, WAIT, 11, 13],
        xargs={"lynxstop_mode": "shadow"},
    )
    assert any(OPEN in ids for ids in opened)
    assert counts_of(llm)["cues"] > before["cues"]


def test_a_second_turn_thinks_and_stops_again(
    served: Served, prompts: Any, generate: Any, reference: Any
) -> None:
    # given a conversation whose first turn was stopped
    llm, model, bundle = served
    first = generate(llm, prompts)
    turns = [
        [*p, *strip(ids), END, 14, 15, OPEN]
        for p, ids in zip(prompts, first, strict=True)
        if contains(ids, EXIT)
    ]
    # when the next turn opens a block of its own
    found = generate(llm, turns)
    # then it is served as a new request
    assert [strip(ids) for ids in found] == [g.output_ids for g in reference(model, bundle, turns)]
    assert any(contains(ids, EXIT) for ids in found)


def test_nothing_is_forced_inside_a_tool_call(served: Served, generate: Any, counts_of: Any) -> None:
    # given a thought with a tool call open, and one where it is closed again
    llm = served[0]
    start = [OPEN, 13, 14]
    before = counts_of(llm)["cues"]
    # when the model writes cues in it, then none counts
    inside = generate(llm, [[*start, 3]], logit_bias={WAIT: 8.0, 11: 7.0, 4: -50.0}, tokens=12)
    assert inside[0].count(WAIT) >= 3
    assert counts_of(llm)["cues"] == before
    # and behind it they do
    generate(llm, [[*start, 3, 15, 4]], logit_bias={WAIT: 8.0, 11: 7.0, 3: -50.0}, tokens=12)
    assert counts_of(llm)["cues"] > before
