"""Risk levels as people write them: `0.05` or `5%`."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import typer


def risk(text: str | float) -> float:
    """Read a risk level.

    Raises
    ------
    typer.BadParameter
        When it is none.
    """
    number, percent, rest = str(text).strip().partition("%")
    try:
        value = Decimal(number) / (100 if percent else 1)
    except InvalidOperation:
        value = Decimal("NaN")
    if rest or not value.is_finite():
        raise typer.BadParameter(f"A risk is a number such as 0.05 or 5%, not {text!r}.")
    if not 0 <= value <= 1:
        meant = f"; did you mean {number.strip()}%?" if not percent and 1 < value <= 100 else "."
        raise typer.BadParameter(f"A risk lies between 0 and 1, not at {text}{meant}")
    return float(value)


def risk_or_off(text: str) -> str:
    """Read a risk level, or `off`; return it as text.

    Raises
    ------
    typer.BadParameter
        When it is neither.
    """
    if text.strip().lower() == "off":
        return "off"
    try:
        return repr(risk(text))
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{error.message} `off` stops nothing.") from None
