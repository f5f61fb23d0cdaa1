"""How the mock server behaves: for all requests by flags, for one by its header `x-mock`."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from lynxstop.artifacts.strict import Strict, first_of
from lynxstop.errors import ConfigError, RequestError

Fault = Literal[
    "none",
    "status-429",
    "status-500",
    "before-headers",
    "after-headers",
    "mid-thinking",
    "mid-answer",
    "before-done",
    "hang",
    "error-event",
    "garbage",
    "huge-line",
    "charset",
]


class MockSettings(Strict):
    """How the mock server answers; `with_header` changes some of it for one request."""

    delay: NonNegativeFloat = Field(default=0.0, le=3600, description="Seconds per token.")
    first_delay: NonNegativeFloat = Field(default=0.0, le=3600, description="Seconds before the first token.")
    checks: NonNegativeInt | None = Field(
        default=None, le=1000, description="How often the model checks itself; none: by the problem."
    )
    reasoning: Literal["reasoning", "reasoning_content", "thinking", "raw"] = Field(
        default="reasoning", description="Field the thinking arrives in; raw: as <think> in content."
    )
    opened: bool = Field(default=False, description="The chat template opens the thinking.")
    logprobs: bool = Field(default=True, description="Log-probabilities are given when asked for.")
    resume: bool = Field(default=True, description="continue_final_message is understood.")
    completions: bool = Field(default=True, description="/v1/completions is there.")
    tokens_per_event: PositiveInt = Field(default=1, description="Tokens in one streamed event.")
    framing: Literal["lf", "crlf", "cr", "mixed"] = Field(default="lf", description="Line ends of events.")
    pings: NonNegativeInt = Field(default=0, description="A comment after every so many events.")
    split: NonNegativeInt = Field(default=0, description="Write so many bytes at a time; 0: whole events.")
    fault: Fault = Field(default="none", description="What goes wrong.")

    def with_header(self, header: str | None) -> MockSettings:
        """Return the settings as changed by a header like `delay=0.01, fault=mid-answer`.

        Raises
        ------
        RequestError
            When a setting does not exist or cannot have this value.
        """
        if not header:
            return self
        changed = dict(part.strip().partition("=")[::2] for part in header.split(","))
        try:
            return MockSettings.model_validate(self.model_dump() | changed)
        except ValidationError as error:
            raise RequestError(
                f"x-mock is wrong: {error.errors()[0]['msg']}.",
                hint=f"Settings: {', '.join(MockSettings.model_fields)}.",
            ) from None


def read_settings(values: dict[str, object]) -> MockSettings:
    """Make the settings from values by name.

    Raises
    ------
    ConfigError
        When one is wrong.
    """
    try:
        return MockSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{first_of(error)}.") from None
