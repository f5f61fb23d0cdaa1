"""Tokens drawn by the random numbers of a request: no vLLM needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.artifacts.recipe import Recipe
from lynxstop.core.policy import StopPolicy
from lynxstop.core.types import Sampling
from lynxstop.engines.torch.random import uniforms
from lynxstop.engines.torch.sampling import draw
from lynxstop.engines.vllm.request_options import Draw, RequestOptions, RequestOptionsReader
from lynxstop.engines.vllm.seeded_sampler import draw_tokens
from lynxstop.engines.vllm.session_batch import BOOST, BatchStep, SessionBatch
from lynxstop.engines.vllm.settings import PluginSettings
from lynxstop.engines.vllm.slots import SlotTable
from lynxstop.errors import ConfigError

VOCABULARY = 50
HOT = Sampling(temperature=1.2, top_p=0.9, max_tokens=40, seed=3)
COLD = Sampling(temperature=0.5, top_k=5, max_tokens=40, seed=3)


class _NoSessions:
    def admit(self, slot: int, prompt_ids: list[int], options: RequestOptions) -> None:
        """Keep nothing."""


def table_of(*draws: Draw | None) -> SlotTable:
    """A table of requests with these random numbers of their own."""
    table = SlotTable(cast(SessionBatch, _NoSessions()), len(draws))
    for slot, how in enumerate(draws):
        table.enter(slot, [1], 0, RequestOptions(watched=True, draw=how), None)
    return table


def step(slots: Sequence[int], indices: Sequence[int]) -> BatchStep:
    """A step in which row i belongs to `slots[i]` and is fed token number `indices[i]`."""
    tokens = torch.zeros(len(slots), dtype=torch.int64)
    chosen = np.array(slots, dtype=np.int64)
    return BatchStep(chosen, tokens, None, None, lambda rows: [indices[row] for row in rows.tolist()])


@given(st.permutations(range(4)), st.lists(st.integers(-1, 30), min_size=4, max_size=4))
def test_a_token_is_that_of_its_request_in_any_place_of_the_batch(
    order: list[int], indices: list[int]
) -> None:
    # given four requests, two samplings, one that vLLM draws for, and logits of each
    given_terms = [Draw("a", 0, HOT), Draw("b", 7, HOT), None, Draw("c", 0, COLD)]
    table = table_of(*given_terms)
    own = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(1))
    # when they come in any order
    logits = own[order].clone()
    draw_tokens(logits, table, step(order, [indices[slot] for slot in order]))
    # then each token is the one of its own number, and the other row is as it was
    for row, slot in enumerate(order):
        how = given_terms[slot]
        if how is None:
            assert torch.equal(logits[row], own[slot])
            continue
        number = uniforms(3, how.request, 41)[how.start + indices[slot] + 1]
        wanted = draw(own[slot : slot + 1], torch.tensor([number]), how.sampling)
        assert logits[row].argmax() == wanted[0]


def test_a_forced_token_wins_over_a_drawn_one() -> None:
    logits = torch.zeros(1, VOCABULARY)
    draw_tokens(logits, table_of(Draw("a", 0, HOT)), step([0], [0]))
    drawn = int(logits[0].argmax())
    logits[0, (drawn + 1) % VOCABULARY] += BOOST
    assert logits[0].argmax() == (drawn + 1) % VOCABULARY


def test_a_slot_given_to_another_request_forgets_the_numbers() -> None:
    table = table_of(Draw("a", 0, HOT))
    table.enter(0, [1], 0, RequestOptions(watched=True), None)
    logits = torch.zeros(1, VOCABULARY)
    draw_tokens(logits, table, step([0], [0]))
    assert not logits.any()


def reader(tmp_path: Path) -> RequestOptionsReader:
    return RequestOptionsReader(
        PluginSettings(recipe=Recipe(), record=tmp_path), StopPolicy(exit_ids=(1,)), None
    )


def test_the_arguments_of_a_collector_are_read(tmp_path: Path) -> None:
    how = {"request": "p#0", "start": 3, "sampling": asdict(HOT)}
    options = reader(tmp_path).read({"lynxstop_record": "x", "lynxstop_statistics": 9, "lynxstop_draw": how})
    assert (options.record, options.statistics, options.draw) == ("x", 9, Draw("p#0", 3, HOT))


@pytest.mark.parametrize(
    "wrong",
    [
        {"lynxstop_record": "x", "lynxstop_statistics": -1},
        {"lynxstop_record": "x", "lynxstop_statistics": "all"},
        {"lynxstop_record": False, "lynxstop_statistics": 1},
        {"lynxstop_draw": 3},
        {"lynxstop_draw": {"request": "a", "start": 0}},
        {"lynxstop_draw": {"request": "a", "start": 41, "sampling": asdict(HOT)}},
        {"lynxstop_draw": {"request": "a", "start": 0, "sampling": {"temperature": -1.0}}},
        {"lynxstop_draw": {"request": "a", "start": 0, "sampling": {}, "more": 1}},
    ],
)
def test_impossible_arguments_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        reader(tmp_path).read(wrong)
