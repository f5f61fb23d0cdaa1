"""Generation stops where it should, and is the same up to there in any batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lynxstop.artifacts.certified import Certified
from lynxstop.artifacts.probe import Probe
from lynxstop.core.conditions import Conditions, Uncertified
from lynxstop.core.exits import Mode, Reason
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.types import Generation, Request, Sampling
from lynxstop.engines.torch.device_probe import DeviceProbe
from lynxstop.engines.transformers import TransformersEngine
from lynxstop.errors import ConfigError, DataError

Tiny = Callable[..., Any]
Make = Callable[..., TransformersEngine]
GREEDY = Sampling(max_tokens=60, answer_tokens=8)
SAMPLED = Sampling(temperature=1.0, top_p=0.97, max_tokens=80, answer_tokens=8)
BOTH = pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


def run(
    engine: TransformersEngine, requests: list[Request], sampling: Sampling, **options: Any
) -> dict[str, Generation]:
    return {made.request.id: made for made in engine.generate(requests, sampling, **options)}


def at_risk(requests: list[Request], risk: float) -> list[Request]:
    return [replace(request, risk=risk) for request in requests]


@pytest.mark.parametrize("kind", ["Qwen3", "Llama", "Gemma2", "Gemma3Text"])
def test_greedy_output_equals_generate_of_transformers(
    kind: str, engine: Make, tiny: Tiny, requests: list[Request]
) -> None:
    model = tiny(kind)
    made = run(engine(model, probe=None), requests, Sampling(max_tokens=30, answer_tokens=30))
    for request in requests:
        ids = torch.tensor([request.prompt_ids])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30
        )
        tokens = [token for token in expected[0, ids.shape[1] :].tolist() if token != 2]
        assert made[request.id].output_ids == tokens


@BOTH
def test_early_exit_is_the_full_trace_up_to_the_exit(
    sampling: Sampling, engine: Make, requests: list[Request]
) -> None:
    # given full traces
    full = run(engine(), requests, sampling)
    # when the same requests may stop
    stopped = run(engine(), at_risk(requests, 0.2), sampling)
    # then some do, at the first score that passes, with the exit forced right behind
    assert sum(made.exit is not None for made in stopped.values()) >= 2
    for name, made in stopped.items():
        if made.exit is None:
            assert made.output_ids == full[name].output_ids
            continue
        cut = made.exit.seen_at + 1
        assert made.output_ids[:cut] == full[name].output_ids[:cut]
        assert made.output_ids[cut : cut + 2] == [1, 16][: sampling.max_tokens - cut]
        first = next(event for event in full[name].events if event.score > -20)
        assert (made.exit.reason, made.exit.seen_at) == (Reason.SCORE, first.seen_at)


@BOTH
@pytest.mark.parametrize("size", [1, 3])
def test_the_batch_changes_nothing(
    sampling: Sampling, size: int, engine: Make, requests: list[Request]
) -> None:
    together = run(engine(batch_size=64), at_risk(requests, 0.2), sampling)
    apart = run(engine(batch_size=size), at_risk(requests, 0.2)[::-1], sampling)
    for name, made in together.items():
        assert made.output_ids == apart[name].output_ids
        assert [event.index for event in made.events] == [event.index for event in apart[name].events]


def test_the_answer_has_its_own_limit(engine: Make, tiny: Tiny, requests: list[Request]) -> None:
    model = tiny(bias={2: -100.0})
    for made in run(engine(model), at_risk(requests, 0.2), SAMPLED).values():
        ends = [place for place, token in enumerate(made.output_ids) if token == 1]
        assert made.finish == "length"
        assert len(made.output_ids) == 80 or len(made.output_ids) == ends[0] + 1 + 8 + (made.exit is not None)


def test_the_budget_makes_a_request_answer(engine: Make, requests: list[Request]) -> None:
    policy = StopPolicy(exit_ids=(1, 16), budget=10)
    made = run(engine(policy=policy, probe=None), requests, GREEDY)
    reasons = [generation.exit.reason for generation in made.values() if generation.exit is not None]
    assert reasons.count(Reason.BUDGET) >= 6
    assert max(generation.thinking_tokens for generation in made.values()) == 10


def test_shadow_mode_records_the_exit_and_goes_on(engine: Make, requests: list[Request]) -> None:
    full = run(engine(), requests, GREEDY)
    shadow = run(engine(), [replace(r, mode=Mode.SHADOW) for r in at_risk(requests, 0.2)], GREEDY)
    assert sum(made.exit is not None for made in shadow.values()) >= 2
    assert all(made.output_ids == full[name].output_ids for name, made in shadow.items())


@BOTH
def test_recorded_features_scores_and_logprobs_are_the_models(
    sampling: Sampling, engine: Make, tiny: Tiny, linear_probe: Callable[..., Probe], requests: list[Request]
) -> None:
    model, probe = tiny(), linear_probe()
    events = 0
    for made in run(engine(model, probe=probe), at_risk(requests, 0.2), sampling, record=True).values():
        # given one pass over the whole output
        ids = [*made.request.prompt_ids, *made.output_ids]
        with torch.inference_mode():
            output = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        start = len(made.request.prompt_ids)
        logprobs = output.logits[0].float().log_softmax(dim=-1)
        # then the log-probabilities of all tokens are the model's, of forced ones too
        expected = logprobs[start - 1 : -1].gather(1, torch.tensor(made.output_ids).unsqueeze(1)).squeeze(1)
        np.testing.assert_allclose(made.logprobs, expected, atol=2e-3)
        # and so are features, scores and signals of every event
        assert made.features is not None
        assert made.signals is not None
        assert len(made.features) == len(made.signals) == len(made.events)
        last = -1
        for event, features, signals in zip(made.events, made.features, made.signals, strict=True):
            place = start + event.index
            states = torch.cat([output.hidden_states[layer][0, place] for layer in probe.layers])
            np.testing.assert_allclose(features, states, atol=2e-3)
            np.testing.assert_allclose(probe.score(features[None])[0], event.score, rtol=1e-4, atol=1e-4)
            here = logprobs[place]
            top = here.topk(2).values
            since = made.logprobs[last + 1 : event.index + 1]
            np.testing.assert_allclose(signals.entropy, -(here.exp() * here).sum(), atol=5e-3)
            np.testing.assert_allclose(signals.top_gap, top[0] - top[1], atol=5e-3)
            np.testing.assert_allclose(signals.end_margin, top[0] - here[1], atol=5e-3)
            np.testing.assert_allclose(
                [signals.min_logprob, signals.mean_logprob], [float(min(since)), float(np.mean(since))]
            )
            last = event.index
            events += 1
    assert events >= 10


def test_cues_that_wait_for_their_boundary_are_among_the_events(
    engine: Make, requests: list[Request]
) -> None:
    made = run(engine(), requests, SAMPLED, record=True)
    gaps = {event.seen_at - event.index for generation in made.values() for event in generation.events}
    assert gaps == {0, 1}


def test_tokens_stream_in_order_and_progress_counts(engine: Make, requests: list[Request]) -> None:
    streamed: dict[str, list[int]] = {request.id: [] for request in requests}
    counts: list[tuple[int, int]] = []
    made = run(
        engine(batch_size=3), at_risk(requests, 0.2), SAMPLED,
        on_token=lambda request, token: streamed[request.id].append(token),
        progress=lambda finished, total: counts.append((finished, total)),
    )  # fmt: skip
    assert streamed == {name: generation.output_ids for name, generation in made.items()}
    assert counts == [(number + 1, 8) for number in range(8)]


def test_finished_rows_are_not_computed(engine: Make, tiny: Tiny, requests: list[Request]) -> None:
    model = tiny()
    rows: list[int] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    made = run(engine(model), at_risk(requests, 0.2), SAMPLED)
    lengths = [len(generation.output_ids) + (generation.finish == "stop") for generation in made.values()]
    assert sum(rows) == sum(lengths)
    assert len(set(rows)) > 2


def test_failing_scores_harm_nobody(
    engine: Make, tiny: Tiny, requests: list[Request], caplog: pytest.LogCaptureFixture
) -> None:
    # given a probe that overflows on some features
    full = run(engine(), requests, GREEDY)
    weight = np.full((1, 32), 3e38, np.float32)
    overflowing = engine(probe=Probe((1, 3), ((weight, np.zeros(1, np.float32)),)))
    # when they generate
    with caplog.at_level(logging.WARNING):
        made = run(overflowing, requests, GREEDY)
    # then the tokens are those of a full trace, and the failures are counted and logged once
    assert {name: g.output_ids for name, g in made.items()} == {
        name: g.output_ids for name, g in full.items()
    }
    assert overflowing.failures >= 1
    assert len(caplog.records) == 1


class Broken(DeviceProbe):
    def score(self, features: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of order")


def test_an_exception_in_scoring_harms_nobody(
    engine: Make,
    linear_probe: Callable[..., Probe],
    requests: list[Request],
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = run(engine(), requests, GREEDY)
    broken = engine()
    broken._probe = Broken(linear_probe(), broken.device)
    made = run(broken, at_risk(requests, 0.2), GREEDY, record=True)
    assert {name: g.output_ids for name, g in made.items()} == {
        name: g.output_ids for name, g in full.items()
    }
    events = [event for generation in made.values() for event in generation.events]
    assert broken.failures >= len(events) > 0
    assert all(np.isnan(event.score) for event in events)
    assert [record.message for record in caplog.records if "RuntimeError" in record.message]
    assert len(caplog.records) == 1


def test_bad_input_is_refused_before_anything_runs(
    engine: Make, linear_probe: Callable[..., Probe], requests: list[Request]
) -> None:
    made = engine()
    with pytest.raises(ConfigError, match="not certified"):
        made.generate(at_risk(requests, 0.1), GREEDY)
    with pytest.raises(ConfigError, match="empty"):
        made.generate([Request("x", ())], GREEDY)
    with pytest.raises(ConfigError, match="vocabulary"):
        made.generate([Request("x", (3, 10_000))], GREEDY)
    with pytest.raises(ConfigError, match="needs a probe"):
        engine(probe=None).generate(at_risk(requests, 0.2), GREEDY)
    with pytest.raises(ConfigError, match="reads layers"):
        engine(layers=(2,))
    with pytest.raises(ConfigError, match="features"):
        engine(probe=Probe((1,), ((np.ones((1, 4), np.float32), np.ones(1, np.float32)),)))


def test_nothing_comes_of_no_requests(engine: Make) -> None:
    assert list(engine().generate([], GREEDY)) == []


def test_an_abandoned_run_leaves_no_hooks(engine: Make, tiny: Tiny, requests: list[Request]) -> None:
    model = tiny()
    stream: Any = engine(model, policy=StopPolicy((1, 16), (Level(0.2, 0.0),))).generate(requests, SAMPLED)
    next(stream)
    stream.close()
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)
    assert not torch.is_inference_mode_enabled()


@BOTH
def test_a_text_that_ends_inside_its_thinking_is_closed_and_answered_when_asked_for(
    sampling: Sampling, engine: Make, tiny: Tiny, requests: list[Request]
) -> None:
    # given a model that often ends its text while it is thinking
    model = tiny(bias={2: 1.0, 1: -9.0})
    plain = run(engine(model), requests, sampling, record=True)
    closing = run(engine(model, close_open_thinking=True), requests, sampling, record=True)
    # then exactly these texts go on, with the exit tokens in place of the end
    cut = [
        name
        for name, made in plain.items()
        if made.finish == "stop" and made.thinking_tokens == len(made.output_ids)
    ]
    assert len(cut) >= 2
    for name, made in plain.items():
        other = closing[name]
        if name not in cut:
            assert (other.output_ids, other.exit) == (made.output_ids, None)
            continue
        assert other.exit is not None
        assert (other.exit.reason, other.exit.certified) == (Reason.END, False)
        end = len(made.output_ids)
        assert other.exit.thinking_tokens == other.thinking_tokens == end
        assert other.output_ids[:end] == made.output_ids
        assert other.output_ids[end : end + 2] == [1, 16]
        assert len(other.logprobs) == len(other.output_ids)
        assert other.tokens is not None
        assert np.isfinite(other.tokens.statistics[:end, :3]).all()


def test_an_end_inside_thinking_is_only_recorded_in_shadow(
    engine: Make, tiny: Tiny, requests: list[Request]
) -> None:
    model = tiny(bias={2: 1.0, 1: -9.0})
    shadowed = [replace(request, mode=Mode.SHADOW) for request in requests]
    plain = run(engine(model), requests, SAMPLED)
    made = run(engine(model, close_open_thinking=True), shadowed, SAMPLED)
    assert {n: g.output_ids for n, g in made.items()} == {n: g.output_ids for n, g in plain.items()}
    assert Reason.END in [g.exit.reason for g in made.values() if g.exit is not None]


@pytest.mark.parametrize("uncertified", Uncertified)
def test_requests_outside_the_certified_conditions_think_or_stop_uncertified(
    uncertified: Uncertified, engine: Make, requests: list[Request]
) -> None:
    # given an engine whose levels were certified for greedy requests
    certified = Certified(Conditions(0.0, max_tokens=60))
    free = run(engine(), at_risk(requests, 0.05), SAMPLED)
    full = run(engine(), requests, SAMPLED)
    armed = engine(certified=certified, uncertified=uncertified)
    # when greedy and sampled requests run
    inside = run(armed, at_risk(requests, 0.05), GREEDY)
    assert not armed.departures
    outside = run(armed, at_risk(requests, 0.05), SAMPLED)
    # then those inside stop, and those outside do what was chosen, and are counted
    assert any(made.exit is not None for made in inside.values())
    expected = full if uncertified is Uncertified.THINK else free
    assert {name: made.output_ids for name, made in outside.items()} == {
        name: made.output_ids for name, made in expected.items()
    }
    assert armed.departures == {"temperature": len(requests)}


def test_a_request_is_stopped_at_the_level_of_its_sampling(engine: Make, requests: list[Request]) -> None:
    # given a level that never exits at the bundle's own sampling, and always at a further one
    own, far = Conditions.of(GREEDY), Conditions.of(SAMPLED)
    armed = engine(certified=Certified(own))
    armed.policy = replace(armed.policy, levels=(Level(0.05, math.inf), Level(0.05, -math.inf, sampling=far)))
    # when requests run at both
    greedy, sampled = (run(armed, at_risk(requests, 0.05), sampling) for sampling in (GREEDY, SAMPLED))
    # then none departs, and only those of the further one exit
    assert not armed.departures
    assert not any(made.exit for made in greedy.values())
    assert all(made.exit for made in sampled.values() if made.events)
    assert any(made.events for made in greedy.values())


def test_no_more_is_generated_than_the_context_holds(
    engine: Make, tiny: Tiny, requests: list[Request]
) -> None:
    # given a model that is made for 30 tokens, and limits beyond it
    model = tiny()
    whole = run(engine(model), requests, SAMPLED)
    model.config.max_position_embeddings = 30
    short = engine(model, certified=Certified(Conditions.of(SAMPLED)))
    # when requests run, then they are what they were up to there, and at a risk they depart
    found = run(short, at_risk(requests, 0.05), SAMPLED)
    for name, made in found.items():
        room = 30 - len(made.request.prompt_ids)
        assert made.output_ids == whole[name].output_ids[:room]
        assert made.finish == ("length" if len(whole[name].output_ids) > room else whole[name].finish)
        assert made.exit is None
    assert short.departures == {"max_tokens": len(requests)}
    # and a forced exit has the answer that still fits
    cut = next(made for made in whole.values() if len(made.output_ids) > 26)
    room = 30 - len(cut.request.prompt_ids)
    [[early, late]] = short.force_exits([cut], SAMPLED, [[room - 4, room - 3]])
    assert len(early.ids) == 1
    assert (late.ids, late.finish) == ((), "length")
    # and a prompt that fills it is refused
    with pytest.raises(DataError, match="The prompt of 'long' has 30 tokens, and the context has 30"):
        short.generate([Request("long", (8,) * 30)], SAMPLED)


@pytest.mark.parametrize(
    ("positions", "context"),
    [
        ({"rope_type": "default"}, 512),
        ({"rope_type": "linear", "factor": 2.0}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
    ],
    ids=str,
)
def test_the_context_is_that_of_the_configuration(
    engine: Make, tiny: Tiny, positions: dict[str, Any], context: int
) -> None:
    model = tiny()
    model.config.rope_parameters = positions
    assert engine(model).context == context
    model.config.max_position_embeddings = 0
    assert engine(model).context == math.inf
