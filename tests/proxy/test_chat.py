"""Chats that the proxy watches: exits, one stream out of two, and faults of server and client."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from lynxstop.calibration.tables import read_table
from lynxstop.testing.reasoner import held
from tests.support.servers import eventually, serving
from tests.support.watching import watching

QUESTION = "What is 7 + 5 * 2 - 3?"
BODY: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": QUESTION}]}


def stream(url: str, headers: dict[str, str] | None = None, **more) -> tuple[list[dict], bytes]:
    """All events of a streamed chat, and the raw bytes."""
    with httpx.stream(
        "POST",
        f"{url}/v1/chat/completions",
        json={**BODY, "stream": True, **more},
        headers=headers or {},
        timeout=30,
    ) as answer:
        raw = b"".join(answer.iter_raw())
    found = [
        line[6:]
        for line in raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if line[:6] == b"data: "
    ]
    return [json.loads(data) for data in found if data != b"[DONE]"], raw


def texts(events: list[dict]) -> tuple[str, str]:
    """Thinking and answer."""
    deltas = [choice["delta"] for event in events for choice in event.get("choices") or ()]
    return (
        "".join(delta.get("reasoning") or "" for delta in deltas),
        "".join(delta.get("content") or "" for delta in deltas),
    )


def test_an_exit_closes_the_stream_and_the_answer_is_the_one_held_there(mock, proxy):
    address, server = mock
    full, _ = texts(stream(address)[0])
    server.records.clear()
    # The server writes no faster than a real one, so that what it wrote after the exit can be counted.
    slowly = {"x-mock": "delay=0.02"}
    events, raw = stream(proxy.url, slowly, stream_options={"include_usage": True})
    thinking, content = texts(events)
    assert full.startswith(thinking.rstrip("\n"))
    assert len(thinking) < len(full) / 2
    assert not thinking.rstrip().endswith(("Wait", "Hmm", "Alternatively"))
    assert content == f"\n\nThe answer is \\boxed{{{held(thinking)}}}."
    assert raw.endswith(b"data: [DONE]\n\n")
    assert raw.count(b"[DONE]") == 1
    first, second = server.records
    eventually(lambda: first.outcome == "aborted")
    assert first.tokens <= len(server.vocabulary.encode(thinking)) + 4
    assert second.path == "/v1/completions"


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/chat/completions", "/chat/completions/"])
def test_other_names_of_the_route_are_watched_too(proxy, path):
    answer = httpx.post(proxy.url + path, json=BODY, timeout=30)
    assert answer.json()["lynxstop"]["exit"] == "score"


def test_a_server_whose_paths_begin_otherwise_is_watched_too(mock):
    _, server = mock
    seen = []

    async def below(scope, receive, send):
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            seen.append((scope["path"], scope["query_string"], headers.get(b"api-key")))
            scope = {**scope, "path": scope["path"].removeprefix("/openai")}
            scope["raw_path"] = scope["path"].encode()
        await server(scope, receive, send)

    # As Azure has it: clients use /v1 of the proxy.
    with serving(below) as url, watching(url + "/openai/v1") as proxy:
        asked: dict[str, Any] = {"params": {"api-version": "preview"}, "headers": {"api-key": "theirs"}}
        with httpx.Client(base_url=proxy.url, timeout=30, **asked) as client:
            answer = client.post("/v1/chat/completions", json=BODY)
            relayed = client.get("/v1/models")
    assert answer.json()["lynxstop"]["stopped"]
    assert relayed.status_code == 200
    told = (b"api-version=preview", b"theirs")
    paths = ("/openai/v1/chat/completions", "/openai/v1/completions", "/openai/v1/models")
    assert [one for one in seen if "completions" in one[0] or "models" in one[0]] == [
        (path, *told) for path in paths
    ]


def test_a_path_that_is_not_known_stays_as_it_is(proxy):
    assert httpx.post(f"{proxy.url}/v2/chat/completions", json=BODY).status_code == 404


def test_what_arrives_is_one_answer(proxy):
    events, _ = stream(proxy.url, stream_options={"include_usage": True})
    assert len({event["id"] for event in events}) == 1
    choices = [choice for event in events for choice in event["choices"]]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert not any(choice.get("logprobs") for choice in choices)
    assert not any("token_ids" in choice for choice in choices)
    assert not any("prompt_token_ids" in event for event in events)
    assert sum(bool(event.get("usage")) for event in events) == 1
    usage, report = events[-1]["usage"], events[-1]["lynxstop"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == report["thinking_tokens"]
    assert report["exit"] == "score"
    assert report["stopped"] is True
    assert report["cue"] == 0


def test_usage_counts_the_prompt_once_and_all_that_was_written(mock, proxy):
    address, server = mock
    plain, _ = stream(address, stream_options={"include_usage": True})
    events, _ = stream(proxy.url, stream_options={"include_usage": True})
    assert events[-1]["usage"]["prompt_tokens"] == plain[-1]["usage"]["prompt_tokens"]
    thinking, content = texts(events)
    written = len(server.vocabulary.encode(thinking + "</think>" + content))
    assert abs(events[-1]["usage"]["completion_tokens"] - written) <= 2


def test_without_usage_asked_the_report_is_in_the_finish(proxy):
    events, _ = stream(proxy.url)
    assert not any(event.get("usage") for event in events)
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["lynxstop"]["exit"] == "score"


def test_the_unstopped_stream_is_the_servers_own(mock):
    address, _ = mock
    with watching(address, math.inf) as proxy:
        own, seen = stream(address)[0], stream(proxy.url)[0]
    for event in (*own, *seen):
        event.pop("id"), event.pop("created", None)
    assert seen[-1].pop("lynxstop")["exit"] is None
    assert seen == own


@pytest.mark.parametrize("asked", [None, 0, 3])
def test_log_probabilities_are_those_the_client_asked_for(proxy, asked):
    more = {} if asked is None else {"logprobs": True, "top_logprobs": asked}
    events, _ = stream(proxy.url, **more)
    entries = [
        entry
        for event in events
        for choice in event["choices"]
        for entry in (choice.get("logprobs") or {}).get("content", ())
    ]
    assert bool(entries) is (asked is not None)
    # Forced text has no alternatives.
    assert all(len(entry["top_logprobs"]) in (asked, 0) for entry in entries)
    assert all(entry["top_logprobs"] or not asked or entry["logprob"] == 0 for entry in entries)
    if asked:
        thinking, content = texts(events)
        said = "".join(entry["token"] for entry in entries)
        assert said.startswith(thinking.rstrip("\n"))
        assert said.endswith(content.partition("{")[2])


def test_an_answer_that_is_not_streamed_is_gathered(proxy):
    answer = httpx.post(f"{proxy.url}/v1/chat/completions", json=BODY, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["x-lynxstop-exit"] == "score"
    found = answer.json()
    assert found["object"] == "chat.completion"
    [choice] = found["choices"]
    assert choice["finish_reason"] == "stop"
    assert (
        choice["message"]["content"]
        == f"\n\nThe answer is \\boxed{{{held(choice['message']['reasoning'])}}}."
    )
    assert found["usage"]["completion_tokens"] > 0
    assert found["lynxstop"]["stopped"] is True


def test_the_openai_client_reads_it(proxy):
    client = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0)
    said = ""
    for event in client.chat.completions.create(**BODY, stream=True, extra_body={"lynxstop": {"risk": 0.1}}):
        said += event.choices[0].delta.content or "" if event.choices else ""
    assert "boxed{" in said
    whole = client.chat.completions.create(**BODY)
    assert "boxed{" in whole.choices[0].message.content


@pytest.mark.parametrize(
    ("headers", "body"),
    [({}, {"lynxstop": {"risk": "off"}}), ({"x-lynxstop-risk": "off"}, {})],
)
def test_off_thinks_to_the_end(mock, proxy, headers, body):
    before = proxy.count("lynxstop_passthrough_total", cause="off")
    events, _ = stream(proxy.url, headers, **body)
    assert texts(events) == texts(stream(mock[0])[0])
    assert not any("lynxstop" in event for event in events)
    assert proxy.count("lynxstop_passthrough_total", cause="off") == before + 1


def test_shadow_decides_and_lets_go_on(mock, proxy):
    events, _ = stream(proxy.url, lynxstop={"mode": "shadow"})
    assert texts(events) == texts(stream(mock[0])[0])
    assert events[-1]["lynxstop"]["exit"] == "score"
    assert events[-1]["lynxstop"]["stopped"] is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"risk": 0.3},
        {"risk": "much"},
        {"risk": True},
        {"mode": "go"},
        {"races": 2},
        {"race": 0},
        "off",
        {"group": 3},
    ],
)
def test_a_wrong_wish_is_refused_before_anything_is_asked(mock, proxy, wrong):
    server = mock[1]
    server.records.clear()
    answer = httpx.post(f"{proxy.url}/v1/chat/completions", json={**BODY, "lynxstop": wrong})
    assert answer.status_code == 400
    if wrong == {"risk": 0.3}:
        assert "0.05, 0.1" in answer.json()["error"]["message"]
    assert not server.records


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"n": 17}, "several_choices"),
        ({"functions": [{"name": "f"}]}, "tools"),
        ({"logprobs": True, "logprob_token_ids": [1, 2]}, "alternatives"),
        ({"frequency_penalty": 0.5}, "penalties"),
        ({"messages": "none"}, "malformed"),
    ],
)
def test_what_cannot_be_continued_faithfully_passes_through(proxy, more, cause):
    before = proxy.count("lynxstop_passthrough_total", cause=cause)
    httpx.post(f"{proxy.url}/v1/chat/completions", json={**BODY, **more}, timeout=30)
    assert proxy.count("lynxstop_passthrough_total", cause=cause) == before + 1


def test_a_limit_without_room_for_an_answer_takes_no_exit(mock, proxy):
    tokens = len(mock[1].vocabulary.encode(texts(stream(proxy.url)[0])[0]))
    events, _ = stream(proxy.url, max_tokens=tokens)
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["lynxstop"]["stopped"] is False


def test_the_limit_holds_for_thinking_and_answer_together(mock, proxy):
    events, _ = stream(proxy.url, stream_options={"include_usage": True})
    used = events[-1]["usage"]["completion_tokens"]
    cut, _ = stream(proxy.url, stream_options={"include_usage": True}, max_tokens=used - 1)
    assert cut[-1]["usage"]["completion_tokens"] == used - 1
    assert [c["finish_reason"] for e in cut for c in e["choices"] if c["finish_reason"]] == ["length"]


@pytest.mark.parametrize(
    "settings",
    [
        "split=1",
        "framing=crlf",
        "framing=cr,split=3",
        "framing=mixed,pings=2",
        "tokens_per_event=7",
        "reasoning=reasoning_content",
    ],
)
def test_framing_changes_nothing(proxy, settings):
    def said(events):
        return [
            "".join(str((choice["delta"]).get(name) or "") for event in events for choice in event["choices"])
            for name in ("reasoning", "reasoning_content", "content")
        ]

    plain = said(stream(proxy.url)[0])
    seen = said(stream(proxy.url, {"x-mock": settings})[0])
    assert plain[0] + plain[1] == seen[0] + seen[1]
    assert plain[2] == seen[2]


FAULTS = ["before-headers", "after-headers", "mid-thinking", "mid-answer", "garbage", "error-event"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_server_is_reported_and_never_a_short_answer(mock, fault):
    with watching(mock[0], math.inf) as proxy:
        answer = None
        try:
            with httpx.stream(
                "POST", f"{proxy.url}/v1/chat/completions", json={**BODY, "stream": True},
                headers={"x-mock": f"fault={fault}"}, timeout=30,
            ) as answer:  # fmt: skip
                raw = b"".join(answer.iter_raw())
        except httpx.RemoteProtocolError:
            return
        assert answer.status_code >= 500 or b'"error"' in raw
        assert b'"finish_reason":"stop"' not in raw
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)


@pytest.mark.parametrize("stage", [0, 1, 5, 60])
def test_a_client_that_goes_takes_the_server_with_it(mock, stage):
    address, server = mock
    server.records.clear()
    with watching(address, math.inf) as proxy:
        with httpx.stream(
            "POST", f"{proxy.url}/v1/chat/completions", json={**BODY, "stream": True},
            headers={"x-mock": "delay=0.01,first_delay=0.3" if stage == 0 else "delay=0.01"}, timeout=30,
        ) as answer:  # fmt: skip
            if stage:
                chunks = answer.iter_raw()
                for _ in range(stage):
                    next(chunks)
        eventually(lambda: server.records and server.records[0].outcome == "aborted")
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)


def test_a_client_that_goes_during_the_continuation_ends_it(mock, proxy):
    server = mock[1]
    server.records.clear()
    with httpx.stream(
        "POST", f"{proxy.url}/v1/chat/completions", json={**BODY, "stream": True},
        headers={"x-mock": "delay=0.03"}, timeout=30,
    ) as answer:  # fmt: skip
        for line in answer.iter_lines():
            if "boxed" in line:
                break
    eventually(lambda: len(server.records) == 2 and server.records[1].outcome == "aborted")


def test_a_server_that_refuses_what_we_add_gets_the_clients_own_request(mock, proxy):
    # given a server without log-probabilities, which streams on without them
    events, _ = stream(proxy.url, {"x-mock": "logprobs=false"})
    assert texts(events) == texts(stream(mock[0])[0])
    assert proxy.count("lynxstop_passthrough_total", cause="no_logprobs") >= 1


def test_requests_at_the_same_time_keep_apart(proxy):
    import concurrent.futures

    def ask(number: int) -> tuple[str, str]:
        messages = [{"role": "user", "content": f"What is {number} + 5 * 2 - 3?"}]
        return texts(stream(proxy.url, {"x-mock": "delay=0.002"}, messages=messages)[0])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(2, 34)))
    assert together == [ask(number) for number in range(2, 34)]


@pytest.mark.parametrize("redact", [True, False])
def test_shadow_traffic_becomes_a_score_table(mock, tmp_path, redact):
    address, _ = mock
    counted: list[str] = []
    folder = tmp_path / "shadow"
    options = {"redact": redact, "answer_tokens": 16, "on_done": counted.append}
    # Exits wanted nowhere near: what is decided does not shape what is recorded.
    with watching(address, math.inf, record=(folder, options)) as proxy:
        for number in range(3, 9):
            messages = [{"role": "user", "content": f"What is {number} + 5 * 2 - 3?"}]
            events, _ = stream(proxy.url, messages=messages, lynxstop={"mode": "shadow"})
            assert not events[-1]["lynxstop"]["stopped"]
        eventually(lambda: len(counted) == 6)
    assert counted == ["recorded"] * 6
    table = read_table(folder / "scores.csv")
    assert table.traces == 6
    cues = (folder / "scores.csv").read_text().count("\n") - 1
    assert cues == len(table.scores) > 6
    assert 0 < np.nanmean(table.losses) < 1
    kept = b"".join(path.read_bytes() for path in folder.iterdir())
    assert (b"What is" in kept) is not redact
    assert b"boxed" not in kept
    assert (folder / "scores.csv").stat().st_mode & 0o077 == 0
