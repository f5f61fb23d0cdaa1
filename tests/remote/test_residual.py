"""What is not among the alternatives that a server shows counts as one more token."""

from __future__ import annotations

import math

import pytest

from lynxstop.remote.tokens import Top, beginnings, behind


@pytest.mark.parametrize("shares", [(0.5, 0.3), (0.5, 0.3, 0.2), (0.25, 0.25, 0.25)])
def test_the_rest_of_the_mass_is_one_token(shares: tuple[float, ...]) -> None:
    top = Top([str(place) for place in range(len(shares))], [math.log(share) for share in shares])
    rest = 1 - sum(shares)
    whole = [*shares, rest] if rest > 1e-9 else list(shares)
    wanted = -sum(share * math.log(share) for share in whole)
    assert behind(top, -1.0, frozenset()).entropy == pytest.approx(wanted, abs=1e-6)


def test_the_margin_of_an_end_that_is_not_shown_is_that_of_the_last_shown() -> None:
    top = Top(["a", "b", "c"], [-0.5, -1.5, -2.5])
    exits = beginnings("\n</think>")
    assert behind(top, -0.5, exits).end_margin == pytest.approx(2.0)
    assert behind(Top(["a", "\n", "c"], top.values), -0.5, exits).end_margin == pytest.approx(1.0)
    assert behind(Top(["a", "\n", "\n<"], top.values), -0.5, exits).end_margin == pytest.approx(1.0)
    assert behind(Top(["c", "b", "a"], [-2.5, -1.5, -0.5]), -0.5, exits).top_gap == pytest.approx(1.0)
