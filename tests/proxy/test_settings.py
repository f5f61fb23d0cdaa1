"""A client's own settings mean the same across an exit; what it asks of lynxstop is read in one order."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import orjson
import pytest

from lynxstop.core.exits import Mode
from lynxstop.proxy.config import PolicyConfig
from lynxstop.proxy.request_options import ExitOptions, for_plugin
from tests.support.canned import CHAT, COMPLETIONS, EXIT_IDS, Odd, chat, continuation
from tests.support.servers import Proxied, serving
from tests.support.watching import EXIT, watching

BODY: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}]}


def ask(proxy: Proxied, headers: Any = None, **more: Any) -> dict[str, Any]:
    answer = httpx.post(proxy.url + CHAT, json={**BODY, **more}, headers=headers or {}, timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def said(answer: dict[str, Any]) -> str:
    message = answer["choices"][0]["message"]
    return str(message["reasoning"] + (message["content"] or ""))


def test_a_limit_holds_wherever_it_falls(mock: Any, proxy: Proxied) -> None:
    whole, full = ask(proxy), httpx.post(mock[0] + CHAT, json=BODY, timeout=30).json()
    used = whole["usage"]["completion_tokens"]
    stopped = []
    for limit in range(1, used + 2):
        for name in ("max_tokens", "max_completion_tokens"):
            found = ask(proxy, **{name: limit})
            taken = found["lynxstop"]["stopped"]
            assert found["usage"]["completion_tokens"] == min(limit, used), limit
            assert found["choices"][0]["finish_reason"] == ("length" if limit < used else "stop"), limit
            assert (said(whole) if taken else said(full)).startswith(said(found)), limit
            assert (found["choices"][0]["message"]["content"] is not None) is taken
        stopped.append(taken)
    # With room for one token of an answer the exit is taken, and with less it is not.
    exit_tokens = used - whole["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert stopped == sorted(stopped)
    assert 1 <= stopped.count(True) - 1 < exit_tokens


@pytest.mark.parametrize("stop", ["}", ["xyz", "}."], "3}"])
def test_a_stop_string_ends_the_answer_after_an_exit(proxy: Proxied, stop: Any) -> None:
    whole, found = ask(proxy), ask(proxy, stop=stop)
    assert found["lynxstop"]["stopped"]
    assert found["choices"][0]["finish_reason"] == "stop"
    first = stop if isinstance(stop, str) else stop[-1]
    assert said(found) == said(whole).partition(first)[0]


def test_a_stop_string_in_the_thinking_ends_it_before_an_exit(proxy: Proxied) -> None:
    found = ask(proxy, stop="7 + 10")
    assert found["choices"][0]["message"]["reasoning"].endswith("= 10. ")
    assert not found["lynxstop"]["stopped"]


@pytest.mark.parametrize(
    "options", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}]
)
def test_usage_comes_to_those_who_asked(proxy: Proxied, options: dict[str, Any]) -> None:
    asked = {**BODY, "stream": True}
    for given, count in ((options, 0), ({"stream_options": {"include_usage": True}}, 1)):
        text = httpx.post(proxy.url + CHAT, json={**asked, **given}, timeout=30).text
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        assert sum(bool(event.get("usage")) for event in events) == count
        assert sum(not event["choices"] for event in events) == count


@pytest.mark.parametrize("finish", ["length", "content_filter", "abort", "odd"])
@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
def test_a_reason_to_finish_is_the_servers_own(finish: str, threshold: float) -> None:
    class Finishing(Odd):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            events = continuation("1", {}) if scope["path"] == COMPLETIONS else chat("1")
            events[-2]["choices"][0] |= {"finish_reason": finish, "stop_reason": 7, "matched_stop": "x"}
            self.events = tuple(map(orjson.dumps, events))
            await super().__call__(scope, receive, send)

    with serving(Finishing()) as url, watching(url, threshold) as proxy:
        found = ask(proxy)
    choice = found["choices"][0]
    assert found["lynxstop"]["stopped"] is (threshold < 0)
    assert (choice["finish_reason"], choice["stop_reason"], choice["matched_stop"]) == (finish, 7, "x")


def test_a_token_that_is_cut_through_counts() -> None:
    bodies: dict[str, dict[str, Any]] = {}

    class Keeping(Odd):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            events = chat("1") if scope["path"] == CHAT else continuation("1", {"prompt": [0] * 8})
            self.events = tuple(map(orjson.dumps, events))

            async def kept() -> Any:
                message = await receive()
                bodies[scope["path"]] = orjson.loads(message["body"])
                return message

            await super().__call__(scope, kept, send)

    with serving(Keeping()) as url, watching(url) as proxy:
        found = ask(proxy, max_tokens=20)
    # One token stays, of another a part; three are the exit's, and three the answer's.
    assert found["usage"]["completion_tokens"] == 1 + 1 + 3 + 3
    assert found["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2
    assert found["usage"]["prompt_tokens"] == 3
    assert bodies[COMPLETIONS]["max_tokens"] == 20 - 1 - 1 - 3
    # The part is read together with the exit, in whichever tokens the two make.
    assert bodies["/tokenize"]["prompt"] == " (" + EXIT
    assert bodies[COMPLETIONS]["prompt"] == [1, 2, 3, 0, *EXIT_IDS]


def test_parameters_of_the_sampler_reach_both_streams(mock: Any, proxy: Proxied) -> None:
    given = {"temperature": 0.3, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "logit_bias": {"5": 1}}
    mock[1].records.clear()
    assert ask(proxy, **given)["lynxstop"]["stopped"]
    first, second = mock[1].records
    for name, value in given.items():
        assert first.body[name] == second.body[name] == value


def test_a_client_that_takes_packed_answers_is_watched_all_the_same(mock: Any) -> None:
    seen: list[bytes | None] = []

    async def packing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            # A server that packs what it may.
            seen.append(dict(scope["headers"]).get(b"accept-encoding"))
        await mock[1](scope, receive, send)

    with serving(packing) as url, watching(url) as proxy:
        assert ask(proxy, {"accept-encoding": "gzip, br"})["lynxstop"]["stopped"]
    assert set(seen) == {b"identity"}


LEVELS = {"policy": {"risk": 0.05, "reasoning_effort": {"low": 0.1, "high": "off"}}}


@pytest.mark.parametrize(
    ("headers", "more", "risk"),
    [
        ({}, {}, "0.05"),
        ({}, {"reasoning_effort": "medium"}, "0.05"),
        ({}, {"reasoning_effort": "low"}, "0.1"),
        ({}, {"reasoning_effort": "high"}, None),
        ({}, {"reasoning_effort": "high", "lynxstop": {"risk": 0.05}}, "0.05"),
        ({"x-lynxstop-risk": "0.05"}, {"reasoning_effort": "high"}, "0.05"),
        ({"x-lynxstop-risk": "0.1"}, {}, "0.1"),
        ({"x-lynxstop-risk": "off"}, {}, None),
        # With both, the key counts alone: what it does not name is as if nobody had.
        ({"x-lynxstop-risk": "0.1"}, {"lynxstop": {"risk": 0.05}}, "0.05"),
        ({"x-lynxstop-risk": "0.1"}, {"lynxstop": {"mode": "stop"}}, "0.05"),
        ({"x-lynxstop-risk": "off"}, {"lynxstop": {"risk": 0.1}}, "0.1"),
        ({"x-lynxstop-risk": "0.1", "x-lynxstop-mode": "shadow"}, {}, "0.1"),
    ],
)
def test_a_level_is_found_in_one_order(
    mock: Any, headers: dict[str, str], more: dict[str, Any], risk: str | None
) -> None:
    # The lower level never stops, the other one always.
    with watching(mock[0], math.inf, sections=LEVELS) as proxy:
        report = ask(proxy, headers, **more).get("lynxstop")
    assert (report is None) is (risk is None)
    if report:
        assert (report["exit"] == "score") is (risk == "0.1")
        assert report["stopped"] is (risk == "0.1" and headers.get("x-lynxstop-mode") != "shadow")


def test_of_a_header_that_repeats_the_first_counts(mock: Any) -> None:
    repeated = [("x-lynxstop-risk", "0.1"), ("X-Lynxstop-Risk", "0.05")]
    with watching(mock[0], math.inf, sections=LEVELS) as proxy:
        assert ask(proxy, repeated)["lynxstop"]["exit"] == "score"
        assert ask(proxy, repeated[::-1])["lynxstop"]["exit"] is None


def test_a_plugin_in_the_server_is_told_of_tools() -> None:
    # it sees tokens only
    own, asked = PolicyConfig(), ExitOptions(0.1, Mode.STOP)
    assert for_plugin(own, asked, tools=True) == {"lynxstop_tools": 1}
    assert for_plugin(own, asked, tools=False) == {}
    named = for_plugin(PolicyConfig(risk=0.1), asked, tools=True)
    assert named == {"lynxstop_tools": 1, "lynxstop_risk": 0.1, "lynxstop_mode": "stop"}
