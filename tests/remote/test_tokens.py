"""Statistics from the top log-probabilities that a server shows."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.errors import ConfigError
from lynxstop.remote.tokens import StreamToken, Top, beginnings, statistics_of_top_k


def alone(top, logprob, exits):
    [known] = statistics_of_top_k([(StreamToken(b"a", logprob), StreamToken(b"b", top=top))], exits)
    return known


@given(st.lists(st.floats(0.0078125, 1, width=32), min_size=2, max_size=12), st.integers(2, 12))
def test_entropy_from_the_top_is_a_lower_bound_and_exact_with_everything(weights, k):
    probs = np.array(sorted(weights, reverse=True)) / sum(weights)
    true = float(-(probs * np.log(probs)).sum())
    texts = [str(token) for token in range(10, 10 + len(probs))]
    top = Top(texts[:k], [math.log(p) for p in probs[:k]])
    found = alone(top, -1.0, beginnings(f"{texts[-1]} and more"))
    assert found.entropy <= true + 1e-6
    assert found.top_gap == pytest.approx(math.log(probs[0] / probs[1]))
    if k >= len(probs):
        assert found.entropy == pytest.approx(true, abs=1e-6)
        assert found.end_margin == pytest.approx(math.log(probs[0] / probs[-1]))
    else:
        assert found.end_margin <= math.log(probs[0] / probs[-1]) + 1e-6


def test_without_alternatives_only_the_own_log_probability_is_known():
    found = alone(Top(["a"], [-0.1]), -0.5, beginnings("</think>"))
    assert found.logprob == -0.5
    assert math.isnan(found.entropy)
    assert math.isnan(found.end_margin)


@pytest.mark.parametrize("shares", [(0.5, 0.3), (0.5, 0.3, 0.2), (0.25, 0.25, 0.25)])
def test_the_rest_of_the_mass_is_one_token(shares):
    top = Top([str(place) for place in range(len(shares))], [math.log(share) for share in shares])
    rest = 1 - sum(shares)
    whole = [*shares, rest] if rest > 1e-9 else list(shares)
    wanted = -sum(share * math.log(share) for share in whole)
    assert alone(top, -1.0, frozenset()).entropy == pytest.approx(wanted, abs=1e-6)


def test_the_margin_of_an_end_that_is_not_shown_is_that_of_the_last_shown():
    top = Top(["a", "b", "c"], [-0.5, -1.5, -2.5])
    exits = beginnings("\n</think>")
    assert alone(top, -0.5, exits).end_margin == pytest.approx(2.0)
    assert alone(Top(["a", "\n", "c"], top.values), -0.5, exits).end_margin == pytest.approx(1.0)
    assert alone(Top(["a", "\n", "\n<"], top.values), -0.5, exits).end_margin == pytest.approx(1.0)
    end_first = alone(Top(["\n", "b"], [-0.5, -1.5]), -0.5, exits)
    assert end_first.top_gap == pytest.approx(1.0)
    assert end_first.end_margin == 0.0
    assert alone(Top(["c", "b", "a"], [-2.5, -1.5, -0.5]), -0.5, exits).top_gap == pytest.approx(1.0)


ROWS = st.lists(
    st.one_of(
        st.lists(st.floats(-30, -0.001), min_size=20, max_size=20),
        st.lists(st.floats(-30, -0.001), max_size=5),
    ),
    min_size=2,
    max_size=70,
)


@given(ROWS)
def test_what_is_known_after_a_token_does_not_depend_on_the_others(rows):
    exits = beginnings("t3t4")
    tokens = [
        StreamToken(b"a", -float(place), Top([f"t{rank}" for rank in range(len(row))], row))
        for place, row in enumerate(rows)
    ]
    seen = list(pairwise(tokens))
    each = [statistics_of_top_k([pair], exits)[0] for pair in seen]
    assert np.array_equal(np.array(statistics_of_top_k(seen, exits)), np.array(each), equal_nan=True)


def entry(text, top, logprob=-0.5):
    shown = [{"token": one, "logprob": value, "bytes": [1]} for one, value in top]
    return json.dumps({"token": text, "logprob": logprob, "bytes": [], "top_logprobs": shown}).encode()


def test_entries_are_parsed_when_they_are_asked_for_and_tell_what_the_list_tells():
    token = StreamToken(b"a", entry=entry("a", [("\u00e9", -0.25), ('"', -1.5)]))
    assert token.logprob == -0.5
    assert token.top == Top(["\u00e9", '"'], [-0.25, -1.5])
    assert not StreamToken(b"a", entry=entry("a", [], None)).top.texts
    assert math.isnan(StreamToken(b"a", entry=entry("a", [], None)).logprob)


@pytest.mark.parametrize("raw", [b"", b"{", b"{},{}", b'{"logprob": "high"}', b'{"top_logprobs": [{}]}'])
def test_entries_that_cannot_be_read_are_refused(raw):
    good = StreamToken(b"a", entry=entry("a", [("a", -0.25)]))
    with pytest.raises(ConfigError):
        statistics_of_top_k([(good, StreamToken(b"b", entry=raw))], frozenset())


def test_what_is_forgotten_is_gone():
    token = StreamToken(b"a", entry=entry("a", [("a", -0.25)]))
    token.forget()
    assert token.top == Top()
    assert math.isnan(token.logprob)
