"""Requests outside the certified conditions, and expired levels, on every route."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from lynxstop.artifacts.certified import Certified
from lynxstop.artifacts.expiry import ExpiryDates
from lynxstop.core.conditions import Conditions
from lynxstop.core.policy import Level
from lynxstop.proxy.service import Services
from tests.support.canned import CHAT
from tests.support.servers import Proxied
from tests.support.watching import watching

BODY: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}]}
CERTIFIED = Certified(Conditions(0.9, 0.95, 0, 512))
EXPIRED = Certified(CERTIFIED.conditions, dates=ExpiryDates({(0.05, None): datetime.now(UTC) - timedelta(1)}))


def ask(proxy: Proxied, **more: Any) -> dict[str, Any]:
    answer = httpx.post(proxy.url + CHAT, json={**BODY, **more}, timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def counted(proxy: Proxied) -> float:
    """Requests outside the certified conditions, whatever departs."""
    metrics = proxy.app.metrics.registry.collect()
    samples = [sample for metric in metrics for sample in metric.samples]
    return sum(sample.value for sample in samples if sample.name == "lynxstop_uncertified_total")


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"temperature": 1.3}, "temperature"),
        ({"temperature": 0}, "temperature"),
        ({"top_p": 0.5}, "top_p"),
        ({"min_p": 0.1}, "min_p"),
        ({"max_tokens": 400}, "max_tokens"),
        ({"max_completion_tokens": 400}, "max_tokens"),
    ],
)
def test_a_request_outside_thinks_to_the_end(mock: Any, settings: dict[str, Any], cause: str) -> None:
    # given a proxy whose level was certified for other settings
    with watching(mock[0], certified=CERTIFIED) as proxy:
        # when a request departs from them
        found = ask(proxy, **settings)
        # then it is passed on, and counted by what departs
        assert "lynxstop" not in found
        assert proxy.count("lynxstop_uncertified_total", cause=cause) == counted(proxy) == 1
        assert proxy.count("lynxstop_passthrough_total", cause="uncertified") == 1


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.9, "top_p": 0.95}, {"max_tokens": 4096}])
def test_a_request_inside_is_stopped_under_its_certificate(mock: Any, settings: dict[str, Any]) -> None:
    with watching(mock[0], certified=CERTIFIED) as proxy:
        assert ask(proxy, **settings)["lynxstop"]["stopped"]
        assert counted(proxy) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_outside_is_stopped_without_a_certificate_where_the_operator_says_so(
    mock: Any, stream: bool
) -> None:
    sections = {"policy": {"risk": 0.05, "uncertified": "stop"}}
    with watching(mock[0], certified=CERTIFIED, sections=sections) as proxy:
        body = {**BODY, "temperature": 1.3, "stream": stream}
        answer = httpx.post(proxy.url + CHAT, json=body, timeout=30)
        assert '"stopped":true' in answer.text.replace(" ", "")
        assert '"certificate":null' in answer.text.replace(" ", "")
        assert '"departures":["temperature"]' in answer.text.replace(" ", "")
        assert "x-lynxstop-certificate" not in answer.headers
        assert proxy.count("lynxstop_uncertified_total", cause="temperature") == 1


PROMPT = "What is 7 + 5 * 2 - 3?"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, BODY),
        ("/v1/completions", {"model": "toy", "prompt": f"{PROMPT}\n<think>", "max_tokens": 4000}),
        ("/v1/messages", {**BODY, "max_tokens": 1000}),
        ("/v1/responses", {"model": "toy", "input": PROMPT}),
    ],
)
def test_a_request_gets_the_level_of_its_sampling(mock: Any, path: str, body: dict[str, Any]) -> None:
    # given a level that never exits at the bundle's own sampling, and always at a further one
    levels = (Level(0.05, math.inf), Level(0.05, -math.inf, sampling=Conditions(1.3)))
    with watching(mock[0], certified=CERTIFIED, levels=levels) as proxy:
        found = []
        for settings in ({"temperature": 0.9, "top_p": 0.95}, {"temperature": 1.3, "top_p": 1.0}):
            answer = httpx.post(proxy.url + path, json={**body, **settings}, timeout=30)
            assert answer.status_code == 200, answer.text
            found.append(answer.json()["lynxstop"])
        # then each is inside, and only that of the further one is stopped
        assert [one["stopped"] for one in found] == [False, True]
        assert "departures" not in found[0] | found[1]
        assert counted(proxy) == 0


def test_an_expired_level_stops_nothing(mock: Any) -> None:
    with watching(mock[0], certified=EXPIRED) as proxy:
        assert "lynxstop" not in ask(proxy)
        assert ask(proxy, lynxstop={"risk": 0.1})["lynxstop"]["stopped"]
        assert proxy.count("lynxstop_uncertified_total", cause="expired") == 1


@pytest.mark.parametrize(
    ("conditions", "given", "sent"),
    [
        (Conditions(0.9, 0.95, 20), {}, {"temperature": 0.9, "top_p": 0.95, "top_k": 20}),
        (Conditions(0.9), {"temperature": None}, {"temperature": 0.9}),
        (Conditions(0.0, 0.5, 3), {}, {"temperature": 0.0}),
        (Conditions(0.9), {"temperature": 0.2, "top_p": 0.1}, {"temperature": 0.2, "top_p": 0.1}),
    ],
)
def test_what_a_request_leaves_to_the_server_is_sent_as_certified(
    conditions: Conditions, given: dict[str, Any], sent: dict[str, Any]
) -> None:
    services = Services(None)
    services.certified = Certified(conditions)
    assert services.with_certified_sampling(given) == sent
