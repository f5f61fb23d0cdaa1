"""Boundary tokens: ends of sentences, clauses and lines in any script."""

from lynxstop.core.points import boundary_tokens
from lynxstop.core.surface import Surfaces


def test_punctuation_of_any_script_ends_a_token_blanks_aside():
    texts = ["ok.", "ok. ", "ok", "\n\n", "3,", "对。", "吗？ ", "好，", "…", "句", " ", "</think>"]
    surfaces = Surfaces.of([*(text.encode() for text in texts[:-1]), (257,)], {"</think>": 257})

    assert boundary_tokens(surfaces) == {0, 1, 3, 4, 5, 6, 7, 8}
