"""Health, readiness, metrics, logs and spans: numbers and names, never content."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest

from lynxstop import shipped
from lynxstop.proxy.app import create_app
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.logs import JsonLines
from lynxstop.proxy.serve import build
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.servers import eventually, proxied, serving
from tests.support.watching import watching

SECRET = "zebra 7 + 5 * 2"
ASK = {"messages": [{"role": "user", "content": SECRET}]}


def test_readiness_names_what_is_wrong() -> None:
    state: list[str | None] = [None]

    async def bundle() -> str | None:
        return state[0]

    with serving(MockServer()) as url:
        config = ProxyConfig.model_validate({"upstream": {"url": url}})
        with proxied(url, create_app(config, checks={"bundle": bundle})) as proxy:
            ready = httpx.get(proxy.url + "/ready")
            state[0] = "It is another model's."
            not_ready = httpx.get(proxy.url + "/ready")
            health = httpx.get(proxy.url + "/health")
            asked = [httpx.head(proxy.url + path) for path in ("/health", "/ready", "/metrics")]

    assert (ready.status_code, ready.json()["checks"]) == (200, {"upstream": "ok", "bundle": "ok"})
    assert not_ready.status_code == 503
    assert not_ready.json()["checks"]["bundle"] == "It is another model's."
    assert health.json() == {"status": "ok"}
    # A probe by HEAD is answered by the proxy too, and not by the server.
    assert [(one.status_code, one.content) for one in asked] == [(200, b""), (503, b""), (200, b"")]


def test_a_bundle_of_another_model_is_not_ready_before_any_request() -> None:
    with serving(MockServer(MockSettings(opened=True))) as url:
        given = {"upstream": {"url": url, "dialect": "vllm"}, "policy": {"bundle": shipped.STREAM_BUNDLE}}
        with proxied(url, build(ProxyConfig.model_validate(given))) as proxy:
            ready = httpx.get(proxy.url + "/ready")

    assert ready.status_code == 503
    assert ready.json()["checks"]["upstream"] == "ok"
    assert "another model" in ready.json()["checks"]["bundle"]


def test_a_server_that_fails_is_not_ready() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body"})

    with serving(failing) as url, proxied(url) as proxy:
        assert httpx.get(proxy.url + "/ready").status_code == 503


def test_metrics_count_requests_and_hold_no_content() -> None:
    with serving(MockServer()) as url, proxied(url) as proxy:
        httpx.post(proxy.url + "/v1/chat/completions", json=ASK)
        httpx.get(proxy.url + f"/v1/{SECRET}")
        shown = httpx.get(proxy.url + "/metrics")

    lines = shown.text.splitlines()
    names = {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
    assert 'lynxstop_requests_total{outcome="completed",route="/v1/chat/completions"} 1.0' in lines
    assert 'lynxstop_requests_total{outcome="completed",route="other"} 1.0' in lines
    assert all(name.startswith("lynxstop_") for name in names)
    assert "zebra" not in shown.text
    assert shown.headers["content-type"].startswith("text/plain")


def test_log_lines_are_json_without_content(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="lynxstop")
    with serving(MockServer()) as url, proxied(url, serve={"api_keys": ["hush"]}) as proxy:
        key = {"authorization": "Bearer hush"}
        httpx.post(proxy.url + "/v1/chat/completions", json=ASK | {"stream": True}, headers=key)
        httpx.get(proxy.url + f"/v1/{SECRET}?q=zebra", headers=key)
        fault = key | {"x-mock": "fault=mid-thinking"}
        httpx.post(proxy.url + "/v1/chat/completions", json=ASK | {"stream": True}, headers=fault)
        httpx.get(proxy.url + "/v1/models", headers={"authorization": "Bearer wrong"})
    written = [JsonLines().format(record) for record in caplog.records if record.name == "lynxstop.proxy"]
    lines = [json.loads(line) for line in written]

    assert [line["outcome"] for line in lines] == ["completed", "completed", "upstream_error", "refused"]
    assert [line["status"] for line in lines] == [200, 404, 200, 401]
    assert [line["route"] for line in lines] == [
        "/v1/chat/completions",
        "other",
        "/v1/chat/completions",
        "/v1/models",
    ]
    assert len({line["id"] for line in lines}) == 4
    assert lines[0]["chunks"] > 1
    assert lines[0]["seconds"] >= lines[0]["first_chunk_seconds"] > 0
    assert not {"zebra", "hush", "wrong"} & {
        word for word in ("zebra", "hush", "wrong") if word in str(written)
    }


def test_an_exception_is_logged_by_its_type_alone() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        import sys

        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", None, sys.exc_info())

    line = JsonLines().format(record)

    assert json.loads(line)["error"] == "ValueError"
    assert SECRET not in line


def test_spans_follow_the_trace_and_hold_no_content() -> None:
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from lynxstop.proxy.otel import Tracing

    spans = export.InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    carried: list[str] = []
    mock = MockServer()

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            carried.append(dict(scope["headers"])[b"traceparent"].decode())
        await mock(scope, receive, send)

    trace = "0af7651916cd43dd8448eb211c80319c"
    with serving(listening) as url:
        config = ProxyConfig.model_validate({"upstream": {"url": url}})
        app = create_app(config, tracing=Tracing(provider, "vllm"))
        with proxied(url, app) as proxy:
            parent = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            httpx.post(proxy.url + "/v1/chat/completions", json=ASK, headers=parent)
            httpx.post(
                proxy.url + "/v1/chat/completions", json=ASK, headers={"x-mock": "fault=before-headers"}
            )
            # A span ends after the answer.
            eventually(lambda: len(spans.get_finished_spans()) == 2)
            finished = spans.get_finished_spans()

    good, bad = finished
    assert carried[0] == f"00-{trace}-{good.context.span_id:016x}-01"
    assert f"{good.parent.span_id:016x}" == "b7ad6b7169203331"
    assert good.attributes["gen_ai.operation.name"] == "chat"
    assert good.attributes["gen_ai.provider.name"] == "vllm"
    assert good.attributes["lynxstop.outcome"] == "completed"
    assert good.status.is_ok
    assert bad.attributes["error.type"] == "upstream_error"
    assert not bad.status.is_ok
    assert "zebra" not in "".join(span.to_json() for span in finished)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"stream": True}),
        ("/v1/messages", {"max_tokens": 4000}),
        ("/v1/completions", {"prompt": f"{SECRET}<think>", "max_tokens": 4000, "messages": None}),
        ("/v1/chat/completions", {"lynxstop": {"race": 2, "risk": "off"}}),
    ],
)
def test_what_a_request_used_is_noted(caplog: pytest.LogCaptureFixture, path: str, more: Any) -> None:
    caplog.set_level(logging.DEBUG, logger="lynxstop")
    with serving(MockServer(MockSettings(opened=True))) as url, watching(url) as proxy:
        body = {name: value for name, value in {"model": "toy", **ASK, **more}.items() if value is not None}
        answer = httpx.post(proxy.url + path, json=body, timeout=60)
        assert answer.status_code == 200
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
    [record] = [record for record in caplog.records if record.name == "lynxstop.proxy"]
    line = json.loads(JsonLines().format(record))
    assert (line["route"], line["model"]) == (path, "toy")
    assert line["prompt_tokens"] > 0
    assert line["completion_tokens"] > 0
    assert "zebra" not in str(line)
