"""A threshold in JSON: an exact float, or "never" where nothing exits."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

Threshold = Annotated[
    float,
    BeforeValidator(lambda value: math.inf if value == "never" else value),
    PlainSerializer(lambda value: "never" if value == math.inf else value, return_type=float | str),
]
"""Exit iff the float32 score exceeds it."""
