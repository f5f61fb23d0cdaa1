"""Tool calls inside a thinking block, in the notation of every family."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from lynxstop.core.cues import CueSet
from lynxstop.core.thinking import Delimiters, marks_of
from lynxstop.core.watch import compile_watch
from lynxstop.engines.vllm.tool_calls import MARKS, guard_tool_calls
from tests.support.byte_vocabulary import byte_tokenizer

THINK = ("<think>", "</think>")


@pytest.mark.parametrize("pair", MARKS, ids=lambda pair: pair[0])
def test_a_call_is_no_thinking(pair: tuple[str, str]) -> None:
    # given a model that calls tools in mid-thought, and a cue in a call and one after it
    special = {mark for text in pair for mark in marks_of(text)}
    tokenizer = byte_tokenizer([*THINK, *sorted(special)])
    watch = compile_watch(tokenizer, CueSet(("wait",)), Delimiters(THINK[:1], THINK[1:]))
    text = f"<think>So. {pair[0]} Wait, {pair[1]} Wait, so."
    # when it is read, then the cue after the call alone is one
    for read, cues in ((watch, 2), (guard_tool_calls(watch, tokenizer), 1)):
        state, found = read.start([]), 0
        for token in tokenizer.encode(text):
            step = read.read(state, token)
            state, found = step.state, found + step.confirmed + step.here
        assert found == cues


def test_a_model_without_marks_keeps_its_watch() -> None:
    tokenizer = byte_tokenizer([*THINK, "<|open|>"])
    watch = compile_watch(tokenizer, CueSet(("wait",)), Delimiters(THINK[:1], THINK[1:]))
    assert guard_tool_calls(watch, tokenizer) is watch
