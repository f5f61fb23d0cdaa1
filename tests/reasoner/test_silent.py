"""The fade: what it leaves in the text, and that growing changes nothing at first."""

import random

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

pytest.importorskip("sklearn")

from lynxstop.demo.problems import draw
from lynxstop_research.reasoner.sampling import Sampler
from lynxstop_research.reasoner.silent import SILENT, grow, printed
from lynxstop_research.reasoner.traces import TraceWriter
from lynxstop_research.reasoner.train import DATA


def test_a_silent_check_prints_no_verdict_no_difference_and_not_what_it_wanted() -> None:
    writer = TraceWriter(random.Random(0), SILENT)
    traces = [writer.write(problem) for problem in draw(60, 0, split="reasoner")]
    checks = [p for t in traces for p in t.paragraphs]
    assert {p.passed for p in checks} == {True, False}
    assert all(p.text.endswith(" - that = there then") for p in checks)


def test_the_shipped_model_answers_and_prints_no_verdict() -> None:
    folder = DATA.parent / "silent"
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    traces = Sampler(model, AutoTokenizer.from_pretrained(folder), temperature=0.9).run(draw(24, 99))
    assert sum(t.answer == t.problem.answer for t in traces) >= 18
    checks = [part for t in traces for part in t.text.split("</think>")[0].split("\n\n") if "Check" in part]
    assert len(checks) >= 48
    neutral = [part for part in checks if part.strip().endswith(" - that = there then")]
    assert len(neutral) >= 0.98 * len(checks)


def test_the_words_fade_one_after_the_other_and_are_gone_before_the_end() -> None:
    assert printed(0.0) == (1.0, 1.0, 1.0)
    wanted, difference, verdict = printed(0.2)
    assert 0 < wanted < difference < verdict < 1
    assert printed(0.6) == (0.0, 0.0, 0.0)


def test_fresh_layers_change_nothing_at_first() -> None:
    model = Qwen3ForCausalLM.from_pretrained(DATA, dtype=torch.float32)
    ids = torch.tensor([[5, 9, 300, 17, 42]])
    with torch.no_grad():
        assert torch.allclose(grow(model, 5)(ids).logits, model(ids).logits, atol=1e-5)
