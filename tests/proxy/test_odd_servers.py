"""Servers that write their streams in odd ways: the client gets what they said, or their own error."""

from __future__ import annotations

import asyncio
import json
import math
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.canned import CHAT, COMPLETIONS, EXIT_BEHIND, EXIT_IDS, chat, continuation
from tests.support.servers import serving
from tests.support.watching import watching

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
ASKED = {"model": "toy", "max_tokens": 500, "messages": [{"role": "user", "content": "?"}]}
THOUGHT, ANSWER = "n1. (Wait, no.", "1}}."
EVENTS = b"text/event-stream"

Json = dict[str, Any]
Change = Callable[[list[Json]], list[Any]]


class Server:
    """Streams a chat, and its continuation, as a test writes them; texts go out as they are."""

    def __init__(self, change: Change, path: str = CHAT, *, status: int = 200, **headers: str) -> None:
        self.change, self.path, self.status = change, path, status
        self.headers = {"content-type": "text/event-stream"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        self.pack: Callable[[bytes], bytes] = lambda body: body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        path = scope["path"]
        status, headers, content = 200, {"content-type": "application/json"}, b"{}"
        if path == "/tokenize":
            content = json.dumps({"tokens": EXIT_IDS}).encode()
        elif path not in (CHAT, COMPLETIONS):
            status = 404
        else:
            events: list[Any] = chat("1") if path == CHAT else continuation("1", json.loads(body))
            headers = {"content-type": "text/event-stream"}
            if path == self.path:
                events, status, headers = self.change(events), self.status, self.headers
            done = [b"data: [DONE]\n\n"] if events and isinstance(events[-1], dict) else []
            content = b"".join([*map(framed, events), *done])
            content = self.pack(content) if path == self.path else content
        given = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": given})
        await send({"type": "http.response.body", "body": content})


def framed(event: Any) -> bytes:
    return event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n"


def each(change: Callable[[Json], Any]) -> Change:
    """Change every choice in place."""

    def changed(events: list[Json]) -> list[Any]:
        for event in events:
            for choice in event["choices"]:
                change(choice)
        return events

    return changed


def entry(**values: Any) -> Change:
    """Set keys of every entry of the log-probabilities."""
    return each(
        lambda choice: [one.update(values) for one in (choice.get("logprobs") or {"content": ()})["content"]]
    )


def put(place: int, frame: Any) -> Change:
    return lambda events: [*events[:place], frame, *events[place:]]


def ask(
    server: Server, threshold: float = math.inf, path: str = CHAT, **more: Any
) -> tuple[httpx.Response, Callable[..., float]]:
    with serving(server) as url, watching(url, threshold) as proxy:
        answer = httpx.post(proxy.url + path, json={**ASKED, **more}, timeout=30)
        assert proxy.count("lynxstop_requests_total", route=path, outcome="failed") == 0
        return answer, proxy.count


def message_of(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]


def events_of(answer: httpx.Response) -> list[Any]:
    frames = answer.content.split(b"\n\n")
    return [json.loads(data) for frame in frames if (data := frame.partition(b"data: ")[2])[:1] == b"{"]


NAN = [{"token": "a", "logprob": math.nan}, {"token": "b", "logprob": -math.inf}]
NULL = [{"token": "a", "logprob": None}, {"token": "b", "logprob": None}]
UNREADABLE = {
    "not a number": entry(top_logprobs=NAN),
    "null among the likely": entry(top_logprobs=NULL),
    "null in their place": entry(top_logprobs=None),
    "text": entry(logprob="-0.5"),
    "no token": entry(token=None),
    "no bytes": entry(bytes=[300]),
    "an empty entry": each(lambda choice: choice.update(logprobs={"content": [None]})),
    "a list": each(lambda choice: choice.update(logprobs=[{"token": "a"}])),
}


@pytest.mark.parametrize("logprobs", [True, False])
@pytest.mark.parametrize("name", UNREADABLE)
def test_log_probabilities_that_cannot_be_read_stop_nothing_and_lose_nothing(
    name: str, logprobs: bool
) -> None:
    more: Json = {"logprobs": True, "top_logprobs": 1} if logprobs else {}
    answer, _ = ask(Server(UNREADABLE[name]), -math.inf, **more)
    said = message_of(answer)
    assert (said["reasoning"], said["content"]) == (THOUGHT.format(), "1}.")
    assert answer.json()["lynxstop"]["stopped"] is False


HARMLESS = {
    "empty data": put(3, b"data:\n\n"),
    "blank data": put(3, b"data: \n\n"),
    "a named sign of life": put(3, b"event: ping\ndata: still here\n\n"),
    "a blank after the end": lambda events: [*events, b"data: [DONE] \n\n"],
    "blanks before the end": lambda events: [*events, b"data:  [DONE]\n\n"],
    "usage of text": lambda events: [*events[:-1], {"choices": [], "usage": {"prompt_tokens": "3"}}],
    "a list as usage": lambda events: [*events[:-1], {"choices": [], "usage": [1]}],
    "null as the word": each(lambda choice: choice.setdefault("finish_reason", "null")),
    "a reason in every event": each(lambda choice: choice.update(finish_reason="stop")),
    "a reason and text, and the reason": lambda events: [
        *events[:-3],
        {"choices": [{**events[-3]["choices"][0], "finish_reason": "stop"}]},
        *events[-2:],
    ],
    "no id": lambda events: [{**event, "id": None} for event in events],
    "null": put(3, b"data: null\n\n"),
    "an empty list": put(3, b"data: []\n\n"),
    "a number": put(3, b"data: 5\n\n"),
    "a choice of null": put(3, {"choices": [None]}),
    "choices of another kind": put(3, {"choices": "none"}),
    "null beside a choice": lambda events: [
        {**event, "choices": [*event["choices"], None] if event["choices"] else []} for event in events
    ],
    "a number as text": lambda events: [*events[:6], in_number(events[6]), *events[7:]],
    "a text in place of a delta": lambda events: [*events[:6], in_text(events[6]), *events[7:]],
    "a message of null": each(lambda choice: choice.update(message=None)),
    "a message beside the delta": each(lambda choice: choice.update(message={"content": ""})),
    "an error of null": lambda events: [{**event, "error": None} for event in events],
    "an error of null alone": put(0, {"choices": [], "error": None}),
    "an end that is cut": lambda events: [*events, b"data: [DO"],
    "an event cut after the end": lambda events: [*events, b'data: {"choices": [], "us'],
    "no JSON after the end": lambda events: [*events, b"data: [DONE]\n\ndata: bye\n\n"],
}


def in_number(event: Json) -> Json:
    """Write the first text of the answer as a number."""
    [choice] = event["choices"]
    return {**event, "choices": [{**choice, "delta": {"content": int(choice["delta"]["content"])}}]}


def in_text(event: Json) -> Json:
    [choice] = event["choices"]
    return {**event, "choices": [{**choice, "delta": choice["delta"]["content"]}]}


@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
@pytest.mark.parametrize("name", HARMLESS)
def test_oddities_that_say_nothing_change_nothing(name: str, threshold: float) -> None:
    plain, _ = ask(Server(lambda events: events), threshold)
    odd, _ = ask(Server(HARMLESS[name]), threshold)
    want, got = message_of(plain), message_of(odd)
    assert got == want
    assert odd.json()["choices"][0]["finish_reason"] == "stop"
    streamed, _ = ask(Server(HARMLESS[name]), threshold, stream=True)
    parts = [event["choices"][0]["delta"] for event in events_of(streamed) if event.get("choices")]
    assert "".join(part.get("reasoning") or "" for part in parts) == want["reasoning"]
    assert "".join(part.get("content") or "" for part in parts) == want["content"]
    assert streamed.content.endswith(b"data: [DONE]\n\n")
    # Usage is only for those who ask for it.
    assert all(event["choices"] and not event.get("usage") for event in events_of(streamed))


@pytest.mark.parametrize("name", ["null", "a choice of null", "a number as text", "an error of null alone"])
def test_oddities_change_nothing_in_other_protocols(name: str) -> None:
    answer, _ = ask(Server(HARMLESS[name]), path=MESSAGES, thinking={"type": "adaptive"})
    assert [block.get("thinking") or block["text"] for block in answer.json()["content"]] == [THOUGHT, "1}."]


def test_thinking_in_numbers_is_watched() -> None:
    def numbers(events: list[Json]) -> list[Any]:
        [choice] = events[1]["choices"]
        choice["delta"], [one] = {"reasoning": 7}, choice["logprobs"]["content"]
        one["token"] = "7"
        return events

    answer, _ = ask(Server(numbers), -math.inf)
    assert message_of(answer)["reasoning"].startswith("7 (")
    assert answer.json()["lynxstop"]["stopped"]


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_is_text_in_other_protocols(path: str, stream: bool) -> None:
    refused = {"id": "c1", "choices": [{"index": 0, "delta": {"refusal": "I cannot."}}]}
    more: Json = {"input": "?", "messages": None, "max_tokens": None} if path == RESPONSES else {}
    answer, _ = ask(
        Server(lambda events: [*events[:6], refused, *events[-2:]]), path=path, stream=stream, **more
    )
    assert answer.status_code == 200
    assert b'"text":"I cannot."' in answer.content


@pytest.mark.parametrize(("path", "kind"), [(MESSAGES, "tool_use"), (RESPONSES, "function_call")])
def test_a_call_of_the_older_kind_is_one_in_other_protocols(path: str, kind: str) -> None:
    own = [
        {"id": "c1", "choices": [{"index": 0, "delta": {"function_call": said}}]}
        for said in ({"name": "f", "arguments": ""}, {"arguments": "{}"})
    ]
    more: Json = {"input": "?", "messages": None, "max_tokens": None} if path == RESPONSES else {}
    answer, _ = ask(Server(lambda events: [*events[:6], *own, *events[-2:]]), path=path, **more)
    [called] = [
        part for part in answer.json().get("content") or answer.json()["output"] if part["type"] == kind
    ]
    assert (called["name"], called.get("input", {})) == ("f", {})


def test_a_continuation_with_a_reason_in_every_event_is_whole() -> None:
    ending = each(lambda choice: choice.update(finish_reason="stop"))
    answer, _ = ask(Server(ending, COMPLETIONS), -math.inf)
    assert message_of(answer)["content"] == EXIT_BEHIND + "1}."


def test_a_character_split_into_halves_of_a_pair_arrives_whole() -> None:
    def halves(events: list[Json]) -> list[Any]:
        first, second = events[6]["choices"][0], events[7]["choices"][0]
        first["delta"]["content"], second["delta"]["content"] = "\ud83d", "\ude42"
        return events

    for path, place in ((CHAT, "choices"), (MESSAGES, "content"), (RESPONSES, "output")):
        more: Json = {"input": "?", "messages": None, "max_tokens": None} if path == RESPONSES else {}
        answer, _ = ask(Server(halves), path=path, **more)
        assert "🙂" in json.dumps(answer.json()[place], ensure_ascii=False).encode(
            "utf-16", "surrogatepass"
        ).decode("utf-16")


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_an_answer_without_a_reason_to_finish_has_ended_all_the_same(path: str) -> None:
    more: Json = {"input": "?", "messages": None, "max_tokens": None} if path == RESPONSES else {}
    answer, _ = ask(Server(lambda events: [*events[:-2], events[-1]]), path=path, **more)
    assert answer.status_code == 200
    assert answer.json().get("stop_reason", answer.json().get("status")) in ("end_turn", "completed")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_an_answer_without_a_reason_to_finish_has_its_report(path: str) -> None:
    def unfinished(events: list[Json]) -> list[Any]:
        return [*events[:-2], b"data: [DONE]\n\n"]

    threshold = math.inf if path == CHAT else -math.inf
    answer, count = ask(Server(unfinished, path), threshold, stream=True)
    *_, last = events_of(answer)
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}]
    assert last["lynxstop"]["stopped"] is (path == COMPLETIONS)
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert count("lynxstop_continuations_total", outcome="broken") == 0


