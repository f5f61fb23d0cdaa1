"""Boundary tokens: ends of sentences, clauses and lines in any script."""

import pytest

from lynxstop.core.points import BOUNDARY, CUE, boundary_tokens, points_named
from lynxstop.core.surface import Surfaces
from lynxstop.errors import ConfigError


def test_punctuation_of_any_script_ends_a_token_blanks_aside():
    texts = ["ok.", "ok. ", "ok", "\n\n", "3,", "对。", "吗？ ", "好，", "…", "句", " ", "</think>"]
    surfaces = Surfaces.of([*(text.encode() for text in texts[:-1]), (257,)], {"</think>": 257})

    assert boundary_tokens(surfaces) == {0, 1, 3, 4, 5, 6, 7, 8}


def test_points_are_named():
    assert points_named("cue,boundary") == CUE | BOUNDARY
    with pytest.raises(ConfigError, match="'word'"):
        points_named("cue,word")
