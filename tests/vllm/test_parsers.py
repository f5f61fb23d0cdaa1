"""Our delimiters split a text where vLLM's own reasoning parsers split it."""

from __future__ import annotations

from typing import Any

import pytest

from lynxstop.core.families import ROWS, Family
from lynxstop.core.thinking import FAMILIES, marks_of
from lynxstop.remote.thinking_splitter import split_at_close
from tests.support.byte_vocabulary import byte_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

NO_SPLIT = {
    "openai_gptoss": "splits nothing itself: harmony does",
    "cohere_command3": "splits nothing itself: another library does",
    "cohere_command4": "splits nothing itself: another library does",
    "mistral": "wants a vocabulary with Mistral's tool calls",
    "olmo3": "wants a vocabulary of 100,000 words",
    "hunyuan_a13b": "splits only in front of an opened answer",
    "minimax_m2_append_think": "leaves the thinking in the answer",
    "step3": "leaves the opening delimiter in the thinking",
}
"""Parsers that cannot be compared like this, and why."""


@pytest.mark.parametrize(
    ("row", "name"), [(row, name) for row in ROWS for name in row.parsers], ids=lambda value: str(value)
)
def test_both_split_alike(row: Family, name: str) -> None:
    reasoning = pytest.importorskip("vllm.reasoning")
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    if name in NO_SPLIT:
        pytest.skip(NO_SPLIT[name])
    if name not in reasoning.ReasoningParserManager.list_registered():
        pytest.skip("not in this version of vLLM")
    # given a tokenizer with the family's tokens, and a text in its notation
    special = {mark for text in (*row.open, *row.close) for mark in marks_of(text)}
    tokenizer = byte_tokenizer([*sorted(special), "<assistant>"])
    asked: Any = {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}
    parser = reasoning.ReasoningParserManager.get_reasoning_parser(name)(
        tokenizer, chat_template_kwargs=asked
    )
    body = f"So 4. Wait.{row.close[0]}{row.answer}It is 4."
    request = ChatCompletionRequest(messages=[{"role": "user", "content": "2 + 2"}], model="m")

    # when vLLM and the splitter of the proxy read it
    thought, answer = parser.extract_reasoning(row.open[0] + body, request)
    split = split_at_close(body, FAMILIES[row.name].close)

    assert split == (thought, row.answer + answer)
