"""A request is compared with the conditions its certificate was made under."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.conditions import SETTINGS, Conditions

CERTIFIED = Conditions(0.9, 0.95, 20, 512)
INSIDE = {"temperature": 0.9, "top_p": 0.95, "top_k": 20, "max_tokens": 512}

conditions = st.builds(
    Conditions,
    st.sampled_from([0.0, 0.6, 0.9]),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([0, 20]),
    st.none() | st.integers(1, 1000),
)


def test_the_least_top_k_keeps_one_token_and_below_it_all() -> None:
    assert [Conditions.read({"top_k": given}).top_k for given in (2, 1, 0, -1)] == [2, 1, 0, 0]


@given(conditions)
def test_nothing_departs_from_itself(certified: Conditions) -> None:
    assert certified.departures(certified) == ()


@pytest.mark.parametrize(
    ("given_settings", "expected"),
    [
        ({}, ()),
        ({"temperature": 1.3}, ("temperature",)),
        ({"temperature": 0}, ("temperature",)),
        ({"top_p": 1}, ("top_p",)),
        ({"top_k": -1}, ("top_k",)),
        ({"top_p": 0.5, "top_k": 5}, ("top_p", "top_k")),
        ({"max_tokens": 511}, ("max_tokens",)),
        ({"max_tokens": 4096}, ()),
        ({"max_tokens": None}, ()),
        ({"max_tokens": -1}, ()),
        ({"min_p": 0.05}, ("min_p",)),
        # text after the answer's end may hold another answer
        ({"ignore_eos": True}, ("ignore_eos",)),
        ({"watermarking": True}, ("watermarking",)),
        ({"presence_penalty": 1.5}, ("presence_penalty",)),
        ({"repetition_penalty": 1.1, "frequency_penalty": -0.1}, ("frequency_penalty", "repetition_penalty")),
        ({"logit_bias": {"5": 3}}, ("logit_bias",)),
        ({"logit_bias": {}, "bad_words": [], "min_p": 0, "repetition_penalty": 1}, ()),
        ({"ignore_eos": False, "watermarking": None}, ()),
        ({"thinking_token_budget": 100}, ("thinking_token_budget",)),
        ({"repetition_detection": {"max_pattern_size": 8, "min_count": 3}}, ("repetition_detection",)),
    ],
)
def test_what_departs_is_named(given_settings: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert CERTIFIED.departures(Conditions.read(INSIDE | given_settings)) == expected


def test_what_a_request_does_not_say_is_the_servers_default() -> None:
    assert CERTIFIED.departures(Conditions.read({}, CERTIFIED)) == ()
    assert CERTIFIED.departures(Conditions.read({}, Conditions(1.0))) == ("temperature",)


def test_tokens_are_drawn_alike_whatever_the_limit() -> None:
    assert CERTIFIED.draws_like(replace(CERTIFIED, max_tokens=1, altered=("min_p",)))
    assert not CERTIFIED.draws_like(replace(CERTIFIED, top_p=0.5))


def test_greedy_requests_do_not_differ_by_what_sampling_keeps() -> None:
    assert Conditions(0.0).departures(Conditions(0.0, 0.5, 3)) == ()


@given(
    conditions,
    st.dictionaries(st.sampled_from(SETTINGS), st.none() | st.text() | st.booleans() | st.floats()),
)
def test_odd_values_never_raise(certified: Conditions, given_settings: dict[str, Any]) -> None:
    served = Conditions.read(given_settings, certified)
    assert set(certified.departures(served)) <= set(SETTINGS)
