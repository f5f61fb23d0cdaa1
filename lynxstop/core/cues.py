"""Cue words in a token stream: which tokens complete one, decided per token in O(1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.automaton import SymbolTable, TokenAutomaton, explore, lift
from lynxstop.core.characters import CONTINUATION, SPACE, WORD, WORDLY, is_word, kind, variants
from lynxstop.core.surface import Surfaces
from lynxstop.errors import ConfigError, TokenizerError

CONFIRMED, HERE, PENDING = 1, 2, 4
"""Flags of a token: see `lynxstop.core.watch.WatchStep`."""


@dataclass(frozen=True, slots=True)
class CueSet:
    """The cues to look for.

    Parameters
    ----------
    words : tuple of str
        Words or phrases, in any case; white space in a phrase matches any run of white space.
    paragraph : bool
        Whether a paragraph break (a blank line) is a cue, once per run of white space.

    Raises
    ------
    ConfigError
        When there is nothing to look for, or a word is empty.
    """

    words: tuple[str, ...] = ()
    paragraph: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.words, str) or not all(isinstance(w, str) and w.split() for w in self.words):
            raise ConfigError("Cue words must be a list of non-empty texts.")
        object.__setattr__(self, "words", tuple(dict.fromkeys(" ".join(w.split()) for w in self.words)))
        if not self.words and not self.paragraph:
            raise ConfigError("A cue set needs at least one word, or paragraph=True.")

    def __or__(self, other: CueSet) -> CueSet:
        return CueSet(self.words + other.words, self.paragraph or other.paragraph)


CUE_SETS = {
    "lynx": CueSet(("hmm", "wait", "alternatively")),
    "en": CueSet(("wait", "hmm", "alternatively", "actually", "hold on", "let me check", "but")),
    "de": CueSet(("moment", "warte", "hm", "hmm", "alternativ", "eigentlich", "andererseits")),
    "fr": CueSet(("attends", "attendez", "hmm", "alternativement", "en fait", "voyons")),
    "es": CueSet(("espera", "esperen", "hmm", "alternativamente", "en realidad", "veamos")),
    "it": CueSet(("aspetta", "aspettate", "hmm", "in alternativa", "in realtà", "vediamo")),
    "pt": CueSet(("espera", "espere", "hmm", "alternativamente", "na verdade", "vejamos")),
    "ru": CueSet(("подожди", "подождите", "погоди", "хм", "хмм", "стоп", "с другой стороны")),
    "zh": CueSet(("等等", "等一下", "嗯", "或者", "不对", "另外", "換個角度", "换个角度")),
    "ja": CueSet(("待って", "待てよ", "うーん", "いや", "あるいは", "別の方法")),
    "ko": CueSet(("잠깐", "잠시만", "음", "아니면", "다시 생각")),
    "paragraph": CueSet(paragraph=True),
}
"""Named cue sets: `lynx` is the reference's, `paragraph` any blank line, the others are per language."""


def cue_set(name: str) -> CueSet:
    """Look up a named cue set; names joined by ``+`` (``en+zh``) give the union.

    Raises
    ------
    ConfigError
        When there is no such set; the message lists them.

    Examples
    --------
    >>> cue_set("lynx+paragraph")
    CueSet(words=('hmm', 'wait', 'alternatively'), paragraph=True)
    """
    parts = name.split("+")
    for part in parts:
        if part not in CUE_SETS:
            raise ConfigError(f"There is no cue set {part!r}.", hint=f"There are: {', '.join(CUE_SETS)}.")
    union = CUE_SETS[parts[0]]
    for part in parts[1:]:
        union |= CUE_SETS[part]
    return union


_BLANK = frozenset(b" \t\r")
_NEWLINE = 0x0A


def find_cues(text: str, cues: CueSet) -> list[int]:
    """Find cues in a text: the reference implementation that the automaton must agree with.

    Parameters
    ----------
    text : str
        The text; its end counts as a word boundary.
    cues : CueSet
        What to look for.

    Returns
    -------
    list of int
        Ascending distinct offsets of the character after each cue.

    Examples
    --------
    >>> find_cues("Wait, the waiter said: hmm", cue_set("lynx"))
    [4, 26]
    """
    ends: set[int] = set()
    for word in cues.words:
        parts = ("".join(f"(?:{'|'.join(map(re.escape, variants(c)))})" for c in p) for p in word.split())
        body = f"[{SPACE}]+".join(parts)
        left = f"(?<![{WORD}])" if is_word(word[0]) else ""
        right = f"(?![{WORD}])" if is_word(word[-1]) else ""
        ends.update(match.end(1) for match in re.finditer(f"{left}(?=({body}){right})", text))
    if cues.paragraph:
        ends.update(match.end(1) for match in re.finditer(r"(\n[ \t\r]*\n)[ \t\r\n]*", text))
    return sorted(ends)


class CueState(NamedTuple):
    """State of the cue automaton in a stream of symbols."""

    word: bool
    """Whether the last character was a word character."""
    nodes: frozenset[int]
    """Nodes reached by partial matches; the end of a word is a node without edges."""
    breaks: int
    """Newlines in the current run of white space, at most 2; only counted when paragraphs are cues."""


