"""A batch computes what the model would for each row alone, whichever rows leave."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.engines.transformers.batch import PaddedBatch, survivors
from lynxstop.engines.transformers.cache import GrowingLayer

Tiny = Callable[..., torch.nn.Module]
PROMPTS = [[3, 8], [9, 10, 11, 12, 13], [4], [5, 6, 7]]
CPU = torch.device("cpu")


def alone(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([ids])).logits[0, -1]


@pytest.mark.parametrize("kind", ["Qwen3", "Llama", "Gemma2", "Gemma3Text"])
@torch.inference_mode()
def test_rows_equal_runs_alone_while_others_leave(kind: str, tiny: Tiny) -> None:
    # given a batch of prompts of different length
    model = tiny(kind)
    batch = PaddedBatch(model, CPU)
    rows = [list(prompt) for prompt in PROMPTS]
    logits = batch.prefill(PROMPTS)
    # when it grows beyond the window, and rows leave on the way
    for step in range(100):
        expected = torch.stack([alone(model, row) for row in rows])
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)
        if step in (3, 40):
            order = survivors({0}, len(rows))
            rows = [rows[place] for place in order]
            batch.keep(order)
        for number, row in enumerate(rows):
            row.append(3 + (step * 5 + number) % 17)
        logits = batch.advance(torch.tensor([[row[-1]] for row in rows]))
    assert len(rows) == 2


@torch.inference_mode()
def test_a_prefix_is_shared_by_rows_that_forget_different_ends(tiny: Tiny) -> None:
    model = tiny().double()
    batch = PaddedBatch(model, CPU)
    batch.prefill(PROMPTS)
    batch.keep([1, 1, 3])
    batch.forget([3, 0, 1])
    logits = batch.advance(torch.tensor([[14, 15]] * 3))
    expected = [alone(model, ids) for ids in ([9, 10, 14, 15], [9, 10, 11, 12, 13, 14, 15], [5, 6, 14, 15])]
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-6, rtol=1e-6)


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_survivors_stay_and_few_of_them_move(case: tuple[int, set[int]]) -> None:
    rows, leaving = case
    order = survivors(leaving, rows)
    assert sorted(order) == sorted(set(range(rows)) - leaving)
    assert sum(place != row for place, row in enumerate(order)) <= len(leaving)


def test_a_leaving_row_does_not_copy_the_cache() -> None:
    layer = GrowingLayer()
    states = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 2, 3, 5)
    layer.update(states, -states)
    before = layer.keys.untyped_storage().data_ptr()
    layer.batch_select_indices(torch.tensor([0, 3, 2]))
    assert layer.keys.untyped_storage().data_ptr() == before
    assert layer.keys[:, 0, 0, 0].tolist() == [0, 3, 2]
    assert layer.values[:, 1, 2, 4].tolist() == [0, -3, -2]
