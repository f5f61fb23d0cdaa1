"""Thinking blocks in a token stream: where they open and close, in the notation of each model family."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.automaton import SymbolTable, TokenAutomaton, explore, lift
from lynxstop.core.families import ROWS
from lynxstop.core.surface import INERT, Surfaces, added_tokens
from lynxstop.errors import ConfigError, ModelError, TokenizerError


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The texts that open and close a thinking block.

    Parameters
    ----------
    open, close : tuple of str
        Any of these opens, respectively closes, a block. Where a text contains a special token of the
        tokenizer, only that token counts, not its spelling in ordinary characters.

    Raises
    ------
    ConfigError
        When one of them is empty.
    """

    open: tuple[str, ...]
    close: tuple[str, ...]

    def __post_init__(self) -> None:
        for texts in (self.open, self.close):
            if isinstance(texts, str) or not texts or not all(texts):
                raise ConfigError("Thinking delimiters are non-empty lists of non-empty texts.")


FAMILIES = {row.name: Delimiters(row.open, row.close) for row in ROWS}
"""Delimiters by model family, in the order in which they are tried."""

_SUFFIXED = re.compile(r"<think(:[^\s>]+)>")
"""Hunyuan's tokens, which end in a code of the checkpoint."""


def detect_delimiters(tokenizer: Any) -> Delimiters:
    """Find a model's thinking delimiters in its special tokens, else in its chat template.

    Raises
    ------
    ModelError
        When neither shows a thinking block.
    """
    known = set(added_tokens(tokenizer).values())
    for text in sorted(known):
        if (coded := _SUFFIXED.fullmatch(text)) and f"</think{coded[1]}>" in known:
            return Delimiters((text,), (f"</think{coded[1]}>",))
    for family in FAMILIES.values():
        marks = {mark for text in (family.open[0], family.close[0]) for mark in marks_of(text, known)}
        if marks and marks <= known:
            return family
    template = _template_text(getattr(tokenizer, "chat_template", None))
    for family in FAMILIES.values():
        if family.open[0] in template:
            return family
    for family in FAMILIES.values():
        if "think" in family.close[0].lower() and family.close[0] in template:
            return family
    raise ModelError(
        "This tokenizer shows no thinking block, neither in its special tokens nor in its chat template.",
        hint=f"Known are {', '.join(FAMILIES)}; name the delimiters if the model uses others.",
    )


_MARK = re.compile(r"<\|.*?\|>")


def marks_of(delimiter: str, known: Container[str] = ()) -> list[str]:
    """Return the parts of a delimiter that are special tokens: those written ``<|...|>``, else all of it.

    A delimiter that is one of the `known` tokens is one mark.

    Examples
    --------
    >>> marks_of("<|channel|>analysis<|message|>"), marks_of("<think>")
    (['<|channel|>', '<|message|>'], ['<think>'])
    """
    return [delimiter] if delimiter in known else bar_marks(delimiter) or [delimiter]


def bar_marks(text: str) -> list[str]:
    """Return the special tokens written ``<|...|>`` in a text."""
    return _MARK.findall(text)


def _template_text(template: Any) -> str:
    if isinstance(template, dict):
        return "\n".join(map(str, template.values()))
    return template if isinstance(template, str) else ""


class _State(NamedTuple):
    inside: bool
    matches: frozenset[tuple[int, int]]
    """(delimiter, symbols matched) of partly matched delimiters."""


class Mark(NamedTuple):
    """A delimiter, spelled in symbols."""

    symbols: tuple[int, ...]
    opens: bool


class ThinkingAutomaton:
    """Thinking delimiters compiled for a tokenizer.

    Blocks do not nest: an open inside one is ignored, the first close ends it, a later open starts another.

    Parameters
    ----------
    automaton : TokenAutomaton
        Its flags are not used.
    within : bool array of shape (states,)
        Whether a block is open in each state.
    """

    __slots__ = ("_within", "automaton", "opened", "start", "within")

    def __init__(self, automaton: TokenAutomaton, within: NDArray[np.bool_]) -> None:
        self.automaton = automaton
        self.within = within
        self.start = 0
        self.opened = 1
        self._within: list[bool] = within.tolist()

    def step(self, state: int, token: int) -> int:
        """Advance by one token, in O(1)."""
        return self.automaton.step(state, token)[0]

    def inside(self, state: int) -> bool:
        """Say whether a block is open."""
        return self._within[state]


def compile_thinking(delimiters: Delimiters, surfaces: Surfaces) -> ThinkingAutomaton:
    """Compile thinking delimiters for a tokenizer.

    Raises
    ------
    TokenizerError
        When no sequence of tokens can open, or close, a block.
    """
    marks = [Mark(_symbols(text, surfaces), True) for text in delimiters.open]
    marks += [Mark(_symbols(text, surfaces), False) for text in delimiters.close]
    within, table = mark_table(marks, surfaces.symbols)
    automaton = lift(table, np.zeros(len(within), dtype=np.uint8), surfaces)
    for name, texts, root, goal in (
        ("open", delimiters.open, 0, True),
        ("close", delimiters.close, 1, False),
    ):
        if not (within[automaton.reachable([root])] == goal).any():
            raise TokenizerError(
                f"No sequence of this tokenizer's tokens can {name} a block by {' or '.join(texts)}.",
                hint="Check that the delimiters belong to this model.",
            )
    return ThinkingAutomaton(automaton, within)


def mark_table(marks: Sequence[Mark], symbols: int) -> tuple[NDArray[np.bool_], SymbolTable]:
    """Enumerate the states of delimiters over symbols, and say in which of them a block is open.

    The first state is outside of any block, the second inside of one.
    """

    def step(state: _State, symbol: int) -> tuple[_State, int, int]:
        matches = set()
        for i, reached in (*state.matches, *((i, 0) for i in range(len(marks)))):
            if marks[i].opens == state.inside or marks[i].symbols[reached] != symbol:
                continue
            if reached + 1 == len(marks[i].symbols):
                return _State(not state.inside, frozenset()), 0, 0
            matches.add((i, reached + 1))
        return _State(state.inside, frozenset(matches)), 0, 0

    roots = [_State(False, frozenset()), _State(True, frozenset())]
    states, table = explore(roots, step, _classes(marks, symbols))
    return np.array([state.inside for state in states], dtype=np.bool_), table


def _symbols(text: str, surfaces: Surfaces) -> tuple[int, ...]:
    """Spell a delimiter: the longest special tokens in it as their private symbols, the rest as bytes."""
    names = sorted(surfaces.private, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    symbols: list[int] = []
    for piece in pieces:
        symbols += [surfaces.private[piece]] if piece in surfaces.private else piece.encode()
    return tuple(symbols)


def _classes(marks: Iterable[Mark], symbols: int) -> NDArray[np.int32]:
    own = {symbol for mark in marks for symbol in mark.symbols}
    numbers: dict[int, int] = {}
    return np.array(
        [numbers.setdefault(s if s in own else INERT, len(numbers)) for s in range(symbols)], np.int32
    )