def parts(choice: Json) -> None:
    said = choice["delta"]
    if thought := said.pop("reasoning", None):
        said["content"] = [{"type": "thinking", "thinking": [{"type": "text", "text": thought}]}]


def details(choice: Json) -> None:
    if thought := choice["delta"].pop("reasoning", None):
        choice["delta"]["reasoning_details"] = [{"type": "reasoning.text", "text": thought}]


@pytest.mark.parametrize("write", [parts, details])
def test_thinking_in_parts_is_thinking_on_the_other_routes(write: Callable[[Json], None]) -> None:
    answer, _ = ask(Server(each(write)), path=MESSAGES, thinking={"type": "adaptive"})
    thinking, text = answer.json()["content"]
    assert (thinking["thinking"], text["text"]) == (THOUGHT, "1}.")
    answer, _ = ask(Server(each(write)), path=RESPONSES, input="?", messages=None, max_tokens=None)
    assert [item["content"][0]["text"] for item in answer.json()["output"]] == [THOUGHT, "1}."]


def test_thinking_in_parts_before_an_answer_of_text_is_kept() -> None:
    answer, _ = ask(Server(each(parts)))
    content = message_of(answer)["content"]
    assert "".join(part["thinking"][0]["text"] for part in content if part["type"] == "thinking") == THOUGHT
    assert "".join(part["text"] for part in content if part["type"] == "text") == "1}."


