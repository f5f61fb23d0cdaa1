"""The middleware of `lynxstop serve`, before a scripted server whose plugin stops every request."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client import CollectorRegistry

from lynxstop.artifacts.bundle import Bundle
from lynxstop.errors import ConfigError
from lynxstop.monitor.entries import Audit, Begun
from lynxstop.monitor.journal import FileJournal
from lynxstop.monitor.levels import JOURNAL, open_state
from lynxstop.monitor.monitor import LevelKey
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.vllm_exchange import MiddlewareSetup
from lynxstop.proxy.vllm_middleware import VARIABLE, VllmMiddleware
from tests.support.canned import CHAT

BUNDLE = Path(__file__).parents[2] / "probes" / "reasoner"
POLICY = Bundle.load(BUNDLE).policy
EXIT_IDS = list(POLICY.exit_ids)
THOUGHT = list(range(30, 40))
PROMPT = [1, 2, 3]
KEY = LevelKey("tiny", None, 0.05)
EXIT = {"exit": "score", "thinking_tokens": 10, "score": 4.5, "threshold": 2.0, "stopped": True}


class Server:
    """vLLM as a client sees it: chats are stopped unless they say otherwise, completions think to the end."""

    def __init__(self, reports: Path) -> None:
        self.reports = reports
        self.asked: list[dict[str, Any]] = []
        self.told: dict[str, Any] = {**EXIT, "departures": []}
        self.full = "more</think>\n\nThe answer is \\boxed{7}."
        self.status = 200

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = orjson.loads(message["body"])
        self.asked.append(body)
        xargs = body.get("vllm_xargs")
        xargs = xargs if isinstance(xargs, dict) else {}
        if scope["path"] == "/v1/completions":
            answer = {"choices": [{"text": self.full}], "usage": {"completion_tokens": 20}}
            await self._say(send, b"application/json", orjson.dumps(answer))
            return
        stopped = xargs.get("lynxstop_risk") != "off" and xargs.get("lynxstop_mode") != "shadow"
        if stopped and "lynxstop_report" in xargs:
            (self.reports / xargs["lynxstop_report"]).write_text(json.dumps(self.told))
        ids = {"token_ids": [*THOUGHT, *EXIT_IDS, 50]} if body.get("return_token_ids") else {}
        prompt = {"prompt_token_ids": PROMPT} if body.get("return_token_ids") else {}
        usage = {"completion_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 11}}
        said = {"reasoning": "hm", "content": "The answer is \\boxed{7}."}
        if not body.get("stream"):
            choice = {"index": 0, "message": said, "finish_reason": "stop", **ids}
            await self._say(
                send, b"application/json", orjson.dumps({"choices": [choice], "usage": usage, **prompt})
            )
            return
        events: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}], **prompt},
            {"choices": [{"index": 0, "delta": said, "finish_reason": None, **ids}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        ]
        counts = body.get("stream_options") or {}
        if counts.get("include_usage"):
            if counts.get("continuous_usage_stats"):
                events = [event | {"usage": usage} for event in events]
            events.append({"choices": [], "usage": usage, "system_fingerprint": "fp"})
        parts = [b"data: " + orjson.dumps(event) + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]
        await self._say(send, b"text/event-stream; charset=utf-8", *parts)

    async def _say(self, send: Any, kind: bytes, *parts: bytes) -> None:
        headers = [(b"content-type", kind), (b"content-length", str(len(b"".join(parts))).encode())]
        await send(
            {"type": "http.response.start", "status": self.status, "headers": headers[: 2 - (len(parts) > 1)]}
        )
        for number, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts) - 1})


Ask = Callable[..., Any]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make the middleware and its server: `made(monitor=..., policy=...)`."""

    def make(**sections: Any) -> tuple[VllmMiddleware, Server, CollectorRegistry]:
        reports, file = tmp_path / "reports", tmp_path / "middleware.json"
        reports.mkdir(exist_ok=True)
        MiddlewareSetup.write(file, ProxyConfig.model_validate(sections), BUNDLE, reports)
        monkeypatch.setenv(VARIABLE, str(file))
        server, registry = Server(reports), CollectorRegistry()
        return VllmMiddleware(server, registry), server, registry

    return make


