"""What the dialects read out of events."""

from pathlib import Path

import pytest

from lynxstop.proxy.config import UpstreamConfig
from lynxstop.remote.dialects.reading import read_chat, read_completion, said
from lynxstop.remote.dialects.table import DIALECTS
from lynxstop.remote.tokens import StreamToken, Top


def tokens(*texts: str) -> list[StreamToken]:
    return [StreamToken(text.encode()) for text in texts]


@pytest.mark.parametrize(
    ("shown", "text", "kept"),
    [
        (["a", "<eos>"], "a", 1),
        ([" so", "</think>", "\n\n", "a", "<eos>"], "\n\na", 4),
        (["<eos>"], "", 0),
        (["a", "ST", "OP"], "a", 1),
        (["a", "b"], "ab", 2),
        (["a", "b"], "else", 2),
    ],
)
def test_a_last_event_shows_no_more_tokens_than_text(shown, text, kept):
    assert len(said(tokens(*shown), text, "stop")) == kept
    assert len(said(tokens(*shown), text, None)) == len(shown)


def entry(text: str, logprob: float) -> dict:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_thinking_is_found_in_every_spelling_of_its_field(name):
    logprobs = {"content": [{**entry(" so", -0.5), "top_logprobs": [entry(" so", -0.5), entry(" a", -1.5)]}]}
    delta = read_chat(
        {"choices": [{"index": 0, "delta": {name: " so"}, "logprobs": logprobs, "token_ids": [7]}]}
    )
    assert (delta.thinking, delta.content) == (" so", "")
    assert delta.tokens == [StreamToken(b" so", -0.5, Top([" so", " a"], [-0.5, -1.5]), 7)]


def test_completions_have_another_form_of_log_probabilities():
    logprobs = {"tokens": [" so"], "token_logprobs": [-0.5], "top_logprobs": [{" so": -0.5, " a": -1.5}]}
    delta = read_completion({"choices": [{"index": 0, "text": " so", "logprobs": logprobs}]})
    assert delta.tokens == [StreamToken(b" so", -0.5, Top([" so", " a"], [-0.5, -1.5]))]


@pytest.mark.parametrize("delta", [{"tool_calls": [{}]}, {"refusal": "no"}])
def test_what_is_no_text_is_opaque(delta):
    assert read_chat({"choices": [{"index": 0, "delta": delta}]}).opaque
    assert not read_chat({"choices": [{"index": 0, "delta": {"content": "a"}}]}).opaque


def test_every_dialect_can_be_configured_and_is_named_by_the_command_line():
    for name in ("auto", *DIALECTS):
        assert UpstreamConfig(dialect=name).dialect == name
    with pytest.raises(ValueError, match="one of auto, vllm"):
        UpstreamConfig(dialect="other")
    reference = (Path(__file__).parents[2] / "cli" / "reference.md").read_text()
    assert reference.count(", ".join(DIALECTS)) == 2
