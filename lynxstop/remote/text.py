"""Completions as chats: a dialect that watches a prompt's continuation instead of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lynxstop.core.conditions import limit_of
from lynxstop.core.thinking import Delimiters
from lynxstop.errors import UpstreamError
from lynxstop.remote.client_request import ClientRequest
from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import TOP, AnswerLimits, Call, Dialect, Kept, Opening, hurried
from lynxstop.remote.dialects.reading import entry_tokens, listed, read_completion, said
from lynxstop.remote.server import Server

COMPLETIONS = "/v1/completions"

_END = 256
_TEXTS = ("prompt", "content", "text")


@dataclass(frozen=True, slots=True)
class TextRequest(ClientRequest):
    """What a client of completions asked for.

    Parameters
    ----------
    limit : int or None
        The server's own, for a request that names none.
    """

    limit: int | None = None

    @property
    def logprobs(self) -> int | None:
        """Alternatives per token the client asked for; None when it asked for no log-probabilities."""
        asked = self.body.get("logprobs")
        return None if asked is None or asked is False else int(asked)

    @property
    def max_tokens(self) -> int | None:
        """Limit of tokens."""
        if (given := self.body.get("max_tokens")) is None:
            return self.limit
        found = limit_of(given)
        return None if found is None else int(found)


def one_prompt(body: Mapping[str, Any]) -> str | list[int] | None:
    """Return the prompt of a request: a text, or tokens; None when it has none, or several."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(type(number) is int for number in prompt):
        return prompt
    return None


async def text_of(server: Server, model: str, prompt: str | Sequence[int]) -> str | None:
    """Return the text of a prompt; None when it is tokens and the server does not decode them."""
    if isinstance(prompt, str):
        return prompt
    try:
        found = await server.call("/detokenize", {"model": model, "tokens": list(prompt)})
    except UpstreamError:
        return None
    shown = [found[name] for name in _TEXTS if isinstance(found, dict) and isinstance(found.get(name), str)]
    return shown[0] if shown else None


def leaves_open(text: str, delimiters: Delimiters) -> bool:
    """Say whether a text leaves a thinking block open at its end."""
    opened, closed = (
        max(text.rfind(mark) for mark in marks) for marks in (delimiters.open, delimiters.close)
    )
    return opened > closed


class TextDialect:
    """Speaks a server's completions; events are given in the form of a chat's, thinking in `content`.

    Parameters
    ----------
    dialect : Dialect
        Of the server's chats.
    """

    describes = "the prompt and what was written, by /v1/completions"

    def __init__(self, dialect: Dialect) -> None:
        self.name, self.facts, self.exact = dialect.name, dialect.facts, dialect.exact
        self.neutral, self.prioritises = dialect.neutral, dialect.prioritises
        self.in_place, self._dialect = False, dialect

    async def routes(self, server: Server, model: str) -> Sequence[Dialect]:
        """The prompt is continued; there is no other way."""
        return (self,)

    async def has_plugin(self, server: Server) -> bool:
        """Whether lynxstop runs inside the server's engine."""
        return await self._dialect.has_plugin(server)

    async def end_thinking(self, server: Server, id: str) -> bool:
        """Completions have no thinking of the server's own."""
        return False

    async def prioritised(self, server: Server, model: str) -> Dialect:
        """As the dialect of the server's chats."""
        return TextDialect(await self._dialect.prioritised(server, model))

    def watched(self, body: Mapping[str, Any]) -> Json:
        """Ask for what the chat's dialect asks for, in the form of completions."""
        asked = {**self._dialect.watched(body), "logprobs": TOP}
        for name in ("top_logprobs", "reasoning_control"):
            asked.pop(name, None)
        return asked

    async def opening(self, server: Server, body: Mapping[str, Any]) -> Opening:
        """The prompt is in the request."""
        prompt = one_prompt(body)
        ids = None if isinstance(prompt, str) else prompt
        return Opening(body, ids, prompt if isinstance(prompt, str) else None, path=COMPLETIONS)

    def read(self, event: Json) -> Delta:
        """Read one event, and bring it into the form of a chat's."""
        choices = event.get("choices") or ()
        delta = _read(event)
        for choice in choices:
            choice["delta"] = {"content": choice.pop("text", None) or ""}
        ids = event.get("prompt_token_ids") or (choices[0].get("prompt_token_ids") if choices else None)
        return delta._replace(prompt_ids=ids, opaque=delta.opaque or len(choices) > 1)

    async def continuation(self, server: Server, opening: Opening, kept: Kept, limits: AnswerLimits) -> Call:
        """Append the kept tokens and the exit to the prompt: as tokens if all are known, else as text."""
        prompt: str | list[int]
        forced: Sequence[int] = kept.exit_ids
        if kept.tail or not forced:
            text = kept.tail.decode(errors="replace") + kept.exit_text
            forced = await self.tokenize(server, str(opening.body.get("model")), text) if text else ()
        written = [token.id for token in kept.tokens if token.id is not None]
        if (
            opening.prompt_ids is not None
            and len(written) == len(kept.tokens)
            and (forced or not kept.exit_text)
        ):
            prompt = [*opening.prompt_ids, *written, *forced]
        elif opening.prompt_text is not None:
            prompt = opening.prompt_text + kept.text + kept.exit_text
        else:
            raise UpstreamError("The server did not show the token ids that a continuation needs.")
        own = {
            "prompt": prompt,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": limits.max_tokens,
            "logprobs": limits.logprobs,
            **hurried(self, opening.body),
        }
        body = {**opening.body, **own}
        named = {name: value for name, value in body.items() if value is not None}
        return Call(COMPLETIONS, named, len(forced))

    def read_continuation(self, event: Json) -> Delta:
        """Read one event of the stream that `continuation` asked for."""
        return _read(event)

    async def prompt_end(self, server: Server, opening: Opening) -> str | None:
        """The end of the prompt, if it was given as text."""
        return None if opening.prompt_text is None else opening.prompt_text[-_END:]

    async def tokenize(self, server: Server, model: str, text: str) -> tuple[int, ...]:
        """Token ids of a text in the server's vocabulary; empty when the server does not show them."""
        return await self._dialect.tokenize(server, model, text)

    def clean(self, event: Json, body: Mapping[str, Any]) -> None:
        """Take out of an event what only `watched` asked for."""
        self._dialect.clean(event, body)
        if not body.get("return_token_ids"):
            for choice in event.get("choices") or ():
                choice.pop("prompt_token_ids", None)


def _read(event: Json) -> Delta:
    """Read an event; some servers write log-probabilities as in a chat."""
    choices = event.get("choices")
    content = listed(choices[0]) if choices else None
    if not choices or content is None:
        return read_completion(event)
    text, finish = choices[0].get("text") or "", choices[0].get("finish_reason")
    tokens = entry_tokens(content, choices[0].get("token_ids"), text)
    return Delta(content=text, tokens=said(tokens, text, finish), finish=finish, usage=event.get("usage"))