CALLS = {
    "arguments of null": (
        [{"index": 0, "id": "a", "function": {"name": "f", "arguments": None}}],
        [{"index": 0, "function": {"arguments": "{}"}}],
        [{"index": 0, "function": None}],
    ),
    "an id in every piece": (
        [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}],
        [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "}"}}],
    ),
    "an object": ([{"index": 0, "id": "a", "function": {"name": "f", "arguments": {}}}], [None]),
}


def calling(*pieces: Any) -> Change:
    def called(events: list[Json]) -> list[Any]:
        own = [{"id": "c1", "choices": [{"index": 0, "delta": {"tool_calls": piece}}]} for piece in pieces]
        return [*events[:6], *own, *events[-2:]]

    return called


@pytest.mark.parametrize("name", CALLS)
def test_pieces_of_a_call_make_one_call(name: str) -> None:
    [call] = message_of(ask(Server(calling(*CALLS[name])))[0])["tool_calls"]
    assert (call["id"], call["function"]["name"]) == ("a", "f")
    assert call["function"]["arguments"] in ("{}", {})
    answer, _ = ask(Server(calling(*CALLS[name])), path=MESSAGES)
    used = [block for block in answer.json()["content"] if block["type"] == "tool_use"]
    assert [(block["id"], block["name"], block["input"]) for block in used] == [("a", "f", {})]


