"""An answer recorded behind a cut is the answer a live exit gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.types import Answer, Request, Sampling
from lynxstop.engines.transformers import TransformersEngine
from lynxstop.errors import ConfigError

Tiny = Callable[..., torch.nn.Module]
Make = Callable[..., TransformersEngine]
GREEDY = Sampling(max_tokens=60, answer_tokens=8)
SAMPLED = Sampling(temperature=1.0, top_p=0.97, max_tokens=80, answer_tokens=8)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["Qwen3", "Gemma2"])
def test_recorded_answers_equal_live_exits(
    kind: str, sampling: Sampling, engine: Make, tiny: Tiny, requests: list[Request]
) -> None:
    # given full traces and the answers behind all their cues
    recorder = engine(tiny(kind))
    traces = list(recorder.generate(requests, sampling, record=True))
    answers = recorder.force_exits(traces, sampling)
    # when the same requests exit live, at different thresholds
    compared = 0
    for threshold in (-60.0, -30.0, 0.0, 30.0):
        server = engine(tiny(kind), policy=StopPolicy((1, 16), (Level(0.2, threshold),)))
        live = {
            g.request.id: g
            for g in server.generate([replace(r, risk=0.2) for r in requests], sampling, record=True)
        }
        # then tokens, log-probabilities and finish agree
        for trace, behind in zip(traces, answers, strict=True):
            served = live[trace.request.id]
            if served.exit is not None:
                start = served.exit.seen_at + 3
                answer = behind[served.exit.cue]
                assert answer.ids == tuple(served.output_ids[start:])
                assert answer.finish == served.finish
                np.testing.assert_allclose(answer.logprobs, served.logprobs[start:], atol=2e-3)
                compared += 1
    assert compared >= 6


def test_chosen_cuts_come_back_in_their_order(engine: Make, requests: list[Request]) -> None:
    made = engine(batch_size=2)
    traces = list(made.generate(requests, GREEDY))
    cuts = [[5, 1, 3] if number % 2 else [] for number in range(len(traces))]
    mixed = made.force_exits(traces, GREEDY, cuts)
    assert [len(answers) for answers in mixed] == [0, 3] * 4
    for trace, places, answers in zip(traces, cuts, mixed, strict=True):
        for place, answer in zip(places, answers, strict=True):
            [[alone]] = made.force_exits([trace], GREEDY, [[place]])
            assert alone.ids == answer.ids


def test_a_cut_without_room_gives_an_empty_answer(engine: Make, requests: list[Request]) -> None:
    made = engine()
    trace = next(g for g in made.generate(requests, GREEDY) if len(g.output_ids) == 60)
    [answers] = made.force_exits([trace], GREEDY, [[59, 56]])
    assert answers[0] == Answer((), (), "length")
    assert answers[0].confidence == answers[0].min_prob == answers[0].mean_prob == 0.0
    assert len(answers[1].ids) == 1


def test_a_cut_outside_the_trace_is_refused(engine: Make, requests: list[Request]) -> None:
    made = engine()
    traces = list(made.generate(requests[:1], GREEDY))
    with pytest.raises(ConfigError, match="outside its trace"):
        made.force_exits(traces, GREEDY, [[len(traces[0].output_ids)]])


def test_confidences_of_an_answer() -> None:
    answer = Answer((5, 6), (float(np.log(0.5)), float(np.log(0.125))), "stop")
    np.testing.assert_allclose([answer.confidence, answer.mean_prob, answer.min_prob], [0.25, 0.3125, 0.125])
