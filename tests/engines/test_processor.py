"""The processor does inside `generate` of transformers what the engine does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from lynxstop.artifacts.probe import Probe
from lynxstop.core.exits import Mode, Reason
from lynxstop.core.policy import StopPolicy
from lynxstop.core.types import Request, Sampling
from lynxstop.core.watch import Watch
from lynxstop.engines.transformers import EarlyExitProcessor, TransformersEngine
from lynxstop.errors import ConfigError, ModelError

Tiny = Callable[..., Any]
Make = Callable[..., TransformersEngine]
Probes = Callable[..., Probe]
LENGTH = 50


def padded(requests: list[Request]) -> dict[str, torch.Tensor]:
    width = max(len(request.prompt_ids) for request in requests)
    gaps = [width - len(request.prompt_ids) for request in requests]
    rows = zip(gaps, requests, strict=True)
    return {
        "input_ids": torch.tensor([[2] * gap + list(request.prompt_ids) for gap, request in rows]),
        "attention_mask": torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps]),
    }


def outputs(
    model: Any, requests: list[Request], processor: EarlyExitProcessor, **options: Any
) -> list[list[int]]:
    inputs = padded(requests)
    options = {"do_sample": False, "max_new_tokens": LENGTH, **options}
    made = model.generate(**inputs, logits_processor=[processor], **options)
    rows = made[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(2)] if 2 in row else row for row in rows]


@pytest.mark.parametrize("kind", ["Qwen3", "Llama", "Gemma2"])
def test_greedy_tokens_and_exits_equal_the_engines(
    kind: str,
    tiny: Tiny,
    engine: Make,
    watch: Watch,
    policy: StopPolicy,
    linear_probe: Probes,
    requests: list[Request],
) -> None:
    # given the engine's output at a risk level
    model = tiny(kind)
    asked = [replace(request, risk=0.2) for request in requests]
    sampling = Sampling(max_tokens=LENGTH, answer_tokens=LENGTH)
    expected = {made.request.id: made for made in engine(model).generate(asked, sampling)}
    # when people's own generate runs with the processor, twice
    with EarlyExitProcessor(model, watch, policy, probe=linear_probe(), risk=0.2) as processor:
        for group in (requests, requests[:3]):
            tokens = outputs(model, group, processor)
            # then tokens and exits are the engine's
            for request, row, found in zip(group, tokens, processor.exits, strict=True):
                made = expected[request.id]
                assert row == made.output_ids
                pair = [one and (one.cue, one.seen_at) for one in (found, made.exit)]
                assert pair[0] == pair[1]
    assert sum(made.exit is not None for made in expected.values()) >= 2


def test_sampling_is_cut_where_a_score_passes(
    tiny: Tiny, watch: Watch, policy: StopPolicy, linear_probe: Probes, requests: list[Request]
) -> None:
    model = tiny()
    with EarlyExitProcessor(model, watch, policy, probe=linear_probe(), risk=0.2) as processor:
        torch.manual_seed(3)
        tokens = outputs(model, requests, processor, do_sample=True, num_return_sequences=2)
    exits = processor.exits
    assert len(exits) == len(tokens) == 16
    assert sum(found is not None for found in exits) >= 2
    for row, found, events in zip(tokens, exits, processor.events, strict=True):
        if found is not None:
            assert row[found.seen_at + 1 :][:2] == [1, 16][: LENGTH - found.seen_at - 1]
            assert events[found.cue].score > -20
            assert all(event.score <= -20 for event in events[: found.cue])


@pytest.mark.parametrize("cached", [True, False])
def test_the_budget_holds_without_a_probe(
    cached: bool, tiny: Tiny, watch: Watch, requests: list[Request]
) -> None:
    model = tiny()
    with EarlyExitProcessor(model, watch, StopPolicy((1, 16), budget=7)) as processor:
        tokens = outputs(model, requests, processor, use_cache=cached)
    assert [row[7:9] for row in tokens].count([1, 16]) >= 6
    assert {found.reason for found in processor.exits if found is not None} == {Reason.BUDGET}


def test_a_mask_that_is_missing_is_inferred(
    tiny: Tiny, watch: Watch, policy: StopPolicy, linear_probe: Probes, requests: list[Request]
) -> None:
    model = tiny()
    inputs = padded(requests)
    seen = []
    with EarlyExitProcessor(model, watch, policy, probe=linear_probe(), risk=0.2) as processor:
        for mask in (inputs["attention_mask"], None):
            processor.reset()
            with torch.inference_mode():
                logits = model(input_ids=inputs["input_ids"], attention_mask=mask).logits[:, -1]
            processor(inputs["input_ids"], logits)
            seen.append([session._state for session in processor._sessions])
    assert seen[0] == seen[1]


def test_shadow_mode_changes_no_token(
    tiny: Tiny, watch: Watch, policy: StopPolicy, linear_probe: Probes, requests: list[Request]
) -> None:
    model = tiny()
    inputs = padded(requests)
    plain = model.generate(**inputs, do_sample=False, max_new_tokens=LENGTH)[
        :, inputs["input_ids"].shape[1] :
    ]
    with EarlyExitProcessor(
        model, watch, policy, probe=linear_probe(), risk=0.2, mode=Mode.SHADOW
    ) as processor:
        tokens = outputs(model, requests, processor)
    assert tokens == [row[: row.index(2)] if 2 in row else row for row in plain.tolist()]
    assert any(found is not None for found in processor.exits)


@pytest.mark.parametrize("sampled", [False, True])
def test_beams_are_refused(
    sampled: bool, tiny: Tiny, watch: Watch, policy: StopPolicy, linear_probe: Probes, requests: list[Request]
) -> None:
    model = tiny()
    with (
        EarlyExitProcessor(model, watch, policy, probe=linear_probe(), risk=0.2) as processor,
        pytest.raises(ModelError, match="Beam search"),
    ):
        outputs(model, requests, processor, num_beams=2, do_sample=sampled)


@pytest.mark.parametrize("kind", ["assisted", "guidance"])
def test_steps_of_more_or_fewer_passes_are_refused(
    kind: str, tiny: Tiny, watch: Watch, policy: StopPolicy, linear_probe: Probes, requests: list[Request]
) -> None:
    # given an assistant, or guidance, whose second pass leaves hidden states of another prompt
    model = tiny()
    options = {"assistant_model": tiny(seed=1)} if kind == "assisted" else {"guidance_scale": 1.5}
    # when it runs, then it is refused by name
    with (
        EarlyExitProcessor(model, watch, policy, probe=linear_probe(), risk=0.2) as processor,
        pytest.raises(ModelError, match=kind),
    ):
        outputs(model, requests[:1], processor, **options)


@pytest.mark.parametrize("kind", ["Qwen3", "Gemma2"])
@pytest.mark.parametrize(
    "options",
    [{"cache_implementation": "static"}, {"prefill_chunk_size": 2}, {"use_cache": False}],
    ids=lambda options: next(iter(options)),
)
def test_the_way_of_computing_changes_no_exit(
    options: dict[str, Any],
    kind: str,
    tiny: Tiny,
    watch: Watch,
    policy: StopPolicy,
    linear_probe: Probes,
    requests: list[Request],
) -> None:
    # given left-padded requests, when they are computed in another way, then tokens and exits are the same
    model = tiny(kind)
    with EarlyExitProcessor(model, watch, policy, probe=linear_probe(), risk=0.2) as processor:
        expected = outputs(model, requests, processor), [one and one.seen_at for one in processor.exits]
        found = (
            outputs(model, requests, processor, **options),
            [one and one.seen_at for one in processor.exits],
        )
    assert found == expected
    assert any(one is not None for one in expected[1])


@pytest.mark.parametrize("cached", [True, False])
def test_a_call_whose_prompt_is_one_token_longer_than_the_last_text_starts_anew(
    cached: bool, tiny: Tiny, watch: Watch
) -> None:
    # given a text of a first call, of which all tokens but the last were read
    model = tiny()
    with EarlyExitProcessor(model, watch, StopPolicy((1, 16), budget=7)) as processor:
        first = Request("first", (10, 0))
        outputs(model, [first], processor, max_new_tokens=5, use_cache=cached)
        # when another prompt has just one token more, then its thinking is counted from its own start
        other = Request("other", (10, 10, 10, 10, 10, 10, 0))
        [tokens] = outputs(model, [other], processor, max_new_tokens=12, use_cache=cached)
    assert tokens[7:9] == [1, 16]
    assert processor.exits[0] is not None
    assert processor.exits[0].seen_at == 6


def test_a_row_that_a_criterion_ended_thinks_no_more(
    tiny: Tiny, watch: Watch, requests: list[Request]
) -> None:
    # given texts that never end by themselves, every other of which a criterion ends in mid-thought
    model = tiny(bias={2: -50.0, 15: -50.0})
    model.generation_config.pad_token_id = 15

    def even(input_ids: torch.Tensor, scores: Any) -> torch.Tensor:
        return torch.tensor([row % 2 == 0 and input_ids.shape[1] > 9 for row in range(len(input_ids))])

    # when the others reach the budget, then these have no exit
    with EarlyExitProcessor(model, watch, StopPolicy((1, 16), budget=20)) as processor:
        outputs(model, requests, processor, stopping_criteria=[even])
    assert [one is None for one in processor.exits] == [True, False] * 4


def test_an_uncertified_risk_is_refused(tiny: Tiny, watch: Watch, policy: StopPolicy) -> None:
    with pytest.raises(ConfigError, match="not certified"):
        EarlyExitProcessor(tiny(), watch, policy, risk=0.5)
    with pytest.raises(ConfigError, match="needs a probe"):
        EarlyExitProcessor(tiny(), watch, policy, risk=0.2)


def test_closing_frees_the_model(tiny: Tiny, watch: Watch, policy: StopPolicy, linear_probe: Probes) -> None:
    model = tiny()
    EarlyExitProcessor(model, watch, policy, probe=linear_probe(), risk=0.2).close()
    assert not model._forward_pre_hooks
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)


def test_the_former_name_still_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="EarlyExitProcessor"):
        from lynxstop.engines.transformers import LynxStopProcessor
    assert LynxStopProcessor is EarlyExitProcessor