@pytest.mark.parametrize("reason", ["tool_calls", "function_call"])
def test_a_blank_after_a_call_is_no_answer(reason: str) -> None:
    def blank(events: list[Json]) -> list[Any]:
        called = calling([{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}])(events)
        called[-2]["choices"][0]["finish_reason"] = reason
        return [*called[:-2], {"choices": [{"index": 0, "delta": {"content": "\n"}}]}, *called[-2:]]

    assert ask(Server(blank), path=MESSAGES)[0].json()["stop_reason"] == "tool_use"


def test_two_calls_at_one_place_are_two() -> None:
    pieces = [[{"id": name, "function": {"name": name, "arguments": "{}"}}] for name in "ab"]
    calls = message_of(ask(Server(calling(*pieces)))[0])["tool_calls"]
    assert [(call["id"], call["function"]["arguments"]) for call in calls] == [("a", "{}"), ("b", "{}")]


def test_a_call_of_the_older_kind_is_whole() -> None:
    pieces = ({"name": "f", "arguments": ""}, {"arguments": '{"a"'}, {"arguments": ":1}"})

    def called(events: list[Json]) -> list[Any]:
        own = [{"choices": [{"index": 0, "delta": {"function_call": piece}}]} for piece in pieces]
        return [*events[:6], *own, *events[-2:]]

    said = message_of(ask(Server(called))[0])
    assert said["function_call"] == {"name": "f", "arguments": '{"a":1}'}


