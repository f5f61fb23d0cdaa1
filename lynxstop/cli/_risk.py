"""Risk levels as people write them: `0.05` or `5%`."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from lynxstop.errors import ConfigError


def risk(text: str | float) -> float:
    """Read a risk level.

    Raises
    ------
    ConfigError
        When it is none.
    """
    number, percent, rest = str(text).strip().partition("%")
    try:
        value = Decimal(number) / (100 if percent else 1)
    except InvalidOperation:
        value = Decimal("NaN")
    if rest or not value.is_finite():
        raise ConfigError(f"{text!r} is no risk.", hint="Give a number such as 0.05 or 5%.")
    if not 0 <= value <= 1:
        meant = f"{number.strip()}%" if not percent and 1 < value <= 100 else "0.05 or 5%"
        raise ConfigError(f"A risk lies between 0 and 1, not at {text}.", hint=f"Give {meant}.")
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
