"""The one definition of a token's statistics."""

from dataclasses import fields

import numpy as np

from lynxstop.core.statistics import (
    DEFINITIONS,
    LOGPROB,
    NEXT,
    UNKNOWN,
    WIDTH,
    NextToken,
    Statistics,
    unknown,
)
from lynxstop.core.types import Signals


def test_definitions_are_in_the_order_of_the_fields() -> None:
    assert (*DEFINITIONS, "logprob") == Statistics._fields
    assert Statistics._fields[LOGPROB] == "logprob"
    assert len(Statistics._fields) == WIDTH == NEXT + 1
    assert [field.name for field in fields(Signals)][:NEXT] == list(DEFINITIONS)


def test_definitions_on_a_distribution_computed_by_hand() -> None:
    logprobs = np.log([0.5, 0.25, 0.125, 0.125])
    entropy = -(np.exp(logprobs) * logprobs).sum()
    seen = NextToken(entropy, logprobs[0], logprobs[1], logprobs[3])
    found = {name: float(define(seen)) for name, define in DEFINITIONS.items()}
    bit = np.log(2)
    assert np.isclose(found["entropy"], 1.75 * bit)
    assert np.isclose(found["top_gap"], bit)
    assert np.isclose(found["end_margin"], 2 * bit)


def test_nothing_is_known_of_unknown_tokens() -> None:
    assert np.isnan(UNKNOWN).all()
    assert unknown(3).shape == (3, WIDTH)
    assert unknown(3).dtype == np.float32
    assert np.isnan(unknown(3)).all()