def test_an_empty_role_is_none() -> None:
    answer, _ = ask(Server(each(lambda choice: choice["delta"].update(role=""))))
    assert message_of(answer)["role"] == "assistant"


WHOLE = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]
}


def test_a_document_called_a_stream_goes_through_as_it_is() -> None:
    answer, count = ask(Server(lambda events: [json.dumps(WHOLE).encode()]))
    assert answer.json() == WHOLE
    assert count("lynxstop_passthrough_total", cause="refused_200") == 1


def test_lines_called_a_stream_of_events_are_read() -> None:
    answer, _ = ask(
        Server(lambda events: [json.dumps(event).encode() + b"\n" for event in events]), -math.inf
    )
    assert answer.json()["lynxstop"]["stopped"]


@pytest.mark.parametrize("status", [201, 203])
def test_any_status_of_success_is_one(status: int) -> None:
    answer, _ = ask(Server(lambda events: events, status=status), -math.inf)
    assert message_of(answer)["content"] == EXIT_BEHIND + "1}."


def test_deflate_without_its_header_is_unpacked() -> None:
    def bare(body: bytes) -> bytes:
        packer = zlib.compressobj(wbits=-15)
        return packer.compress(body) + packer.flush()

    server = Server(lambda events: events, content_encoding="deflate")
    server.pack = bare
    assert message_of(ask(server, -math.inf)[0])["content"] == EXIT_BEHIND + "1}."


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("usage", [True, False])
def test_what_a_server_says_beside_the_choices_arrives(stream: bool, usage: bool) -> None:
    def beside(events: list[Json]) -> list[Any]:
        first: Json = {"id": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
        news = {"status": "queued"}
        return [news, first, *events[:-1], {**events[-1], "timings": {"predicted_n": 8}}]

    more: Json = {"stream_options": {"include_usage": True}} if stream and usage else {}
    answer, _ = ask(Server(beside), stream=stream, **more)
    found = events_of(answer)[-1] if stream else answer.json()
    assert found["timings"] == {"predicted_n": 8}
    assert found["prompt_filter_results"] == [{"prompt_index": 0}]
    assert found["id"] == "c1"
    assert "status" not in found


@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
def test_the_prompt_is_shown_to_those_who_ask_for_it(threshold: float) -> None:
    def shown(events: list[Json]) -> list[Any]:
        return [{**events[0], "prompt_text": "<user>?"}, *events[1:]]

    found = [ask(Server(shown), threshold, return_prompt_text=asked)[0].json() for asked in (True, False)]
    assert found[0]["prompt_text"] == "<user>?"
    assert "prompt_text" not in found[1]


class Lingering(Server):
    """Keeps the connection open after the end of a stream, until the other side closes it."""

    def __init__(self) -> None:
        super().__init__(lambda events: events)
        self.left = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def open_ended(message: Any) -> None:
            ends = message["type"] == "http.response.body" and b"[DONE]" in message["body"]
            await send({**message, "more_body": ends})
            while ends:
                ends = (await receive())["type"] != "http.disconnect"
                self.left += not ends

        await super().__call__(scope, receive, open_ended)


@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
def test_an_answer_ends_with_its_last_event_though_the_connection_stays_open(threshold: float) -> None:
    server = Lingering()
    answer, count = ask(server, threshold)
    assert message_of(answer)["content"].endswith("1}.")
    # The stream that an exit cuts is one that is broken off, and one that has ended is not.
    cut = threshold < 0
    assert server.left == 1 + cut
    assert count("lynxstop_upstream_aborts_total", cause="closed") == cut


class Packing:
    """Streams in a coding that nobody asked for, one event every 10 ms, until the other side is gone."""

    def __init__(self, coding: str, events: int) -> None:
        self.coding, self.events = coding.encode(), events
        self.asked: list[Json] = []
        self.written = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = json.loads((await receive()).get("body") or b"{}")
        headers = [(b"content-type", b"application/json")]
        content = json.dumps({"tokens": EXIT_IDS}).encode()
        if scope["path"] == CHAT:
            self.asked.append(body)
            headers = [(b"content-type", EVENTS), (b"content-encoding", self.coding)]
            content = b"packed"
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        watched = scope["path"] == CHAT and "return_token_ids" in body
        gone = asyncio.ensure_future(receive())
        for _ in range(self.events if watched else 0):
            await send({"type": "http.response.body", "body": b"packed", "more_body": True})
            self.written += 1
            if (await asyncio.wait((gone,), timeout=0.01))[0]:
                return
        gone.cancel()
        await send({"type": "http.response.body", "body": content})


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br"])
def test_an_answer_in_a_coding_that_we_cannot_read_is_generated_once(coding: str, stream: bool) -> None:
    server = Packing(coding, 500)
    with serving(server) as url, watching(url) as proxy:
        body = {**ASKED, "stream": stream}
        with httpx.stream("POST", proxy.url + CHAT, json=body, timeout=60) as answer:
            raw = b"".join(answer.iter_raw())
        assert proxy.count("lynxstop_passthrough_total", cause="refused_200") == 1
    # The client gets what its own request is answered with; the first was ended as it began.
    assert (raw, answer.headers["content-encoding"]) == (b"packed", coding)
    assert server.asked[1:] == [body]
    assert server.written < 100


ERRORS = [
    {"statusCode": 429, "message": "Too many."},
    {"errors": [{"message": "Too many.", "code": 429}]},
    {"error": True, "message": "Too many.", "code": 429},
    {"error": {"error": {"message": "Too many.", "code": 429}}},
    {"error": {"msg": "Too many.", "code": 429}},
    {"error": "Too many.", "code": 429},
    {"error_code": 429, "error_msg": "Too many."},
    [{"error": {"message": "Too many.", "code": 429}}],
    {
        "choices": [
            {
                "index": 0,
                "delta": {},
                "finish_reason": "error",
                "error": {"message": "Too many.", "code": 429},
            }
        ]
    },
]


@pytest.mark.parametrize("error", ERRORS)
def test_the_words_of_an_error_arrive_however_they_are_written(error: Any) -> None:
    first, _ = ask(Server(lambda events: [framed(error)]))
    assert (first.status_code, first.json()["error"]["message"]) == (429, "Too many.")
    later, _ = ask(Server(lambda events: [*events[:5], framed(error)]), path=MESSAGES, stream=True)
    assert events_of(later)[-1]["error"] == {"type": "rate_limit_error", "message": "Too many."}


def test_an_error_by_the_name_of_its_code_is_one() -> None:
    error = {"code": "Throttling", "message": "Too many.", "request_id": "r"}
    first, _ = ask(Server(lambda events: [framed(error)]))
    said = first.json()["error"]
    assert (first.status_code, said["message"], said["code"]) == (502, "Too many.", "Throttling")
    news = put(0, {"code": "200", "message": "queued"})
    assert message_of(ask(Server(news))[0])["content"] == "1}."


def test_an_error_without_a_stream_is_the_servers_own() -> None:
    answer, _ = ask(Server(lambda events: [b'{"error": {"message": "Too many.", "code": 429}}']))
    assert answer.json()["error"]["message"] == "Too many."
