"""The shipped model loads unmodified, fits its budget, and does what its card says."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from lynxstop.demo.problems import draw
from lynxstop_research.reasoner.documents import prompt_text
from lynxstop_research.reasoner.sampling import Sampler, parse
from lynxstop_research.reasoner.traces import EXIT

FOLDER = Path(__file__).parents[2] / "data" / "reasoner"


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    return Sampler(model, AutoTokenizer.from_pretrained(FOLDER), temperature=0.9)


def test_the_auto_classes_load_a_plain_qwen3(sampler: Sampler) -> None:
    assert type(sampler.model) is Qwen3ForCausalLM
    assert sampler.model.config.vocab_size == len(sampler.tokenizer)
    assert sampler.model.config.eos_token_id == sampler.tokenizer.eos_token_id
    assert (FOLDER / "model.safetensors").stat().st_size < 4_000_000


def test_the_described_exit_text_is_the_one_trained_on() -> None:
    facts = json.loads((FOLDER / "lynxstop.json").read_text())
    assert facts["exit_text"] == EXIT


def test_a_few_problems_are_thought_through_and_answered(sampler: Sampler) -> None:
    torch.manual_seed(0)
    traces = sampler.run(draw(24, 99))
    right = [t.answer == t.problem.answer for t in traces]
    cues = [cue for t in traces for cue in t.cues]
    assert sum(right) >= 18
    assert all(2 <= len(t.cues) <= 15 for t in traces)
    assert sum(cue.answer is not None for cue in cues) >= 0.98 * len(cues)
    assert cues[0].hidden.shape == (5, 128)


def test_the_served_prompt_is_the_trained_one(sampler: Sampler) -> None:
    turns = [{"role": "user", "content": "Compute mod 11: 1 a. + 2"}]
    served = sampler.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert served == prompt_text("Compute mod 11: 1 a. + 2")


@pytest.mark.parametrize(
    ("text", "answer"),
    [("5}.<|im_end|>", "5"), ("10}", "10"), ("B}.", "B"), ("5", None), ("} 5", None), ("x}", None)],
)
def test_parse(text: str, answer: str | None) -> None:
    assert parse(text) == answer
