"""The page for operators and the JSON that it draws: counts, models and decisions, never content."""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any

import httpx
import pytest
from prometheus_client import Gauge

from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.serve import build
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.proxy.test_tools import BODY, TOOL, stream
from tests.support.servers import Proxied, eventually, proxied, serving
from tests.support.watching import watching


def status(proxy: Proxied) -> dict[str, Any]:
    answer = httpx.get(f"{proxy.url}/lynxstop/status")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


def test_the_status_adds_up() -> None:
    with serving(MockServer(MockSettings(opened=True))) as url, watching(url) as proxy:
        reports = [stream(proxy.url)[-1]["lynxstop"] for _ in range(2)]
        reports.append(stream(proxy.url, lynxstop={"risk": 0.1, "mode": "shadow"})[-1]["lynxstop"])
        stream(proxy.url, frequency_penalty=1)
        # The client may see the end before the proxy has counted.
        eventually(lambda: status(proxy)["requests"]["by_outcome"].get("completed") == 4)
        found = status(proxy)
    assert found["exits"]["by_reason"] == {"score": 3.0}
    positions = found["exits"]["by_position"]
    assert sum(one["count"] for one in positions) == 3
    place = next(
        one for one in positions if one["up_to"] is None or one["up_to"] >= reports[0]["thinking_tokens"]
    )
    assert place["count"] >= 2
    assert found["passed_through"] == {"penalties": 1.0}
    assert found["running"] == []
    assert [one["thinking_tokens"] for one in found["decisions"]] == [
        report["thinking_tokens"] for report in reversed(reports)
    ]
    assert [one["mode"] for one in found["decisions"]] == ["shadow", "stop", "stop"]
    assert {one["model"] for one in found["decisions"]} == {"toy"}
    shown = str(found)
    assert BODY["messages"][0]["content"] not in shown
    assert "work it out" not in shown


def test_alarms_and_the_audited_risk_are_shown_where_there_are_audits() -> None:
    with serving(MockServer()) as url, watching(url) as proxy:
        assert (status(proxy)["alarms"], status(proxy)["live_risk"]) == ([], [])
        registry = proxy.app.metrics.registry
        level = ["model", "group", "risk"]
        Gauge("lynxstop_alarm", "?", level, registry=registry).labels("toy", "", "0.05").set(1)
        Gauge("lynxstop_risk_changed", "?", level, registry=registry).labels("toy", "", "0.05").set(0)
        risk = Gauge("lynxstop_live_risk", "?", [*level, "bound"], registry=registry)
        for bound, value in (("mean", 0.04), ("lower", 0.01), ("upper", 0.09)):
            risk.labels("toy", "", "0.05", bound).set(value)
        found = status(proxy)
    assert found["alarms"] == ["lynxstop_alarm group= model=toy risk=0.05"]
    assert found["live_risk"] == [
        {"group": "", "model": "toy", "risk": "0.05", "mean": 0.04, "lower": 0.01, "upper": 0.09}
    ]


def test_the_page_stands_alone(tmp_path: object) -> None:
    with serving(MockServer()) as url, watching(url) as proxy:
        answer = httpx.get(f"{proxy.url}/lynxstop")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = answer.text
    assert not re.search(r"""(src|href)\s*=|url\(|https?://|@import""", page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    # Texts of servers and clients are never read as markup.
    assert "innerHTML" not in page
    # All that it draws is in the status.
    with serving(MockServer()) as url, watching(url) as proxy:
        found = status(proxy)
    for name in re.findall(r"\bstate\.(\w+)", page):
        assert name in found, name
    for name in re.findall(r"byId\(\"([\w-]+)\"\)", page):
        assert f'id="{name}"' in page, name


def test_a_proxy_without_a_bundle_has_the_page_too() -> None:
    with serving(MockServer()) as url:
        given = ProxyConfig.model_validate({"upstream": {"url": url}})
        with proxied(url, build(given)) as proxy:
            found = status(proxy)
            assert httpx.get(f"{proxy.url}/lynxstop").status_code == 200
    assert found["bundle"] is False
    assert found["savings"] == {"thinking_tokens": 0.0, "saved_estimate": 0.0, "share": None}


@pytest.mark.parametrize("threshold", [-math.inf, math.inf])
def test_why_nothing_was_stopped_is_shown(threshold: float) -> None:
    with serving(MockServer(MockSettings(opened=True))) as url, watching(url, threshold) as proxy:
        stream(proxy.url, tools=[TOOL])
        eventually(lambda: status(proxy)["decisions"])
        [decision] = status(proxy)["decisions"]
    assert decision["stopped"] is (threshold < 0)
    assert decision["not_stopped_because"] is None


@pytest.mark.parametrize(
    ("path", "at_admin", "at_clients"),
    [
        ("/lynxstop", True, False),
        ("/lynxstop/status", True, False),
        ("/metrics", True, False),
        ("/health", True, True),
        ("/v1/models", False, True),
        # The server's own, which only begin as ours do; SGLang generates a token for the first.
        ("/health_generate", False, True),
        ("/readyz", False, True),
        ("/metrics/more", False, True),
        ("/lynxstops", False, True),
    ],
)
def test_the_admin_port_has_the_paths_of_operators_and_no_others(
    path: str, at_admin: bool, at_clients: bool
) -> None:
    async def server(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def found(port: int, url: str) -> bool:
        app = build(ProxyConfig.model_validate({"upstream": {"url": url}, "admin": {"port": 8401}}))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            answer = await client.get(f"http://127.0.0.1:{port}{path}")
        await app.end()
        return answer.status_code == 200

    with serving(server, lifespan="off") as url:
        assert asyncio.run(found(8401, url)) is at_admin
        assert asyncio.run(found(8400, url)) is at_clients
