"""The tokenizer round-trips any text and keeps the promises that cue matching relies on."""

import pytest
from transformers import PreTrainedTokenizerFast

from lynxstop_research.reasoner.documents import prompt_text
from lynxstop_research.reasoner.tokenizer import build
from lynxstop_research.reasoner.traces import EXIT


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build(problems=600)


@pytest.mark.parametrize(
    "text",
    [
        "But wait, Żółć  is\n\n\n  fun 😀\tx Wait. Hmm, Alternatively\r\n maybe wait",
        "<think>\nSolve a. 3 + 4 = 7\n</think>\n\nThe answer is \\boxed{10}.",
        " leading and trailing  \n ",
        "日本語 a.b:c;d 12345 x_1 \u200b\u00a0!",
    ],
)
def test_any_text_survives_a_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_numbers_labels_and_cues_have_the_documented_lengths(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    lengths = {
        text: len(tokenizer.encode(text, add_special_tokens=False))
        for text in (" 0", " 10", "10", " c.", "\n\n", "Wait", " wait", "Hmm", "Alternatively")
    }
    assert lengths.pop("Alternatively") == 2
    assert set(lengths.values()) == {1}


def test_thinking_tags_survive_decoding_and_turn_marks_do_not(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = tokenizer.encode("<|im_start|>user\nx<|im_end|><think></think>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nx<think></think>"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_forced_exit_splits_at_the_cue(tokenizer: PreTrainedTokenizerFast) -> None:
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    for cue in ("Wait", "But wait", "Alternatively"):
        whole = encode(f"ok.\n\n{cue}{EXIT}10}}.")
        assert whole == encode(f"ok.\n\n{cue}") + encode(EXIT) + encode("10}.")


def test_the_chat_template_opens_thinking_only_when_asked(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    turns = [{"role": "user", "content": "Solve x"}]
    opened = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert opened == prompt_text("Solve x")
    closed = tokenizer.apply_chat_template(turns, tokenize=False)
    assert closed == "<|im_start|>user\nSolve x<|im_end|>\n"


def test_the_chat_template_drops_earlier_thinking(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nb\n</think>\n\nc"},
        {"role": "user", "content": "d"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert "b" not in text
    assert "assistant\nc<|im_end|>" in text