@asynccontextmanager
async def client(middleware: VllmMiddleware) -> AsyncIterator[Ask]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(middleware), base_url="http://test", timeout=10
    ) as http:

        async def ask(path: str = CHAT, **more: Any) -> httpx.Response:
            body = {"model": "tiny", "messages": [{"role": "user", "content": "What is 3 + 4?"}], **more}
            return await http.post(path, json=body)

        yield ask


def serve(middleware: VllmMiddleware, count: int = 1, **more: Any) -> list[httpx.Response]:
    """Ask some times, and wait for what runs beside."""

    async def run() -> list[httpx.Response]:
        async with client(middleware) as ask:
            found = [await ask(**more) for _ in range(count)]
        if middleware._monitoring.live is not None:
            await middleware._monitoring.live.drain()
        return found

    return asyncio.run(run())


def counts(registry: CollectorRegistry, name: str = "lynxstop_audits_total") -> dict[str, float]:
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {next(iter(s.labels.values())): s.value for s in samples if s.name == name and s.value}


def audits(folder: Path, **more: Any) -> dict[str, Any]:
    return {"state": str(folder / "audits"), "audit": 1.0, "key": "k", **more}


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_an_answer_has_its_report(made: Any) -> None:
    middleware, server, _ = made()
    (answer,) = serve(middleware, vllm_xargs={"lynxstop_risk": 0.05})
    found = answer.json()
    level = next(level for level in POLICY.levels if level.risk == 0.05)
    saved = found["lynxstop"].pop("saved_estimate")
    assert found["lynxstop"] == {**EXIT, "cue": None, "certificate": level.certificate}
    details = {"reasoning_tokens": 11, "lynxstop_exit": "score", "lynxstop_saved": saved}
    assert found["usage"]["completion_tokens_details"] == details
    assert saved > 0
    assert answer.headers["x-lynxstop-exit"] == "score"
    assert answer.headers["x-lynxstop-score"] == "4.5"
    assert "return_token_ids" not in server.asked[0]
    assert list(server.reports.iterdir()) == []


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("arm", [0.0, 1.0])
def test_a_stream_ends_with_its_report(made: Any, tmp_path: Path, usage: bool, arm: float) -> None:
    # given a stream, audited or not, with or without usage
    middleware, _, _ = made(monitor=audits(tmp_path, audit=arm))
    options = {"include_usage": usage, "continuous_usage_stats": True}
    (answer,) = serve(middleware, stream=True, stream_options=options)
    events = events_of(answer)
    # then the last event has the report, and nothing shows that more was asked for
    assert events[-1]["lynxstop"]["exit"] == "score"
    assert ["lynxstop" in event for event in events[:-1]] == [False] * (len(events) - 1)
    assert [bool(event["choices"]) for event in events] == [True, True, True, *([False] * usage)]
    assert ["usage" in event for event in events] == [usage] * len(events)
    assert events[-1]["system_fingerprint"] == "fp"
    assert "token_ids" not in answer.text
    assert (answer.headers["x-lynxstop-risk"], answer.headers["x-lynxstop-mode"]) == ("0.05", "stop")


@pytest.mark.parametrize(
    ("told", "certified"),
    [
        ({**EXIT, "departures": ["temperature"]}, False),
        ({**EXIT, "exit": "loop", "departures": []}, False),
        ({**EXIT, "exit": "end_of_text", "score": None, "departures": []}, False),
        ({**EXIT, "exit": "budget", "score": None, "departures": []}, True),
        ({"departures": ["min_tokens"]}, False),
    ],
)
def test_a_certificate_is_named_only_where_it_holds(made: Any, told: Any, certified: bool) -> None:
    middleware, server, _ = made()
    server.told = told
    found = serve(middleware)[0].json()["lynxstop"]
    assert (found["certificate"] is not None) is certified
    assert found.get("departures", []) == told["departures"]


def test_a_budget_of_its_own_has_no_certificate(made: Any) -> None:
    middleware, server, _ = made()
    server.told = {**EXIT, "exit": "budget", "score": None, "departures": []}
    found = serve(middleware, vllm_xargs={"lynxstop_budget": 10})[0].json()["lynxstop"]
    assert (found["exit"], found["certificate"]) == ("budget", None)


