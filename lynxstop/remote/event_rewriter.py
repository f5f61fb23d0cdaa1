"""Rewrite the events of an answer: clean those of the server, and write our own in the same style."""

from __future__ import annotations

from collections.abc import Sequence

from lynxstop.remote.client_request import ClientRequest
from lynxstop.remote.delta import Delta, Json, reasoning_field
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.events import ClientEvent, as_json
from lynxstop.remote.thinking_splitter import split_at_close
from lynxstop.remote.tokens import StreamToken

_NAMES = ("id", "object", "created", "model", "system_fingerprint")
_STOPPED_BY = ("stop_reason", "matched_stop")
"""Keys of a choice that name the stop string or token that ended it, of vLLM and of SGLang."""
_OF_EVERY_EVENT = frozenset({*_NAMES, "choices", "usage"})


class EventRewriter:
    """Rewrites the events of one answer.

    Parameters
    ----------
    dialect : Dialect
    client_request : ClientRequest

    Attributes
    ----------
    base : dict
        Keys that all events of the answer share.
    field : str or None
        Field in which the server sends thinking; None before the first thinking, and without a parser.
    finish : dict or None
        The event with the finish reason.
    beside : dict
        What events without choices said beside usage, such as llama.cpp's `timings`.
    """

    def __init__(self, dialect: Dialect, client_request: ClientRequest) -> None:
        self._dialect, self._client_request = dialect, client_request
        self.base: Json = {}
        self.field: str | None = None
        self.finish: Json | None = None
        self.beside: Json = {}
        self._reason: str | None = None

    def learn(self, event: Json, delta: Delta) -> None:
        """Learn the common keys, the field for thinking, and what is said beside the choices."""
        if "choices" in event and not event["choices"]:
            self._dialect.clean(event, self._client_request.body)
            said = {name: value for name, value in event.items() if value is not None}
            self.beside |= {name: said[name] for name in said.keys() - _OF_EVERY_EVENT}
        for name in _NAMES:
            if name in event and not self.base.get(name):
                self.base[name] = event[name]
        if delta.thinking and self.field is None:
            self.field = reasoning_field(event["choices"][0]["delta"])

    def split(self, text: str, close: Sequence[str]) -> list[tuple[str, bool]]:
        """Split an exit text into pieces of thinking, marked True, and pieces of the answer.

        A server that has a field for thinking does not write the delimiter: it is left out then.
        """
        found = None if self.field is None else split_at_close(text, close)
        return [(text, True)] if found is None else [(found[0], True), (found[1], False)]

    def shown(self, event: ClientEvent) -> ClientEvent | None:
        """Return an event of the server as the client gets it.

        None when only the proxy asked for it, and for the one with the finish reason: see `in_order`.
        """
        if isinstance(event, bytes):
            return event if self.finish is None else self.in_order(as_json(event))
        choices = event.get("choices")
        if not choices:
            return None
        self._dialect.clean(event, self._client_request.body)
        wanted = self._client_request.logprobs
        for choice in choices:
            if wanted is None:
                if "logprobs" in choice:
                    choice["logprobs"] = None
            else:
                for entry in entries_of(choice):
                    entry["top_logprobs"] = (entry.get("top_logprobs") or [])[:wanted]
        if event.get("usage"):
            event["usage"] = None
        return self.in_order(event)

    def in_order(self, event: Json) -> Json | None:
        """Return an event that goes out now; the one with the finish reason waits in `finish` for the end.

        If another follows it after all, that one waits in its place, and has the reason.
        """
        [choice, *_] = event["choices"]
        if self.finish is None:
            if not choice.get("finish_reason"):
                return event
            self.finish = event
            return None
        before = self.unfinished()
        self.finish = event
        if before is not None and not choice.get("finish_reason"):
            choice["finish_reason"] = self._reason
        return before if before is not None and _says(before) else None

    def unfinished(self) -> Json | None:
        """Return the event that waits, its reason taken away, as one that is not the last; None for none."""
        event, self.finish = self.finish, None
        if event is not None:
            self._reason = event["choices"][0].get("finish_reason")
            event["choices"][0]["finish_reason"] = None
        return event

    def forced(self, text: str, *, thinking: bool) -> Json:
        """Return an event of text that was forced, its log-probability 0 and without alternatives."""
        return self.said(text, thinking=thinking, delta=Delta(tokens=(StreamToken(text.encode(), 0.0),)))

    def relayed(self, event: Json) -> Json | None:
        """Return an event of the server's second chat as part of the first one's answer; see `shown`.

        None also for one that only names the role, which the client knows.
        """
        for choice in event.get("choices") or ():
            said = choice.get("delta") or {}
            said.pop("role", None)
            if not any(said.values()) and not choice.get("finish_reason"):
                return None
        given = self.shown(event)
        if self.finish is event:
            self.finish = {**event, **self.base}
        return None if given is None else {**as_json(given), **self.base}

    def said(
        self,
        text: str,
        *,
        thinking: bool,
        delta: Delta | None = None,
        event: Json | None = None,
    ) -> Json:
        """Return an event of our own, in the style of the server.

        Parameters
        ----------
        text : str
        thinking : bool
        delta : Delta, optional
            Of the server's event that it replaces: its finish reason and its tokens.
        event : dict, optional
            That event itself.
        """
        where = self.field if thinking and self.field is not None else "content"
        said: Json = {"index": 0, "delta": {where: text} if text else {}, "logprobs": None}
        said["finish_reason"] = None if delta is None else delta.finish
        for choice in (event or {}).get("choices") or ():
            said |= {name: choice[name] for name in _STOPPED_BY if name in choice}
        if self._client_request.logprobs is not None and delta is not None and delta.tokens:
            said["logprobs"] = {
                "content": [_entry(token, self._client_request.logprobs) for token in delta.tokens]
            }
        return {**self.base, "choices": [said]}


def entries_of(choice: Json) -> list[Json]:
    """Return the log-probabilities of a choice in the form of chats, as far as they have it."""
    logprobs = choice.get("logprobs")
    found = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _says(event: Json) -> bool:
    said = event["choices"][0].get("delta")
    return isinstance(said, dict) and any(value for name, value in said.items() if name != "role")


def _entry(token: StreamToken, top: int) -> Json:
    shown = [(token.text, token.logprob)]
    shown += [(text.encode(), value) for text, value in zip(*token.top, strict=True)][:top]
    entries = [
        {"token": text.decode(errors="replace"), "logprob": value, "bytes": list(text)}
        for text, value in shown
    ]
    return {**entries[0], "top_logprobs": entries[1:]}