class Patterns:
    """The cue words as a nondeterministic automaton over bytes."""

    def __init__(self, cues: CueSet) -> None:
        self.edges: list[dict[int, set[int]]] = [{}, {}]  # node 0: at a word boundary; node 1: anywhere
        self.paragraph = cues.paragraph
        self.words: dict[int, str] = {}
        self.open_ended: set[int] = set()
        for word in cues.words:
            end = self._add(word)
            self.words[end] = word
            if is_word(word[-1]):
                self.open_ended.add(end)

    def _node(self) -> int:
        self.edges.append({})
        return len(self.edges) - 1

    def _add(self, word: str) -> int:
        node = 0 if is_word(word[0]) else 1
        for char in word:
            following = self._node()
            for form in SPACE if char == " " else variants(char):
                self._spell(node, form.encode(), following)
                if char == " ":
                    self._spell(following, form.encode(), following)
            node = following
        return node

    def _spell(self, node: int, spelling: bytes, target: int) -> None:
        for byte in spelling[:-1]:
            following = self._node()
            self.edges[node].setdefault(byte, set()).add(following)
            node = following
        self.edges[node].setdefault(spelling[-1], set()).add(target)

    def classes(self, symbols: int) -> NDArray[np.int32]:
        """Number the symbols so that those without an edge of their own share a class with their kind."""
        own = set(chain(_BLANK, [_NEWLINE], *self.edges))
        kinds: dict[int, int] = {}
        keys = [s if s in own else -1 - kind(s) for s in range(symbols)]
        return np.array([kinds.setdefault(key, len(kinds)) for key in keys], dtype=np.int32)

    def pending(self, states: Iterable[CueState]) -> NDArray[np.uint8]:
        """Flags of a token that ends in each state."""
        return np.array([PENDING if s.nodes & self.open_ended else 0 for s in states], dtype=np.uint8)

    def table(self, symbols: int) -> tuple[list[CueState], SymbolTable]:
        """Enumerate the states; the first two follow no word character, and one."""
        roots = [CueState(word, frozenset(), 0) for word in (False, True)]
        return explore(roots, self.step, self.classes(symbols))

    def step(self, state: CueState, symbol: int) -> tuple[CueState, int, int]:
        """Read one symbol: next state, flags as a token's first symbol, flags as a later one.

        They differ because a cue may end before this token or inside it.
        """
        this = kind(symbol)
        word = state.word if this == CONTINUATION else this == WORDLY
        proved = not word and bool(state.nodes & self.open_ended)
        roots = (1,) if state.word else (0, 1)
        nodes = frozenset(chain.from_iterable(self.edges[n].get(symbol, ()) for n in (*roots, *state.nodes)))
        whole = any(node in self.words and node not in self.open_ended for node in nodes)
        breaks = state.breaks if symbol in _BLANK else 0
        if self.paragraph and symbol == _NEWLINE:
            breaks = min(state.breaks + 1, 2)
            whole |= breaks > state.breaks == 1
        first = (CONFIRMED if proved else 0) | (HERE if whole else 0)
        return CueState(word, nodes, breaks), first, HERE if proved or whole else 0


class CueAutomaton:
    """Cue words compiled for a tokenizer.

    Parameters
    ----------
    automaton : TokenAutomaton
        Its flags are `CONFIRMED`, `HERE` and `PENDING`.
    settled : int32 array of shape (states,)
        State that keeps only whether the last character was a word character.
    """

    __slots__ = ("_settled", "automaton", "settled", "start", "step", "step_many")

    def __init__(self, automaton: TokenAutomaton, settled: NDArray[np.int32]) -> None:
        self.automaton = automaton
        self.settled = settled
        self.start = 0
        self.step = automaton.step
        self.step_many = automaton.step_many
        self._settled = settled.data

    def settle(self, state: int) -> int:
        """Forget partial matches and a pending cue."""
        return self._settled[state]


def compile_cues(cues: CueSet, surfaces: Surfaces) -> CueAutomaton:
    """Compile a cue set for a tokenizer.

    Raises
    ------
    TokenizerError
        When no sequence of tokens can write one of the words; the message names it.
    """
    patterns = Patterns(cues)
    states, table = patterns.table(surfaces.symbols)
    automaton = lift(table, patterns.pending(states), surfaces)
    reached = {node for i in automaton.reachable((0, 1)).tolist() for node in states[i].nodes}
    missing = [word for end, word in patterns.words.items() if end not in reached]
    mute = [word for word in missing if not _writable(CueSet((word,)), surfaces)]
    if cues.paragraph and not _writable(CueSet(paragraph=True), surfaces):
        mute.append("a paragraph break")
    if mute:
        raise TokenizerError(
            f"No sequence of this tokenizer's tokens can write: {', '.join(map(repr, mute))}.",
            hint="Leave these cues out, or choose the cue set of the tokenizer's language.",
        )
    return CueAutomaton(automaton, np.array([state.word for state in states], dtype=np.int32))


def _writable(cues: CueSet, surfaces: Surfaces) -> bool:
    patterns = Patterns(cues)
    states, table = patterns.table(surfaces.symbols)
    automaton = lift(table, patterns.pending(states), surfaces)
    return bool(automaton.flags[automaton.reachable((0, 1))].any())