@pytest.mark.parametrize(
    ("effort", "xargs", "risk"),
    [("low", {}, 0.1), ("high", {}, "off"), ("medium", {}, 0.05), ("low", {"lynxstop_risk": 0.02}, 0.02)],
)
def test_reasoning_effort_is_a_level(made: Any, effort: str, xargs: Any, risk: Any) -> None:
    middleware, server, _ = made(policy={"reasoning_effort": {"low": 0.1, "high": "off"}})
    serve(middleware, reasoning_effort=effort, vllm_xargs=xargs)
    serve(middleware, path="/v1/responses", reasoning={"effort": effort}, vllm_xargs=xargs)
    assert [asked["vllm_xargs"]["lynxstop_risk"] for asked in server.asked] == [risk, risk]


def test_requests_that_are_not_ours_pass_as_they_are(made: Any) -> None:
    middleware, server, _ = made()
    named = {"n": 2, "vllm_xargs": {"lynxstop_report": "0" * 32}}
    for more in ({"n": 2}, named, {"vllm_xargs": {"lynxstop_risk": 0.3}}, {"vllm_xargs": "no"}):
        answer = serve(middleware, **more)[0]
        assert (answer.status_code, "lynxstop" in answer.json()) == (200, False)
        assert "lynxstop_report" not in str(server.asked[-1])
    server.status = 400
    assert "lynxstop" not in serve(middleware)[0].text


def test_a_body_is_not_read_before_the_servers_check_of_keys(made: Any, tmp_path: Path) -> None:
    # given a server that refuses a request by its headers, as vLLM's AuthenticationMiddleware does
    middleware, server, _ = made(monitor=audits(tmp_path))

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        if dict(scope["headers"]).get(b"authorization") == b"Bearer right":
            await server(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"Unauthorized"})

    middleware._app = refusing
    body = orjson.dumps({"model": "tiny", "messages": []})
    read = []

    async def ask(key: bytes) -> list[Any]:
        sent: list[Any] = []
        headers = [(b"authorization", key), (b"content-length", str(len(body)).encode())]
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "root_path": ""}

        async def receive() -> Any:
            read.append(key)
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await middleware(scope, receive, send)
        return sent

    # when one has no right key, and another has
    refused, answered = asyncio.run(ask(b"Bearer no")), asyncio.run(ask(b"Bearer right"))
    # then only the other's body is read, and answered with a report
    assert read == [b"Bearer right"]
    assert [refused[0]["status"], refused[1]["body"]] == [401, b"Unauthorized"]
    assert orjson.loads(answered[1]["body"])["lynxstop"]["stopped"]


@pytest.mark.parametrize("stream", [False, True])
def test_exits_are_audited_off_the_clients_path(made: Any, tmp_path: Path, stream: bool) -> None:
    # given a share that is audited
    middleware, server, registry = made(monitor=audits(tmp_path, priority=5))
    # when requests exit, then their thinking is finished: from the same prefix, without exits
    assert all(
        answer.status_code == 200 for answer in serve(middleware, 3, stream=stream, temperature=0.9, seed=3)
    )
    continued = [body for body in server.asked if "prompt" in body]
    assert [body["prompt"] for body in continued] == [PROMPT + THOUGHT] * 3
    assert continued[0]["vllm_xargs"] == {"lynxstop_risk": "off"}
    assert (continued[0]["priority"], continued[0]["temperature"], "seed" in continued[0]) == (5, 0.9, False)
    # and compared
    assert counts(registry) == {"agree": 3}
    found = open_state(tmp_path / "audits").findings[KEY]
    assert (found.audits, found.exits, found.lost, found.tokens) == (3, 3, 0, 60)


@pytest.mark.parametrize(
    ("full", "outcome"),
    [
        ("more</think> The answer is \\boxed{8}.", "differ"),
        ("it never ends", "unparsed"),
        ("more</think> nothing", "unparsed"),
    ],
)
def test_what_does_not_certainly_agree_is_a_loss(made: Any, tmp_path: Path, full: str, outcome: str) -> None:
    middleware, server, registry = made(monitor=audits(tmp_path, on_alarm="warn"))
    server.full = full
    serve(middleware, 2)
    assert counts(registry) == {outcome: 2}
    assert open_state(tmp_path / "audits").findings[KEY].lost == 2


