"""Thinking blocks and cues in a token stream: compiled once, shared by all requests."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from lynxstop.core.cues import CONFIRMED, HERE, PENDING, CueAutomaton, CueSet, compile_cues
from lynxstop.core.points import boundary_tokens
from lynxstop.core.surface import token_surfaces
from lynxstop.core.thinking import Delimiters, ThinkingAutomaton, compile_thinking
from lynxstop.errors import TokenizerError


class WatchState(NamedTuple):
    """States of the two automata after a prefix of the stream."""

    thinking: int
    cue: int


_SHOWN = [(bool(f & CONFIRMED), bool(f & HERE), bool(f & PENDING)) for f in range(8)]


_TAIL = 32
"""Tokens at the end of a prompt that decide whether it ends inside a word; a character has 4 bytes at
most."""

_MEMO = 1 << 16
"""Steps that are cached: a text visits few states and tokens, and a look-up costs a tenth of a step."""


class WatchStep(NamedTuple):
    """The result of reading one token.

    `confirmed`: the cue completed by an earlier token is now known to be a whole word.
    `here`: this token completes a cue and proves its right boundary itself.
    `pending`: this token completes a cue; the next one will confirm or cancel it.
    """

    state: WatchState
    thinking: bool
    confirmed: bool
    here: bool
    pending: bool


class ThinkingSteps(Protocol):
    """Tracks thinking blocks: `ThinkingAutomaton`, or its form over texts."""

    start: int
    opened: int

    def step(self, state: int, token: int) -> int:
        """Advance by one token."""

    def inside(self, state: int) -> bool:
        """Say whether a block is open."""


class CueSteps(Protocol):
    """Finds cues: `CueAutomaton`, or its form over texts."""

    start: int

    @property
    def step(self) -> Callable[[int, int], tuple[int, int]]:
        """Next state and flags after one token."""

    def settle(self, state: int) -> int:
        """Forget partial matches and a pending cue."""


class Reader:
    """Both automata reading one stream; see `Watch`."""

    __slots__ = ()

    thinking: ThinkingSteps
    cues: CueSteps
    boundaries: Container[int]
    _memo: dict[tuple[WatchState, int], WatchStep]

    def start(self, prompt_ids: Iterable[int]) -> WatchState:
        """Read a prompt: blocks opened in it count, cues in it do not."""
        state = WatchState(self.thinking.start, self.cues.start)
        for token in prompt_ids:
            state = WatchState(self.thinking.step(state.thinking, token), self.cues.step(state.cue, token)[0])
        return WatchState(state.thinking, self.cues.settle(state.cue))

    def inside(self, state: WatchState) -> bool:
        """Say whether a thinking block is open."""
        return self.thinking.inside(state.thinking)

    def read(self, state: WatchState, token: int) -> WatchStep:
        """Advance by one generated token, in O(1)."""
        key = (state, token)
        seen = self._memo.get(key)
        if seen is None:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            seen = self._memo[key] = self._read(state, token)
        return seen

    def _read(self, state: WatchState, token: int) -> WatchStep:
        thinking = self.thinking.step(state.thinking, token)
        cue, flags = self.cues.step(state.cue, token)
        inside = self.thinking.inside(thinking)
        if inside and self.thinking.inside(state.thinking):
            return WatchStep(WatchState(thinking, cue), True, *_SHOWN[flags])
        return WatchStep(WatchState(thinking, self.cues.settle(cue)), inside, False, False, False)


@dataclass(frozen=True, slots=True)
class Watch(Reader):
    """The two automata compiled for a tokenizer, and its boundary tokens."""

    thinking: ThinkingAutomaton
    cues: CueAutomaton
    boundaries: frozenset[int] = frozenset()
    """Tokens that end a sentence, a clause or a line."""
    _memo: dict[tuple[WatchState, int], WatchStep] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def start(self, prompt_ids: Iterable[int]) -> WatchState:
        """Read a prompt as `Reader.start` does, without walking over ordinary text: most of a long one."""
        automaton = self.thinking.automaton
        ids = np.fromiter(prompt_ids, dtype=np.int64)
        columns = automaton.classes[np.minimum(ids, len(automaton.classes) - 1)]
        ordinary = automaton.classes[-1]
        state, after = self.thinking.start, -2
        for place in np.flatnonzero(columns != ordinary).tolist():
            if place != after + 1:
                state = int(automaton.table[state, ordinary])
            state = int(automaton.table[state, columns[place]])
            after = place
        if after + 1 < len(ids):
            state = int(automaton.table[state, ordinary])
        word = self.cues.start
        for token in ids[-_TAIL:].tolist():
            word = self.cues.step(word, token)[0]
        return WatchState(state, self.cues.settle(word))


def compile_watch(tokenizer: Any, cues: CueSet, delimiters: Delimiters) -> Watch:
    """Compile cues and thinking delimiters for a tokenizer.

    Parameters
    ----------
    tokenizer : object
        See `lynxstop.core.surface.token_surfaces` for the supported kinds.
    cues : CueSet
        The cues to look for.
    delimiters : Delimiters
        What opens and closes a thinking block; `lynxstop.core.thinking.detect_delimiters` finds them.

    Raises
    ------
    TokenizerError
        When the tokens cannot express a cue or a delimiter.
    """
    surfaces = token_surfaces(tokenizer)
    return Watch(
        compile_thinking(delimiters, surfaces), compile_cues(cues, surfaces), boundary_tokens(surfaces)
    )


def check_exit(watch: Watch, exit_ids: Sequence[int], end_ids: Container[int | None] = ()) -> None:
    """Make sure that the tokens of a forced exit leave the thinking block, and room for an answer.

    Parameters
    ----------
    watch : Watch
    exit_ids : sequence of int
    end_ids : container of int
        Tokens that end a text, where they are known.

    Raises
    ------
    TokenizerError
        When a thinking block is still open after them, or one of them ends the text.
    """
    if any(token in end_ids for token in exit_ids):
        raise TokenizerError(
            "The exit text holds a token that ends a text: engines stop there, before any answer.",
            hint="Leave it out of [exit] text in the recipe.",
        )
    state = watch.thinking.opened
    for token in exit_ids:
        state = watch.thinking.step(state, token)
    if watch.thinking.inside(state):
        raise TokenizerError(
            "The exit text does not close the thinking block.",
            hint="It must contain the model's own end-of-thinking text, tokenized with special tokens.",
        )
