"""Events of OpenAI's protocol, as most servers write them, read into deltas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lynxstop.errors import UpstreamError
from lynxstop.remote.delta import Delta, Json, reasoning_field
from lynxstop.remote.fast_path import RawLogprobs
from lynxstop.remote.tokens import StreamToken, Top

_UNREADABLE = (AttributeError, LookupError, TypeError, ValueError, UpstreamError)


def listed(choice: Mapping[str, Any]) -> RawLogprobs | Sequence[Mapping[str, Any]] | None:
    """Return the list of log-probabilities of a choice in the form of chats, if it has one."""
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, RawLogprobs):
        return logprobs
    if not isinstance(logprobs, Mapping):
        return None
    found: Sequence[Mapping[str, Any]] | None = logprobs.get("content")
    return found


def chat_tokens(choice: Mapping[str, Any], text: str) -> list[StreamToken]:
    """Tokens of a choice in OpenAI's chat form; ids when the server adds them.

    Parameters
    ----------
    choice : dict
    text : str
        What the choice says: most often the text of its only token.
    """
    return entry_tokens(listed(choice), choice.get("token_ids"), text)


def entry_tokens(
    content: RawLogprobs | Sequence[Mapping[str, Any]] | None,
    ids: Sequence[int] | None = None,
    text: str = "",
) -> list[StreamToken]:
    """Tokens of a list of log-probabilities; `ids` count if there is one for each, else those in the list.

    None where one of them cannot be read.
    """
    try:
        return _of_entries(content, ids, text) if content else []
    except _UNREADABLE:
        return []


def _of_entries(
    content: RawLogprobs | Sequence[Mapping[str, Any]], ids: Sequence[int] | None, text: str
) -> list[StreamToken]:
    if isinstance(content, RawLogprobs):
        if (only := content.only(text, ids)) is not None:
            return [only]
        content = content.parsed()
    named = ids if ids and len(ids) == len(content) else (None,) * len(content)
    return [
        StreamToken(
            _bytes(entry),
            math.nan if entry["logprob"] is None else _number(entry["logprob"]),
            _top(entry.get("top_logprobs")),
            entry.get("id") if number is None else number,
        )
        for entry, number in zip(content, named, strict=True)
    ]


def completion_tokens(choice: Mapping[str, Any]) -> list[StreamToken]:
    """Tokens of a choice in the form of OpenAI's completions; none where one of them cannot be read."""
    try:
        return _of_columns(choice)
    except _UNREADABLE:
        return []


def _of_columns(choice: Mapping[str, Any]) -> list[StreamToken]:
    logprobs = choice.get("logprobs")
    if not logprobs or not logprobs.get("tokens"):
        return []
    texts = logprobs["tokens"]
    own = logprobs.get("token_logprobs") or [None] * len(texts)
    tops = logprobs.get("top_logprobs") or [None] * len(texts)
    ids = choice.get("token_ids") or []
    return [
        StreamToken(
            text.encode(),
            math.nan if logprob is None else _number(logprob),
            Top(list(top), list(map(_number, top.values()))) if top else Top(),
            ids[place] if len(ids) == len(texts) else None,
        )
        for place, (text, logprob, top) in enumerate(zip(texts, own, tops, strict=True))
    ]


def read_chat(event: Json) -> Delta:
    """Read an event of OpenAI's chat stream, whatever its field for thinking is called."""
    choices = event.get("choices")
    if not choices:
        return Delta(usage=event.get("usage"))
    choice = choices[0]
    delta = choice.get("delta") or {}
    field = reasoning_field(delta)
    thinking = "" if field is None else delta[field]
    content, finish, usage = delta.get("content") or "", finish_of(choice), usage_of(event)
    if not isinstance(content, str) or not isinstance(thinking, str):
        # Parts, as some servers write them: they are passed on, and not watched.
        return Delta(finish=finish, usage=usage, opaque=True)
    return Delta(
        thinking,
        content,
        said(chat_tokens(choice, content or thinking), content or thinking, finish),
        finish,
        usage,
        event.get("prompt_token_ids"),
        bool(delta.get("tool_calls") or delta.get("function_call") or delta.get("refusal"))
        or len(choices) > 1,
    )


def read_completion(event: Json) -> Delta:
    """Read an event of OpenAI's completion stream."""
    choices = event.get("choices")
    if not choices:
        return Delta(usage=event.get("usage"))
    choice = choices[0]
    content, finish = choice.get("text") or "", finish_of(choice)
    if not isinstance(content, str):
        return Delta(finish=finish, usage=usage_of(event), opaque=True)
    return Delta(
        content=content,
        tokens=said(completion_tokens(choice), content, finish),
        finish=finish,
        usage=usage_of(event),
    )


def finish_of(choice: Json) -> str | None:
    """Return why a choice ended; the word "null", which some servers write for none, is taken out."""
    if choice.get("finish_reason") == "null":
        choice["finish_reason"] = None
    found: str | None = choice.get("finish_reason")
    return found


def usage_of(event: Json) -> Json | None:
    """Return the usage of an event, or of its choice, where some servers write it."""
    found: Json | None = event.get("usage") or event["choices"][0].get("usage")
    return found


def read_as_answer(event: Json) -> Delta:
    """Read an event of a chat stream that continues after the end of thinking: all text is the answer."""
    delta = read_chat(event)
    return delta._replace(thinking="", content=delta.content or delta.thinking)


def said(tokens: Sequence[StreamToken], text: str, finish: str | None) -> Sequence[StreamToken]:
    """Return the tokens of a last event without those after its text: the end of sequence, or a stop string.

    Parameters
    ----------
    tokens : sequence of StreamToken
        All that the event shows; delimiters among them need not be in the text.
    text : str
        What the event adds to the answer, or to the thinking when there is no answer.
    finish : str or None
        Nothing is taken away unless it is "stop".
    """
    if finish != "stop":
        return tokens
    end = text.encode(errors="replace")
    for count in range(len(tokens) if end else 0, 0, -1):
        if b"".join(token.text for token in tokens[:count]).endswith(end):
            return tokens[:count]
    return tokens if end else ()


def _top(entries: Sequence[Mapping[str, Any]] | None) -> Top:
    if not entries:
        return Top()
    return Top([entry["token"] for entry in entries], [_number(entry["logprob"]) for entry in entries])


def _number(value: Any) -> Any:
    """Return a log-probability; raise TypeError for anything else."""
    if isinstance(value, float | int) and math.isfinite(value):
        return value
    raise TypeError


def _bytes(entry: Mapping[str, Any]) -> bytes:
    found = entry.get("bytes")
    return bytes(found) if found else entry["token"].encode()