def test_a_failing_auditor_harms_nobody_and_is_no_good_news(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    middleware, _, registry = made(monitor=audits(tmp_path))

    async def broken(*args: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(middleware, "_ask", broken)
    assert [answer.json()["lynxstop"]["exit"] for answer in serve(middleware, 2)] == ["score"] * 2
    assert counts(registry) == {"failed": 2}
    assert open_state(tmp_path / "audits").findings[KEY].lost == 2


def test_outcomes_count_in_the_order_of_arrival(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a first request that is answered after a second one, and one that turns out to be uncertified
    middleware, server, _ = made(monitor=audits(tmp_path))
    say, numbers, gate = server._say, itertools.count(), asyncio.Event()

    async def late(send: Any, kind: bytes, *parts: bytes) -> None:
        if next(numbers) == 0:
            await gate.wait()
        await say(send, kind, *parts)

    monkeypatch.setattr(server, "_say", late)
    journal = FileJournal(tmp_path / "audits" / JOURNAL)

    def known() -> list[Audit]:
        return [entry for entry, _ in journal.read(0) if isinstance(entry, Audit)]

    async def run() -> None:
        async with client(middleware) as ask:
            first = asyncio.create_task(ask(messages=[{"role": "user", "content": "1"}]))
            await asyncio.sleep(0.05)
            await ask(messages=[{"role": "user", "content": "2"}])
            await asyncio.sleep(0.5)
            assert known() == []
            server.told["departures"] = ["temperature"]
            await ask()
            server.told["departures"] = []
            gate.set()
            await first
            await asyncio.sleep(0.1)
            await ask(messages=[{"role": "user", "content": "1"}])
            async with asyncio.timeout(20):
                while len(known()) < 3:
                    await asyncio.sleep(0.05)
        await middleware._monitoring.live.drain()

    asyncio.run(run())
    prompts = [entry.prompt for entry in known()]
    assert len(prompts) == 3
    assert prompts[0] == prompts[2] != prompts[1]


def test_a_client_that_leaves_after_the_exit_is_audited_all_the_same(made: Any, tmp_path: Path) -> None:
    # given a stream whose client is gone after two events
    middleware, server, registry = made(monitor=audits(tmp_path, on_alarm="warn"))
    server.full = "7}."
    body = orjson.dumps({"model": "tiny", "messages": [], "stream": True})
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [], "root_path": ""}
    passed = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        passed.append(message)
        if len(passed) > 3:
            raise OSError

    async def run() -> None:
        with pytest.raises(OSError):
            await middleware(scope, receive, send)
        await middleware._monitoring.live.drain()

    asyncio.run(run())
    # then the answer after the exit is asked for, and the finished thinking: which never ends here
    asked = [body["prompt"] for body in server.asked if "prompt" in body]
    assert asked == [PROMPT + THOUGHT + EXIT_IDS, PROMPT + THOUGHT]
    assert counts(registry) == {"unparsed": 1}


def test_holdouts_are_never_stopped_and_answered_twice(made: Any, tmp_path: Path) -> None:
    middleware, server, registry = made(monitor=audits(tmp_path, audit=0.0, holdout=1.0))
    (answer,) = serve(middleware)
    assert answer.json()["lynxstop"]["exit"] is None
    assert server.asked[0]["vllm_xargs"]["lynxstop_mode"] == "shadow"
    assert server.asked[1]["prompt"] == PROMPT
    assert counts(registry) == {"repeat_agree": 1}


@pytest.mark.parametrize("more", [{"tools": [{}]}, {"vllm_xargs": {"lynxstop_budget": 5}}, {"n": 2}])
def test_what_cannot_be_continued_is_not_audited(made: Any, tmp_path: Path, more: Any) -> None:
    middleware, _, registry = made(monitor=audits(tmp_path))
    assert serve(middleware, **more)[0].status_code == 200
    assert counts(registry) == {}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"tools": [{"type": "function"}]}, 1),
        ({"tools": [{"type": "function"}], "tool_choice": "none"}, None),
        ({"tools": [{"name": "find"}], "tool_choice": {"type": "none"}}, None),
        ({"tools": []}, None),
    ],
)
def test_the_plugin_is_told_of_tools(made: Any, more: Any, told: Any) -> None:
    middleware, server, _ = made()
    assert serve(middleware, **more)[0].status_code == 200
    assert server.asked[0]["vllm_xargs"].get("lynxstop_tools") == told


