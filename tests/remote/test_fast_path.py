"""Events that are not parsed: decisions, reports and events must be the same as if they were."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.exits import Mode
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL
from lynxstop.remote.chat import Chat
from lynxstop.remote.client_request import ClientRequest
from lynxstop.remote.delta import Delta
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.dialects.llamacpp import LlamaCpp
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.events import Reading, as_json
from lynxstop.remote.fast_path import EventTemplate, RawLogprobs, parse_without_logprobs
from lynxstop.remote.report import report
from lynxstop.remote.stream_config import StreamConfig
from lynxstop.remote.tokens import StreamToken

TEXTS = [
    " so", " so", " so", " so", " the", " 5", " wait", "Wait", "er", "w", "ait", ",", " hmm.", "\n\n", '"',
    "}]}]}", '"top_logprobs":', '","logprobs":{"content":[', "é", "\\", "<think>", "</think>", "\ufffd", "",
    " hold", " on",
]  # fmt: skip


def vllm_event(field: str, text: str, entries: list[Any], ids: list[int]) -> dict[str, Any]:
    choice = {"index": 0, "delta": {field: text}, "logprobs": {"content": entries}, "finish_reason": None}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 17, "model": "m"}
    return {**head, "choices": [{**choice, "token_ids": ids}]}


def llama_event(field: str, text: str, entries: list[Any], ids: list[int]) -> dict[str, Any]:
    named = [{"id": number, **entry} for number, entry in zip(ids, entries, strict=True)]
    choice = {"finish_reason": None, "index": 0, "delta": {field: text}, "logprobs": {"content": named}}
    return {"choices": [choice], "created": 17, "id": "chatcmpl-1", "model": "m"}


def entry(text: str, rank: float) -> dict[str, Any]:
    top = [
        {"token": one, "logprob": -rank * place, "bytes": [1]} for place, one in enumerate((text, "\n", "q"))
    ]
    return {"token": text, "logprob": -rank, "bytes": list(text.encode()), "top_logprobs": top}


class Recorded:
    """A server that streams given events, in bursts of given sizes, and continues with an answer."""

    def __init__(self, events: Sequence[bytes], sizes: Sequence[int] = (1,)) -> None:
        self.events_, self.sizes = events, sizes

    async def call(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return {"tokens": [7, 8], "prompt": "<think>"}

    async def text(self, path: str) -> bytes:
        return b""

    @asynccontextmanager
    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        last = {"index": 0, "text": "x", "delta": {"content": "x"}, "finish_reason": "stop", "logprobs": None}
        end = orjson.dumps(
            {"id": "end", "choices": [last], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
        )
        own = path == "/v1/chat/completions"

        async def bursts() -> AsyncIterator[list[bytes]]:
            left = iter([*(self.events_ if own else ()), end])
            for place in range(len(self.events_) + 1):
                size = self.sizes[place % len(self.sizes)]
                if burst := list(islice(left, size)):
                    yield burst

        yield bursts()


class NoTemplate(EventTemplate):
    """Learns nothing, so that all events are parsed."""

    def learn(self, data: bytes, delta: Delta, shown: Any) -> None:
        pass


def ask(
    events: Sequence[bytes],
    dialect: Dialect,
    config: StreamConfig,
    *,
    parse: bool,
    mode: Mode = Mode.STOP,
    sizes: Any = (1,),
) -> tuple[list[Any], list[Any], Chat]:
    async def run() -> tuple[list[Any], Chat]:
        def reporting(chat: Chat) -> dict[str, Any]:
            taken, thinking = chat.session.session.exit, chat.session.thinking_tokens
            return report(taken, thinking, stopped=chat.stopped, saved_share=0.5, certificate="c")

        body = {"model": "m", "messages": [{"role": "user", "content": "q"}], "stream": True}
        chat = Chat(Recorded(events, sizes), dialect, config, ClientRequest(body, 0.05, mode), reporting)
        if parse:
            chat._template = NoTemplate()
        return [event async for burst in chat.bursts() for event in burst], chat

    given, chat = asyncio.run(run())
    return [as_json(event) for event in given], given, chat


def written(drawn: Sequence[tuple[str, float, bool]], style: Any, field: str) -> list[bytes]:
    first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    found = [orjson.dumps({"id": "chatcmpl-1", "choices": [first], "prompt_token_ids": [1, 2]})]
    for place, (text, rank, split) in enumerate(drawn):
        pieces = [text[:1], text[1:]] if split and len(text) > 1 else [text]
        entries = [entry(piece, rank) for piece in pieces]
        event = style(field, text, entries, [place + 3 + part for part in range(len(pieces))])
        found.append(orjson.dumps(event))
    return found


DRAWN = st.lists(
    st.tuples(st.sampled_from(TEXTS), st.floats(0.01, 6), st.integers(0, 9).map(lambda n: n == 0)),
    min_size=1,
    max_size=90,
)


@given(
    DRAWN,
    st.sampled_from([(vllm_event, Vllm()), (llama_event, LlamaCpp())]),
    st.sampled_from(["reasoning", "reasoning_content", "content"]),
    st.sampled_from([Mode.STOP, Mode.SHADOW]),
    st.floats(-6, 0) | st.just(math.inf),
    st.none() | st.integers(1, 60),
    st.booleans(),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from(["rpdi", "thinkbrake", "loop"]),
    st.sampled_from([{}, {}, {"points": CUE | BOUNDARY}, {"points": CUE | INTERVAL, "every": 7}]),
)
def test_it_makes_no_difference(
    make_config, drawn, kind, field, mode, threshold, budget, before, sizes, rule, points
):
    style, dialect = kind
    if style is llama_event:
        drawn = [(text, rank, False) for text, rank, _ in drawn]
    events = written(drawn, style, field)
    config = make_config(threshold, before=before, rule=rule, budget=budget, **points)
    quick, _, one = ask(events, dialect, config, parse=False, mode=mode, sizes=sizes)
    slow, _, other = ask(events, dialect, config, parse=True, mode=mode)
    assert quick == slow
    assert one.session.session.events == other.session.session.events
    assert one.session.session.exit == other.session.session.exit
    assert one.session.truncation == other.session.truncation
    assert [token.text for token in one.session.tokens] == [token.text for token in other.session.tokens]
    assert [token.id for token in one.session.tokens] == [token.id for token in other.session.tokens]
    assert one.session.thinking == other.session.thinking
    names = ("answer", "upstream_tokens", "read", "blind", "usage", "final_report", "stopped")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]


@pytest.mark.parametrize(("style", "dialect"), [(vllm_event, Vllm()), (llama_event, LlamaCpp())])
@pytest.mark.parametrize("field", ["reasoning", "content"])
def test_plain_events_are_not_parsed(make_config, style, dialect, field):
    drawn = [
        ("<think>" if field == "content" else " so", 1.0, False),
        *[(" so", 1.0, False), (" 5", 2.0, False)] * 50,
    ]
    _, given, _ = ask(written(drawn, style, field), dialect, make_config(), parse=False)
    assert sum(isinstance(event, bytes) for event in given) >= 95


def learnt(event: bytes) -> Iterator[EventTemplate]:
    """A template that has learnt an event."""
    reading, dialect, template = Reading(Vllm().read, whole=False), Vllm(), EventTemplate()
    found = reading.event(event)
    assert found is not None
    shown, delta = found
    dialect.clean(shown, {})
    shown["choices"][0]["logprobs"] = None
    template.learn(event, delta, shown)
    yield template


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event.update(id="chatcmpl-2"),
        lambda event: event.update(created=18),
        lambda event: event.update(usage={"prompt_tokens": 1}),
        lambda event: event["choices"][0].update(finish_reason="stop"),
        lambda event: event["choices"][0].update(stop_reason=3),
        lambda event: event["choices"][0].update(token_ids=[1, 2]),
        lambda event: event["choices"][0].update(token_ids=[]),
        lambda event: event["choices"][0]["delta"].update(role="assistant"),
        lambda event: event["choices"][0]["delta"].update(tool_calls=[{}]),
        lambda event: event["choices"][0]["delta"].update(reasoning=""),
        lambda event: event["choices"][0]["delta"].update(reasoning="\ufffd"),
        lambda event: event["choices"][0]["delta"].update(reasoning=" other"),
        lambda event: event["choices"].append(event["choices"][0]),
        lambda event: event["choices"][0]["logprobs"].update(refusal=None),
    ],
)
def test_what_is_spelled_otherwise_is_parsed(change):
    event = vllm_event("reasoning", " so", [entry(" so", 1.0)], [5])
    [template] = learnt(orjson.dumps(event))
    assert template.match(orjson.dumps(event)) is not None
    change(event)
    assert template.match(orjson.dumps(event)) is None


def test_bytes_that_are_no_json_are_parsed_and_refused():
    event = orjson.dumps(vllm_event("reasoning", " so", [entry(" so", 1.0)], [5]))
    [template] = learnt(event)
    for text in (b"\xff", b"a\nb", b"\x01", b"\\x", b'"'):
        assert template.match(event.replace(b" so", text)) is None


def test_a_clients_own_ids_are_shown_to_it():
    event = vllm_event("reasoning", " so", [entry(" so", 1.0)], [5])
    reading, template = Reading(Vllm().read, whole=False), EventTemplate()
    found = reading.event(orjson.dumps(event))
    assert found is not None
    shown, delta = found
    Vllm().clean(shown, {"return_token_ids": True})
    shown["choices"][0]["logprobs"] = None
    template.learn(orjson.dumps(event), delta, shown)
    assert template.match(orjson.dumps(event)) is None


@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3), st.booleans())
def test_log_probabilities_are_cut_out_of_any_event_or_it_is_left_to_the_parser(texts, spaced):
    entries = [entry(text, 1.0) for text in texts]
    event = vllm_event("reasoning", "".join(texts), entries, list(range(len(texts))))
    data = json.dumps(event).encode() if spaced else orjson.dumps(event)
    found = parse_without_logprobs(data)
    assert found is None or found["choices"][0]["logprobs"].parsed() == entries
    assert (found is None) <= (spaced or "}]}]}" in "".join(texts))
    whole, quick = (Reading(Vllm().read, whole=whole).event(data) for whole in (True, False))
    assert whole is not None
    assert quick is not None
    assert whole[1] == quick[1]


def test_a_token_that_is_not_the_text_is_not_taken_for_it():
    raw = orjson.dumps(entry("a", 1.0))
    assert RawLogprobs(raw).only("b", [3]) is None
    assert RawLogprobs(raw + b"," + raw).only("a", [3]) is None
    assert RawLogprobs(raw).only("a", [3]) == StreamToken(b"a", id=3, entry=raw)
