"""Prompts that are nearly the same: exact Jaccard similarity of word n-grams, without comparing all pairs.

Two sets of similarity t or more share an element among the first |s| - ceil(t |s|) + 1 of either, when both
are sorted by the same order: prefix filtering (Chaudhuri et al. 2006; Bayardo et al. 2007). Rare n-grams
come first, so that few pairs share one.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from lynxstop.recordings.prompts import Prompt, messages, normal_text

SIZE = 5
"""Words of an n-gram."""
_WORD = re.compile(r"\w+|[^\w\s]")


class Near(NamedTuple):
    """Two prompts, by their places, the earlier first; `similarity` is the share of n-grams in both."""

    first: int
    second: int
    similarity: float


def shingles(prompt: Prompt, size: int = SIZE) -> frozenset[tuple[str, ...]]:
    """Return the word n-grams of a prompt; one of fewer words is one n-gram."""
    words = [word for turn in messages(prompt) for word in _WORD.findall(normal_text(turn["content"]))]
    return frozenset(tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1)))


def near_pairs(prompts: Sequence[Prompt], least: float = 0.8, size: int = SIZE) -> list[Near]:
    """Find all pairs of prompts whose n-grams have a Jaccard similarity of `least` or more.

    Parameters
    ----------
    prompts : sequence of Prompt
    least : float
        In (0, 1]; 1 are prompts of the same n-grams.
    size : int
        Words of an n-gram.

    Examples
    --------
    >>> [near.first for near in near_pairs(["a b c d e f g h", "x", "a b c d e f g i"], least=0.5)]
    [0]
    """
    sets = [shingles(prompt, size) for prompt in prompts]
    counts = Counter(gram for own in sets for gram in own)
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    found: list[Near] = []
    for place, own in enumerate(sets):
        ordered = sorted(own, key=lambda gram: (counts[gram], gram))
        prefix = ordered[: len(ordered) - math.ceil(least * len(ordered)) + 1]
        for other in sorted({number for gram in prefix for number in holders[gram]}):
            shared = len(own & sets[other])
            similarity = shared / (len(own) + len(sets[other]) - shared)
            if similarity >= least:
                found.append(Near(other, place, similarity))
        for gram in prefix:
            holders[gram].append(place)
    return found
