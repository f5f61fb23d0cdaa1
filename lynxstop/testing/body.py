"""What a request to the mock server may say: the types and bounds of what it reads."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lynxstop.errors import RequestError

LENGTH = 2**20
"""Context length in tokens that the server names."""

MOST_CHOICES = 128
"""Choices of one request, as in OpenAI's API."""

Json = dict[str, Any]
_Limit = Annotated[int, Field(ge=1, le=LENGTH)] | None
_Top = Annotated[int, Field(ge=0, le=20)]


class _Message(BaseModel):
    content: str | list[Json] | None = None
    reasoning: str | None = None


class _Body(BaseModel):
    model_config = ConfigDict(strict=True)

    messages: list[_Message] | None = None
    prompt: str | list[int] | None = None
    tokens: list[int] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    max_tokens: _Limit = None
    max_completion_tokens: _Limit = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    logprobs: bool | _Top | None = None
    top_logprobs: _Top | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: Json | None = None
    response_format: Json | None = None
    tools: list[Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_ids: bool | None = None


def checked(body: Any) -> Json:
    """Return the body of a request, if it is one that can be answered.

    Raises
    ------
    RequestError
        When it is not an object, or a value has another type or is out of bounds.
    """
    if not isinstance(body, dict):
        raise RequestError("The request's body is not a JSON object.")
    try:
        _Body.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"{first['loc'][0]}: {first['msg']}.") from None
    return body
