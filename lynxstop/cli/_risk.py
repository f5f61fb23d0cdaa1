"""Risk levels and confidences as people write them: `0.05` or `5%`."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer

from lynxstop.errors import ConfigError


def risk(text: str | float) -> float:
    """Read a risk level.

    Raises
    ------
    ConfigError
        When it is not one.
    """
    return _share(text, "risk", "0.05", "5%")


def confidence(text: str | float) -> float:
    """Read the confidence of a promise.

    Raises
    ------
    ConfigError
        When it is not one.
    """
    return _share(text, "confidence", "0.95", "95%")


Confidence = Annotated[
    float, typer.Option(parser=confidence, help="Confidence of the promise, as 0.95 or 95%.")
]


def _share(text: str | float, name: str, number_like: str, percent_like: str) -> float:
    number, percent, rest = str(text).strip().partition("%")
    try:
        value = Decimal(number) / (100 if percent else 1)
    except InvalidOperation:
        value = Decimal("NaN")
    if rest or not value.is_finite():
        raise ConfigError(
            f"{text!r} is not a {name}.", hint=f"Give a number such as {number_like} or {percent_like}."
        )
    if not 0 <= value <= 1:
        usual = f"{number_like} or {percent_like}"
        meant = f"{number.strip()}%" if not percent and 1 < value <= 100 else usual
        raise ConfigError(f"A {name} lies between 0 and 1, not at {text}.", hint=f"Give {meant}.")
    return float(value)


def risk_or_off(text: str) -> str:
    """Read a risk level, or `off`; return it as text.

    Raises
    ------
    ConfigError
        When it is neither.
    """
    if text.strip().lower() == "off":
        return "off"
    try:
        return repr(risk(text))
    except ConfigError as error:
        raise ConfigError(error.message, hint=f"{error.hint} `off` stops nothing.") from None
