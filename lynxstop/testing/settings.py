"""How the mock server behaves: for all requests by flags, for one by its header `x-mock`."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

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


class Knobs(BaseModel):
    """The knobs; `with_header` turns some of them for one request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delay: NonNegativeFloat = Field(default=0.0, description="Seconds per token.")
    first_delay: NonNegativeFloat = Field(default=0.0, description="Seconds before the first token.")
    checks: NonNegativeInt | None = Field(
        default=None, description="How often the model checks itself; none: by the problem."
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

    def with_header(self, header: str | None) -> Knobs:
        """Return the knobs as turned by a header like `delay=0.01, fault=mid-answer`.

        Raises
        ------
        RequestError
            When a knob does not exist or has no such setting.
        """
        if not header:
            return self
        turned = dict(part.strip().partition("=")[::2] for part in header.split(","))
        try:
            return Knobs.model_validate(self.model_dump() | turned)
        except ValidationError as error:
            raise RequestError(
                f"x-mock is wrong: {error.errors()[0]['msg']}.",
                hint=f"Knobs: {', '.join(Knobs.model_fields)}.",
            ) from None


def read_knobs(settings: dict[str, object]) -> Knobs:
    """Make knobs of settings by name.

    Raises
    ------
    ConfigError
        When one is wrong.
    """
    try:
        return Knobs.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
