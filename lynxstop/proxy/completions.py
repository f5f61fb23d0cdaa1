"""POST /v1/completions: a prompt whose continuation is watched as a chat is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lynxstop.proxy.chat import ChatHandler
from lynxstop.proxy.chat_request import ChatRequest, Frames
from lynxstop.proxy.choices import Document
from lynxstop.proxy.sample import AnswerSource
from lynxstop.proxy.untouched import why_untouched
from lynxstop.remote.chat import Chat
from lynxstop.remote.events import ClientEvent, as_json
from lynxstop.remote.text import (
    COMPLETIONS,
    TextDialect,
    TextRequest,
    leaves_open,
    one_prompt,
    text_of,
)

Json = dict[str, Any]


class CompletionsHandler(ChatHandler):
    """Answers requests for completions.

    A thinking block is open from the start when the prompt leaves one open, so its text has to be known: the
    server is asked for the text of token ids.
    """

    route = path = COMPLETIONS

    async def _untouched(self, request: ChatRequest) -> str | None:
        """Return why a request cannot be watched."""
        if request.service.stream_config is None:
            return "no_bundle"
        body, config = self._alone(request), request.service.stream_config
        if (cause := why_no_text(body, config.exit_text, config.exit_ids)) is not None:
            return cause
        prompt = one_prompt(body)
        assert prompt is not None
        found = await text_of(request.server, str(body.get("model")), prompt)
        request.known["text"] = found
        return "no_text" if found is None else None

    async def _chat(self, request: ChatRequest, body: Mapping[str, Any]) -> Chat:
        """Make the watched continuation of a prompt."""
        service, options = request.service, request.options
        assert service.dialect is not None
        assert service.stream_config is not None
        opened = leaves_open(str(request.known["text"]), service.stream_config.watch.delimiters)
        client_request = TextRequest(
            self._services.with_certified_sampling(body),
            options.risk,
            options.mode,
            options.group,
            options.served,
            service.dialect.facts.completion_limit,
        )
        return Chat(
            request.server,
            TextDialect(service.dialect),
            replace(service.stream_config, opened=opened, opened_by=()),
            client_request,
            lambda done: self._report(done, options),
            self._config.upstream.continuation_tries,
            self._belongs(body),
        )

    def _frames(self, request: ChatRequest, source: AnswerSource) -> Frames:
        """Make what writes a stream as the client reads it."""
        return _Form(request.body)

    def _document(self, request: ChatRequest, source: AnswerSource) -> Document:
        """Make what writes the answer of one choice, for a client that asked for no stream."""
        return _Completion(request.body)


def why_no_text(body: Mapping[str, Any], exit_text: str = "", exit_ids: Collection[int] = ()) -> str | None:
    """Return why a request for completions cannot be watched, or None."""
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)
    causes = {
        "several_prompts": several,
        "malformed": one_prompt(body) is None or not isinstance(body.get("logprobs"), int | None),
        "several_choices": body.get("best_of") not in (None, 1),
        "suffix": bool(body.get("suffix")),
    }
    found = next((cause for cause, present in causes.items() if present), None)
    return found or why_untouched({**body, "messages": []}, exit_text, exit_ids)


class _Form(Frames):
    """Writes events in the form of completions; counts the text for the offsets of log-probabilities."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        client_request = body.get("logprobs")
        self._top = None if client_request is None or client_request is False else int(client_request)
        self._said: dict[int, int] = {}

    def write(self, events: Sequence[ClientEvent]) -> bytes:
        """Write events that go out together."""
        return super().write([self.event(as_json(event)) for event in events])

    def event(self, event: Json) -> Json:
        """Return an event as the client gets it."""
        return {**event, "choices": [self._choice(choice) for choice in event.get("choices") or ()]}

    def _choice(self, choice: Json) -> Json:
        if "delta" not in choice:
            return choice
        text = choice["delta"].get("content") or ""
        kept = {name: value for name, value in choice.items() if name not in ("delta", "logprobs")}
        given = choice.get("logprobs")
        place = choice.get("index", 0)
        logprobs = None
        if self._top is not None and given:
            # What is not in its form goes out without log-probabilities.
            with suppress(AttributeError, LookupError, TypeError, ValueError):
                logprobs = self._logprobs(given, self._top, place)
        self._said[place] = self._said.get(place, 0) + len(text)
        return {**kept, "text": text, "logprobs": logprobs}

    def _logprobs(self, given: Json, top: int, index: int) -> Json:
        """Write log-probabilities, in either form, in that of completions, with so many alternatives."""
        if "content" in given:
            entries = given["content"]
            tokens = [entry["token"] for entry in entries]
            own = [entry["logprob"] for entry in entries]
            tops = [{one["token"]: one["logprob"] for one in entry["top_logprobs"]} for entry in entries]
        else:
            tokens, own = given["tokens"], given["token_logprobs"]
            tops = given.get("top_logprobs") or [{} for _ in tokens]
        offsets, place = [], self._said.get(index, 0)
        for token in tokens:
            offsets.append(place)
            place += len(token)
        shown = [_likeliest(found or {}, top, *pair) for found, *pair in zip(tops, tokens, own, strict=True)]
        return {"text_offset": offsets, "token_logprobs": own, "tokens": tokens, "top_logprobs": shown}


class _Completion:
    """Joins the events of a completion into one answer.

    Parameters
    ----------
    body : dict
        Of the client's request.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._form = _Form(body)
        self._answer: Json = {}
        self._choice: Json = {"index": 0, "text": "", "logprobs": None, "finish_reason": None}

    def add(self, event: Json) -> None:
        """Take in the next event."""
        written, choice = self._form.event(event), self._choice
        self._answer |= {name: value for name, value in written.items() if name != "choices"}
        for part in written.get("choices") or ():
            said, logprobs = choice["text"] + part["text"], _join(choice["logprobs"], part["logprobs"])
            named = {name: value for name, value in part.items() if value is not None}
            choice |= {**named, "text": said, "logprobs": logprobs}

    def whole(self) -> Json:
        """Return the answer, once all events are in."""
        return {**self._answer, "object": "text_completion", "choices": [self._choice]}


def _likeliest(found: Mapping[str, float], top: int, token: str, logprob: float) -> dict[str, float]:
    """Return the likeliest tokens; the token itself is always among them, unless none is asked for."""
    kept = sorted(found.items(), key=lambda pair: -pair[1])[:top]
    return dict(kept) | ({token: logprob} if top else {})


def _join(known: Json | None, more: Json | None) -> Json | None:
    if not known or not more:
        return known or more
    for name, values in more.items():
        known[name] += values
    return known
