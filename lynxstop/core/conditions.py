"""The conditions a certificate was made under, and whether a request is served under them.

A certificate is a statement about requests drawn like the calibration data and decoded as they were. Decoded
otherwise (another temperature, a penalty, half the budget), full thinking gives other answers, and nothing is
known about how often an exit changes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from lynxstop.core.types import Sampling

NEUTRAL = {
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "logit_bias": None,
    "allowed_token_ids": None,
    "bad_words": None,
    "thinking_token_budget": None,
    "repetition_detection": None,
    "ignore_eos": False,
    "watermarking": False,
}
"""Settings that no certificate is made under, and the values at which they change nothing."""


SETTINGS = ("temperature", "top_p", "top_k", "max_tokens", *NEUTRAL)
"""Names of everything that `Conditions.read` looks at."""


class Uncertified(StrEnum):
    """What is done with a request outside the certified conditions."""

    THINK = "think"
    """It thinks to the end."""
    STOP = "stop"
    """It is stopped like any other, and its report names no certificate."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How the tokens of a request are chosen.

    Parameters
    ----------
    temperature : float
        0 is greedy: `top_p` and `top_k` then change nothing.
    top_p : float
        1 keeps all tokens.
    top_k : number
        0 keeps all tokens.
    max_tokens : number or None
        Most output tokens, thinking included; None when only the context limits them, and that is not known.
    altered : tuple of str
        Further settings that change the choice of tokens, by name.
    """

    temperature: float
    top_p: float = 1.0
    top_k: float = 0
    max_tokens: float | None = None
    altered: tuple[str, ...] = ()

    @classmethod
    def read(cls, given: Mapping[str, object], certified: Conditions | None = None) -> Self:
        """Read the settings of a request as OpenAI's and vLLM's interfaces name them.

        Parameters
        ----------
        given : mapping
            Names and values; None stands for a setting that is not given.
        certified : Conditions, optional
            Taken for what is not given: servers are started with the certified sampling as their default.
        """
        default = certified or cls(1.0)
        top_k = _number(given.get("top_k"), default.top_k)
        return cls(
            _number(given.get("temperature"), default.temperature),
            _number(given.get("top_p"), default.top_p),
            top_k if top_k > 0 else 0,
            limit_of(given.get("max_tokens")),
            tuple(
                name for name, value in NEUTRAL.items() if given.get(name, value) not in (value, None, {}, [])
            ),
        )

    @classmethod
    def of(cls, sampling: Sampling) -> Self:
        """Take the sampling of an engine of ours."""
        return cls(sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens)

    def within(self, room: float) -> Self:
        """Return these with no more output tokens than a context leaves after the prompt."""
        most = self.max_tokens
        return replace(self, max_tokens=room if most is None else min(most, room))

    @property
    def label(self) -> str:
        """Say in words how tokens are drawn, as "temperature 0.6, top_p 0.95"."""
        found = [f"temperature {self.temperature:g}"]
        if self.temperature > 0:
            found += [f"top_p {self.top_p:g}"] * (self.top_p < 1) + [f"top_k {self.top_k:g}"] * (
                self.top_k > 0
            )
        return ", ".join(found)

    def draws_like(self, other: Conditions) -> bool:
        """Whether tokens are drawn in the same way; limits and `altered` are not looked at."""
        return not self._drawn_otherwise(other)

    def departures(self, served: Conditions) -> tuple[str, ...]:
        """Name the settings in which a request departs from these, the certified conditions.

        A larger `max_tokens` is not a departure: a trace that the certified limit cut has no answer to
        compare, and its exits were counted as losses.
        """
        found = self._drawn_otherwise(served)
        if self.max_tokens is not None and served.max_tokens is not None:
            found += ["max_tokens"] * (served.max_tokens < self.max_tokens)
        return (*found, *served.altered)

    def _drawn_otherwise(self, served: Conditions) -> list[str]:
        if served.temperature != self.temperature:
            return ["temperature"]
        names = ("top_p", "top_k") if self.temperature > 0 else ()
        return [name for name in names if getattr(self, name) != getattr(served, name)]


def limit_of(value: object) -> float | None:
    """Read a limit of tokens; None where only the context limits them, for which some servers take -1."""
    most = None if value is None else _number(value, 0)
    return None if most is None or most < 0 else most


def _number(value: object, default: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return value
