"""Tool calls inside a thinking block: nothing is scored or forced between their marks.

Seen from the stop rule a tool call is simply not thinking, so the guard is a thinking automaton whose
block is closed while a call is open.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lynxstop.core.automaton import TokenAutomaton
from lynxstop.core.surface import added_tokens, token_surfaces
from lynxstop.core.thinking import Delimiters, ThinkingAutomaton, compile_thinking, marks_of
from lynxstop.core.watch import Watch

MARKS = (
    ("<tool_call>", "</tool_call>"),
    ("<function_call>", "</function_call>"),
    ("<|tool_call_start|>", "<|tool_call_end|>"),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ("<tool_calls>", "</tool_calls>"),
    ("<function_calls>", "</function_calls>"),
    ("<start_function_call>", "<end_function_call>"),
    ("<minimax:tool_call>", "</minimax:tool_call>"),
    ("<seed:tool_call>", "</seed:tool_call>"),
    ("<longcat_tool_call>", "</longcat_tool_call>"),
    ("<|tool_call>", "<tool_call|>"),
    ("<|START_ACTION|>", "<|END_ACTION|>"),
    ("<|plamo:begin_tool_requests:plamo|>", "<|plamo:end_tool_requests:plamo|>"),
    ("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
)
"""Marks of tool calls, opening and closing, as vLLM's parsers know them; a model uses those whose special
tokens its tokenizer has."""


def guard_tool_calls(watch: Watch, tokenizer: Any) -> Watch:
    """Return a watch that does not see thinking inside tool calls; `watch` itself when the model has no
    marks."""
    known = set(added_tokens(tokenizer).values())
    marks = [pair for pair in MARKS if {mark for text in pair for mark in marks_of(text, known)} <= known]
    if not marks:
        return watch
    delimiters = Delimiters(tuple(pair[0] for pair in marks), tuple(pair[1] for pair in marks))
    return replace(
        watch, thinking=without(watch.thinking, compile_thinking(delimiters, token_surfaces(tokenizer)))
    )


def without(thinking: ThinkingAutomaton, calls: ThinkingAutomaton) -> ThinkingAutomaton:
    """Take calls out of thinking blocks: the product of both automata, the first state of `calls` being
    outside."""
    outer, inner = thinking.automaton, calls.automaton
    count, columns = len(inner.table), inner.table.shape[1]
    # States are numbered with those outside of calls first: the start and the open block keep their numbers.
    outside, calling = np.divmod(np.arange(len(outer.table) * count), len(outer.table))[::-1]
    keys = outer.classes.astype(np.int64) * columns + inner.classes
    pairs, classes = np.unique(keys, return_inverse=True)
    of_outer, of_inner = np.divmod(pairs, columns)
    following = inner.table[calling][:, of_inner] * len(outer.table) + outer.table[outside][:, of_outer]
    automaton = TokenAutomaton(
        classes.astype(np.int32), following.astype(np.int32), np.zeros(following.shape, dtype=np.uint8)
    )
    return ThinkingAutomaton(automaton, thinking.within[outside] & ~calls.within[calling])
