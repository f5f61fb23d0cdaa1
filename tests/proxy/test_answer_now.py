"""Answer now: a running request's thinking is ended by its id, at its next token, without a certificate."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lynxstop.testing.reasoner import held
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.proxy.test_tools import BODY, FORM, joined
from tests.support.canned import CHAT
from tests.support.servers import Proxied, eventually, serving
from tests.support.watching import watching

SLOWLY = {"x-mock": "delay=0.02"}


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxied]:
    with serving(MockServer(MockSettings(opened=True))) as url, watching(url, math.inf) as made:
        yield made


class Asked(threading.Thread):
    """A streamed chat, read beside the test."""

    def __init__(self, proxy: Proxied, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(daemon=True)
        self.url, self.headers = proxy.url + CHAT, {**SLOWLY, **(headers or {})}
        self.body = {**BODY, "stream": True, "stream_options": {"include_usage": True}, **more}
        self.events: list[dict[str, Any]] = []
        self.id = ""
        self.start()

    def run(self) -> None:
        """Read the stream to its end."""
        with httpx.stream("POST", self.url, json=self.body, headers=self.headers, timeout=60) as answer:
            self.id = answer.headers["x-lynxstop-request"]
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    self.events.append(json.loads(line[6:]))


def listed(proxy: Proxied) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{proxy.url}/lynxstop/requests").json()["requests"]
    return found


def exits(proxy: Proxied) -> float:
    found = httpx.get(f"{proxy.url}/lynxstop/status").json()["exits"]["by_reason"]
    return float(found.get("answer_now", 0))


def answer_now(proxy: Proxied, id: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{proxy.url}/lynxstop/requests/{id}/answer", **more)


def test_the_thinking_of_a_running_request_is_ended(proxy: Proxied) -> None:
    counted = exits(proxy)
    asked = Asked(proxy)
    eventually(lambda: [one for one in listed(proxy) if one["thinking_tokens"] > 5])
    [shown] = listed(proxy)
    assert (shown["state"], shown["model"], shown["route"], shown["mode"]) == (
        "thinking",
        "toy",
        CHAT,
        "stop",
    )
    assert BODY["messages"][0]["content"] not in json.dumps(shown)
    answer = answer_now(proxy, shown["id"])
    assert (answer.status_code, answer.json()) == (202, {"id": asked.id, "state": "asked"})
    asked.join()
    report, thinking = asked.events[-1]["lynxstop"], joined(asked.events, "reasoning")
    assert (report["exit"], report["stopped"], report["certificate"]) == ("answer_now", True, None)
    assert report["score"] is None
    assert joined(asked.events, "content") == f"\n\nThe answer is \\boxed{{{held(thinking)}}}."
    assert not thinking.rstrip().endswith("I am sure now.")
    usage = asked.events[-1]["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == report["thinking_tokens"]
    # The client may see the end before the proxy has counted.
    eventually(lambda: exits(proxy) == counted + 1)
    eventually(lambda: listed(proxy) == [])


def test_a_form_holds_then_too(proxy: Proxied) -> None:
    asked = Asked(proxy, response_format=FORM)
    eventually(lambda: [one for one in listed(proxy) if one["thinking_tokens"] > 30])
    assert answer_now(proxy, listed(proxy)[0]["id"]).status_code == 202
    asked.join()
    assert asked.events[-1]["lynxstop"]["exit"] == "answer_now"
    assert json.loads(joined(asked.events, "content")) == {
        "answer": int(held(joined(asked.events, "reasoning")))
    }


def test_shadow_mode_records_exits_but_obeys_people(proxy: Proxied) -> None:
    asked = Asked(proxy, lynxstop={"risk": 0.1, "mode": "shadow"}, headers={"x-request-id": "mine"})
    eventually(lambda: [one for one in listed(proxy) if one["thinking_tokens"] > 60])
    # By the client's own id.
    assert answer_now(proxy, "mine").status_code == 202
    asked.join()
    report = asked.events[-1]["lynxstop"]
    assert (report["exit"], report["stopped"]) == ("answer_now", True)


def test_asked_before_the_first_token_it_waits_for_one(proxy: Proxied) -> None:
    asked = Asked(proxy, {"x-mock": "delay=0.02, first_delay=2"})
    eventually(lambda: listed(proxy))
    assert answer_now(proxy, listed(proxy)[0]["id"]).status_code == 202
    asked.join()
    report = asked.events[-1]["lynxstop"]
    assert report["exit"] == "answer_now"
    assert report["thinking_tokens"] > 0
    assert "sure now" not in joined(asked.events, "reasoning")


def test_what_cannot_be_ended_is_refused(proxy: Proxied) -> None:
    missing = answer_now(proxy, "none")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "no_such_request")
    asked = Asked(proxy)
    eventually(lambda: [one for one in listed(proxy) if one["state"] == "thinking"])
    id = listed(proxy)[0]["id"]
    answer_now(proxy, id)
    eventually(lambda: not [one for one in listed(proxy) if one["state"] != "answering"])
    late = answer_now(proxy, id)
    # It may have ended between the two.
    assert late.status_code in (404, 409)
    if late.status_code == 409:
        assert late.json()["error"]["code"] == "not_thinking"
    asked.join()
    assert httpx.get(f"{proxy.url}/lynxstop/nothing").status_code == 404
    assert httpx.get(f"{proxy.url}/lynxstop/requests/{id}/answer").status_code == 404


def test_a_race_ends_its_thinking_in_all_samples(proxy: Proxied) -> None:
    asked = Asked(proxy, lynxstop={"risk": 0.05, "race": 2})
    eventually(lambda: [one for one in listed(proxy) if one["thinking_tokens"] > 5])
    assert listed(proxy)[0]["samples"] == 2
    answer_now(proxy, listed(proxy)[0]["id"])
    asked.join()
    assert asked.events[-1]["lynxstop"]["exit"] == "answer_now"


def test_keys_guard_all_but_the_page() -> None:
    sections = {"policy": {"risk": 0.05}, "serve": {"api_keys": ["k"]}}
    with serving(MockServer()) as url, watching(url, sections=sections) as made:
        for path in ("requests", "status"):
            assert httpx.get(f"{made.url}/lynxstop/{path}").status_code == 401
            key = {"authorization": "Bearer k"}
            assert httpx.get(f"{made.url}/lynxstop/{path}", headers=key).status_code == 200
        assert answer_now(made, "none").status_code == 401
        assert answer_now(made, "none", headers={"authorization": "Bearer k"}).status_code == 404
        assert httpx.get(f"{made.url}/lynxstop").status_code == 200
