"""Values become what JSON can hold."""

import json
import math

import numpy as np

from lynxstop.artifacts.plain import plain


def test_numbers_that_are_not_finite_become_null_at_any_depth() -> None:
    value = {"a": (1, math.nan, [math.inf, {"b": -math.inf}]), "c": np.float64("nan"), "d": "nan", "e": 0.5}
    found = plain(value)
    assert found == {"a": [1, None, [None, {"b": None}]], "c": None, "d": "nan", "e": 0.5}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