def test_a_request_outside_the_certificate_is_not_audited(made: Any, tmp_path: Path) -> None:
    middleware, server, registry = made(monitor=audits(tmp_path))
    server.told = {**EXIT, "departures": ["temperature"]}
    serve(middleware)
    assert counts(registry) == {}


def test_an_alarm_stops_the_exits(made: Any, tmp_path: Path) -> None:
    # given audits that speak against a level
    journal = FileJournal(tmp_path / "audits" / JOURNAL)
    for _ in range(60):
        journal.append(Audit(*KEY, exited=True, loss=1.0))
    middleware, server, registry = made(monitor=audits(tmp_path, audit=0.0))
    # when a request asks for it, then it thinks to the end, and that is counted
    (answer,) = serve(middleware)
    assert server.asked[0]["vllm_xargs"]["lynxstop_risk"] == "off"
    assert answer.json()["lynxstop"]["certificate"] is None
    assert counts(registry, "lynxstop_exits_withheld_total") == {"alarm": 1}
    # and so does one that gets no report
    serve(middleware, n=2)
    assert server.asked[-1]["vllm_xargs"] == {"lynxstop_risk": "off"}
    serve(middleware, path="/v1/responses", input="What is 3 + 4?")
    assert server.asked[-1]["vllm_xargs"] == {"lynxstop_risk": "off"}
    # and a stricter level goes on
    assert serve(middleware, vllm_xargs={"lynxstop_risk": 0.02})[0].json()["lynxstop"]["exit"] == "score"


@pytest.mark.parametrize("damage", ["torn", "gone", "garbled"])
def test_damage_is_never_good_news(made: Any, tmp_path: Path, damage: str) -> None:
    # given audits so far, one of them under way
    middleware, server, _ = made(monitor=audits(tmp_path))
    serve(middleware, 3)
    file = tmp_path / "audits" / JOURNAL
    FileJournal(file).append(Begun("x", *KEY))
    # when the file is damaged, and the server starts again
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-20] if damage == "torn" else content[:30] + b"#" + content[31:])
    middleware, server, _ = made(monitor=audits(tmp_path))
    answer = serve(middleware)[0]
    # then requests are answered, and what is not known stops exits, or counts as a loss
    assert answer.status_code == 200
    notice = asyncio.run(middleware._monitoring.live.look())
    state = open_state(tmp_path / "audits")
    lost = sum(found.lost for found in state.findings.values())
    withheld = server.asked[0]["vllm_xargs"]["lynxstop_risk"] == "off"
    assert (withheld and notice) or lost > 0 or state.pending


def test_audits_need_a_bundle_that_promises_what_they_measure() -> None:
    from types import SimpleNamespace

    from lynxstop.proxy.monitoring import Monitoring

    config = ProxyConfig.model_validate({"monitor": {"state": "audits"}})
    bundle: Any = SimpleNamespace(
        policy=SimpleNamespace(grader="math", levels=[SimpleNamespace(loss="harm")])
    )
    with pytest.raises(ConfigError, match="disagree"):
        Monitoring.check(config, bundle)


@pytest.mark.parametrize(
    "asked",
    [{"vllm_xargs": {"lynxstop_group": ["a"]}}, {"vllm_xargs": "x"}, {"stream": True, "stream_options": [1]}],
    ids=str,
)
def test_what_vllm_will_refuse_reaches_it_as_it_is(made: Any, asked: Any) -> None:
    # given a body with a value of a type that vLLM, or the plugin, refuses, when it comes
    middleware, _, _ = made()
    content = json.dumps(asked).encode()
    # then it is left alone, and no error is logged
    assert middleware._begin({}, CHAT, content) == (content, None)
