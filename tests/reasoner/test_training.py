"""The trainer's parts: the optimiser, the schedule, the documents."""

import itertools

import pytest
import torch

from lynxstop_research.reasoner.documents import Documents
from lynxstop_research.reasoner.muon import Muon, orthogonalize
from lynxstop_research.reasoner.tokenizer import build
from lynxstop_research.reasoner.train import Schedule, create, loss_of, optimizers


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.4
    assert values.max() < 1.4


def test_muon_descends_a_quadratic() -> None:
    matrix = torch.nn.Parameter(torch.eye(4, 6))
    rule = Muon([matrix], lr=0.1, weight_decay=0.0)
    before = float(matrix.detach().square().sum())
    for _ in range(20):
        matrix.square().sum().backward()
        rule.step()
        rule.zero_grad()
    assert float(matrix.detach().square().sum()) < before / 4


def test_the_rate_rises_to_its_peak_and_falls_to_its_floor() -> None:
    schedule = Schedule(facts=100, traces=900, warmup=50)
    rates = [schedule.rate(step) for step in range(schedule.total)]
    assert max(rates) == pytest.approx(schedule.peak)
    assert rates.index(max(rates)) in (49, 50)
    assert rates[-1] == pytest.approx(schedule.peak * schedule.floor, rel=0.01)


def test_documents_are_reproducible_and_give_no_loss_to_the_prompt() -> None:
    tokenizer = build(problems=200)
    end = tokenizer.convert_tokens_to_ids("<think>")
    first, second = (Documents(tokenizer, seed=3) for _ in range(2))
    for _ in range(30):
        document = first.trace()
        assert document == second.trace()
        assert not any(document.weights[: document.ids.index(end) + 1])
        assert document.weights[-1] > 0


def test_a_step_lowers_the_loss_of_its_batch() -> None:
    tokenizer = build(problems=200)
    torch.manual_seed(0)
    model = create(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    batch = next(Documents(tokenizer, 0).batches("traces", 600, pool=4))
    losses = []
    rules = optimizers(model, 2e-3)
    for _ in range(4):
        loss = loss_of(model, batch)
        loss.backward()
        losses.append(loss.item())
        for rule in rules:
            rule.step()
            rule.zero_grad()
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
