"""The first of several samples answers; the others end at once."""

from __future__ import annotations

import json

import httpx
import pytest

from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.serve import build
from tests.support.servers import eventually, proxied

MESSAGES = [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}]
BODY = {"model": "toy", "messages": MESSAGES, "seed": 3}
SLOWLY = {"x-mock": "delay=0.004"}
CHAT = "/v1/chat/completions"


def race(url: str, count: int, path: str = CHAT, headers: dict | None = None, **more) -> httpx.Response:
    body = {**BODY, "lynxstop": {"race": count, **more.pop("lynxstop", {})}, **more}
    return httpx.post(f"{url}{path}", json=body, headers=SLOWLY if headers is None else headers, timeout=60)


def alone(url: str, seed: int) -> dict:
    return httpx.post(f"{url}{CHAT}", json={**BODY, "seed": seed}, timeout=60).json()


@pytest.mark.parametrize("streamed", [False, True])
def test_the_first_to_finish_answers_and_the_rest_end(mock, proxy, streamed):
    address, server = mock
    samples = [alone(address, 3 + place) for place in range(4)]
    lengths = [sample["usage"]["completion_tokens"] for sample in samples]
    assert len(set(lengths)) > 1
    server.records.clear()
    answer = race(proxy.url, 4, lynxstop={"risk": "off"}, stream=streamed)
    if streamed:
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        found = events[-1]
        content = "".join(c["delta"].get("content") or "" for e in events for c in e["choices"])
        assert answer.text.endswith("data: [DONE]\n\n")
    else:
        found = answer.json()
        content = found["choices"][0]["message"]["content"]
        assert json.loads(answer.headers["x-lynxstop-race"]) == found["lynxstop"]["race"]
    report = found["lynxstop"]["race"]
    winner = report["winner"]
    assert lengths[winner] == min(lengths)
    assert content == samples[winner]["choices"][0]["message"]["content"]
    assert report["n"] == len(report["tokens"]) == 4
    assert report["total_tokens"] == sum(report["tokens"])
    eventually(lambda: not any(record.outcome == "active" for record in server.records))
    assert sorted(record.outcome for record in server.records).count("completed") == lengths.count(
        min(lengths)
    )
    assert proxy.count("lynxstop_upstream_aborts_total", cause="lost") >= 1


def test_one_sample_has_the_name_that_the_client_gave(mock, proxy):
    mock[1].records.clear()
    assert race(proxy.url, 3, lynxstop={"risk": "off"}, rid="mine", request_id="mine").status_code == 200
    named = [(record.body.get("rid"), record.body.get("request_id")) for record in mock[1].records]
    assert sorted(named, key=str) == [("mine", "mine"), (None, None), (None, None)]


def test_only_the_winners_usage_is_billed(mock, proxy):
    found = race(proxy.url, 3, lynxstop={"risk": "off"}).json()
    winner = found["lynxstop"]["race"]["winner"]
    assert found["usage"] == alone(mock[0], 3 + winner)["usage"]
    assert found["lynxstop"]["race"]["total_tokens"] > found["usage"]["completion_tokens"]


def test_every_sample_of_a_race_is_watched(mock, proxy):
    found = race(proxy.url, 3).json()
    assert found["lynxstop"]["exit"] == "score"
    assert found["lynxstop"]["race"]["n"] == 3
    assert "boxed" in found["choices"][0]["message"]["content"]


def test_a_race_needs_no_bundle(mock):
    config = ProxyConfig.model_validate({"upstream": {"url": mock[0]}})
    with proxied(mock[0], build(config)) as proxy:
        found = race(proxy.url, 2).json()
        assert found["lynxstop"] == {"race": found["lynxstop"]["race"]}
        assert found["lynxstop"]["race"]["n"] == 2
        tools = [{"type": "function", "function": {"name": "check"}}]
        message = race(proxy.url, 2, tools=tools).json()["choices"][0]["message"]
    assert message["tool_calls"][0]["function"] == {"name": "check", "arguments": "{}"}


@pytest.mark.parametrize("more", [{}, {"lynxstop": {"risk": "off"}}])
@pytest.mark.parametrize("stage", ["first_delay=0.5", "delay=0.02"])
def test_a_client_that_goes_ends_all_samples(mock, proxy, more, stage):
    server = mock[1]
    server.records.clear()
    body = {**BODY, "lynxstop": {"race": 5, **more.get("lynxstop", {})}}
    impatient = httpx.Timeout(20, read=0.2)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{proxy.url}{CHAT}", json=body, headers={"x-mock": stage}, timeout=impatient)
    eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
    eventually(lambda: not any(record.outcome == "active" for record in server.records))
    assert {record.outcome for record in server.records} == {"aborted"}


def test_the_limit_wins_only_when_no_sample_ends_by_itself(mock, proxy):
    lengths = [alone(mock[0], 3 + place)["usage"]["completion_tokens"] for place in range(4)]
    assert min(lengths) < max(lengths)
    off = {"risk": "off"}
    found = race(proxy.url, 4, lynxstop=off, max_tokens=min(lengths)).json()
    assert found["choices"][0]["finish_reason"] == "stop"
    found = race(proxy.url, 4, lynxstop=off, max_tokens=5).json()
    assert found["choices"][0]["finish_reason"] == "length"


def test_a_race_of_failures_fails(mock, proxy):
    answer = race(proxy.url, 3, headers={"x-mock": "fault=before-headers"})
    assert answer.status_code == 502
    answer = race(proxy.url, 3, headers={"x-mock": "fault=status-429"})
    assert answer.status_code == 429


def test_n_and_a_race_exclude_each_other(proxy):
    answer = race(proxy.url, 2, n=2)
    assert answer.status_code == 400
    assert "exclude" in answer.json()["error"]["message"]


def test_completions_race_too(mock, proxy):
    prompt = "<|user|>\nWhat is 7 + 5 * 2 - 3?\n<|assistant|>\n<think>"
    found = race(proxy.url, 3, "/v1/completions", prompt=prompt, max_tokens=2000).json()
    assert found["lynxstop"]["race"]["n"] == 3
    assert "boxed" in found["choices"][0]["text"]
