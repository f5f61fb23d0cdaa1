"""From symbols to tokens: a finite automaton over bytes becomes one over whole tokens.

Tokens with the same effect on every state share a column ("class") of the token table, so that a vocabulary
of 150 000 tokens needs a few hundred columns. A token is the composition of the functions of its symbols;
equal functions are merged after every symbol, which keeps the work small whatever the vocabulary's size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.surface import INERT, Surfaces

State = TypeVar("State", bound=Hashable)


class SymbolTable(NamedTuple):
    """A deterministic automaton over symbols, with outputs on its edges.

    `classes` int32 (symbols,): symbols that act alike share a class. `next` int32 (states, classes).
    `first`, `later` uint8 (states, classes): flags an edge gives as a token's first symbol, or as a later
    one.
    """

    classes: NDArray[np.int32]
    next: NDArray[np.int32]
    first: NDArray[np.uint8]
    later: NDArray[np.uint8]


class TokenAutomaton:
    """A deterministic automaton over tokens.

    Parameters
    ----------
    classes : int32 array of shape (tokens + 1,)
        Column of each token; the last entry serves every id beyond the vocabulary.
    table : int32 array of shape (states, columns)
        Next state.
    flags : uint8 array of shape (states, columns)
        Flags of a token, as bits; the compiled automaton says what they mean.
    """

    __slots__ = ("_beyond", "_classes", "_columns", "_flags", "_table", "classes", "flags", "table")

    def __init__(
        self, classes: NDArray[np.int32], table: NDArray[np.int32], flags: NDArray[np.uint8]
    ) -> None:
        self.classes = np.ascontiguousarray(classes)
        self.table = np.ascontiguousarray(table)
        self.flags = np.ascontiguousarray(flags)
        # Reading one element of a memoryview costs a third of reading one of an array.
        self._classes = self.classes.data
        self._table = self.table.reshape(-1).data
        self._flags = self.flags.reshape(-1).data
        self._columns = table.shape[1]
        self._beyond = len(classes) - 1

    def step(self, state: int, token: int) -> tuple[int, int]:
        """Next state and flags after one token, in O(1)."""
        entry = state * self._columns + self._classes[token if token < self._beyond else self._beyond]
        return self._table[entry], self._flags[entry]

    def step_many(
        self, states: NDArray[np.int32], tokens: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """`step` for a batch: arrays of shape (requests,)."""
        columns = self.classes[np.minimum(tokens, self._beyond)]
        return self.table[states, columns], self.flags[states, columns]

    @property
    def nbytes(self) -> int:
        """Bytes held by the three arrays."""
        return self.classes.nbytes + self.table.nbytes + self.flags.nbytes

    def reachable(self, roots: Iterable[int]) -> NDArray[np.int64]:
        """States that some sequence of tokens leads to from `roots`, ascending."""
        seen = np.zeros(len(self.table), dtype=bool)
        front = np.unique(np.fromiter(roots, dtype=np.int32))
        while len(front):
            seen[front] = True
            following = np.unique(self.table[front])
            front = following[~seen[following]]
        return np.flatnonzero(seen)


def explore(
    roots: Sequence[State],
    step: Callable[[State, int], tuple[State, int, int]],
    classes: NDArray[np.int32],
) -> tuple[list[State], SymbolTable]:
    """Enumerate the states of an automaton given as a function (subset construction when states are sets).

    Parameters
    ----------
    roots : sequence of states
        They get the numbers 0, 1, ...
    step : function
        (state, symbol) -> (next state, flags as first symbol, flags as later symbol).
    classes : int32 array of shape (symbols,)
        Symbols of one class must act alike; `step` is called with the first of each.

    Returns
    -------
    (states, table)
        The states by number, and their symbol table.
    """
    _, symbols = np.unique(classes, return_index=True)
    numbers = {state: i for i, state in enumerate(roots)}
    states = list(numbers)
    rows: list[list[tuple[int, int, int]]] = []
    for state in states:  # grows while we walk it
        row = []
        for symbol in symbols.tolist():
            following, first, later = step(state, symbol)
            if following not in numbers:
                numbers[following] = len(states)
                states.append(following)
            row.append((numbers[following], first, later))
        rows.append(row)
    entries = np.array(rows, dtype=np.int32)
    flags = entries[:, :, 1:].astype(np.uint8)
    return states, SymbolTable(classes, entries[:, :, 0].copy(), flags[:, :, 0].copy(), flags[:, :, 1].copy())


def lift(table: SymbolTable, final: NDArray[np.uint8], surfaces: Surfaces) -> TokenAutomaton:
    """Compose the symbol table along every token.

    Parameters
    ----------
    table : SymbolTable
        The automaton over symbols.
    final : uint8 array of shape (states,)
        Flags a token gives for the state it ends in.
    surfaces : Surfaces
        The symbols of every token; one inert token is added for all ids beyond them.
    """
    width = table.next.shape[1]
    symbols = table.classes[np.append(surfaces.flat, INERT)].astype(np.int64)
    starts = np.append(surfaces.starts[:-1], len(surfaces.flat))
    lengths = np.append(np.diff(surfaces.starts), 1)
    following = [np.arange(len(table.next), dtype=np.int32)]
    shown = [np.zeros(len(table.next), dtype=np.uint8)]
    numbers: dict[bytes, int] = {}
    function = np.zeros(len(starts), dtype=np.int64)
    for position in range(int(lengths.max())):
        active = np.flatnonzero(lengths > position)
        pairs = function[active] * width + symbols[starts[active] + position]
        distinct, inverse = np.unique(pairs, return_inverse=True)
        output = table.later if position else table.first
        composed = np.empty(len(distinct), dtype=np.int64)
        for i, pair in enumerate(distinct.tolist()):
            before, symbol = divmod(pair, width)
            state = table.next[following[before], symbol]
            flag = shown[before] | output[following[before], symbol]
            number = numbers.setdefault(state.tobytes() + flag.tobytes(), len(following))
            if number == len(following):
                following.append(state)
                shown.append(flag)
            composed[i] = number
        function[active] = composed[inverse]
    used, classes = np.unique(function, return_inverse=True)
    next_states = np.stack([following[i] for i in used.tolist()], axis=1)
    flags = np.stack([shown[i] for i in used.tolist()], axis=1) | final[next_states]
    return TokenAutomaton(classes.astype(np.int32), next_states, flags)
