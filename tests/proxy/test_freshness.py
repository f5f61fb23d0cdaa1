"""A server that is replaced by another under its name is noticed, and /ready heals by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest

from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.proxy import freshness
from lynxstop.proxy.app import create_app
from lynxstop.proxy.background import Background
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.examination import Service
from lynxstop.proxy.freshness import Freshness, sign
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.routes import routes
from lynxstop.proxy.service import Services
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.http.upstream import Upstream
from lynxstop.remote.identity import identified
from lynxstop.remote.server import listed_models
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.canned import CHAT
from tests.support.servers import Proxied, eventually, proxied, serving
from tests.support.watching import EXIT, Fixed

BODY = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}]}


class Deployment:
    """One of several servers under one address; `away` answers nothing but 503.

    Attributes
    ----------
    fingerprint : str or None
        Put into the last event of each stream, as vLLM does.
    root : str
        Of the listed model.
    """

    def __init__(self) -> None:
        self.right, self.other = MockServer(MockSettings(opened=True)), MockServer(MockSettings())
        self.app: Any = self.right
        self.away = False
        self.fingerprint: str | None = None
        self.root = "toy"
        self.looks = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self.away:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif scope["path"] == "/v1/models":
            entries = [{"id": name, "root": self.root, "created": self.looks} for name in ("toy", "alias")]
            self.looks += 1
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": orjson.dumps({"data": entries})})
        else:
            await self.app(scope, receive, self._named(send))

    def _named(self, send: Any) -> Any:
        async def named(message: Any) -> None:
            body = message.get("body", b"")
            if self.fingerprint and b'"usage":{' in body and body.startswith(b"data: "):
                event = orjson.loads(body[6:]) | {"system_fingerprint": self.fingerprint}
                message = {**message, "body": b"data: " + orjson.dumps(event) + b"\n\n"}
            await send(message)

        return named


class Comparing(Services):
    """Compares the server with how it was at first, as with a bundle; watches with `Fixed`'s levels."""

    def __init__(self) -> None:
        super().__init__(None)
        self.bundle: Any = SimpleNamespace(policy=SimpleNamespace(default_risk=0.05))
        self.level = lambda options: None  # type: ignore[method-assign]
        self._certificates = {}
        fixed = Fixed(-float("inf"))
        self.policy = fixed.policy
        self._examiner: Any = SimpleNamespace(
            stream_config=fixed.service.stream_config, forget=lambda model=None: None
        )
        self.expected: Fingerprint | None = None
        self.looks = 0

    async def _look(self, server: Any, model: str) -> Service:
        self.looks += 1
        found, system = await identified(server, Vllm(), model)
        self.expected = self.expected or found
        if different := self.expected.differences(found):
            return Service(
                Vllm(), cause="fingerprint", trouble=f"{different} differ.", system_fingerprint=system
            )
        exit_ids = await Vllm().tokenize(server, model, EXIT)
        config = replace(self._examiner.stream_config, exit_ids=exit_ids)
        return Service(Vllm(), config, system_fingerprint=system)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(freshness, "STUCK_SECONDS", 0.05)


@contextmanager
def deployed(recheck_seconds: float = 1000.0) -> Iterator[tuple[Proxied, Deployment, Comparing]]:
    server, services = Deployment(), Comparing()
    with serving(server) as url:
        upstream_section = {"url": url, "recheck_seconds": recheck_seconds}
        config = ProxyConfig.model_validate({"policy": {"risk": 0.05}, "upstream": upstream_section})
        metrics, upstream = Metrics(), Upstream(config.upstream)
        beside = Background(config, services, upstream, metrics)
        app = create_app(
            config,
            routes(config, upstream, metrics, services),
            upstream=upstream,
            metrics=metrics,
            checks=beside.checks,
            startup=beside.begin,
            draining=beside.end,
            facts=beside.facts,
        )
        with proxied(url, app) as proxy:
            eventually(lambda: services.shown_states() == {"toy": "watched"})
            yield proxy, server, services


def exit_of(proxy: Proxied, model: str = "toy") -> Any:
    answer = httpx.post(proxy.url + CHAT, json={**BODY, "model": model}, timeout=60).json()
    return answer.get("lynxstop", {}).get("exit", "passed")


def ready(proxy: Proxied) -> httpx.Response:
    return httpx.get(proxy.url + "/ready", timeout=30)


def test_a_server_that_was_away_is_examined_before_anything_is_stopped() -> None:
    with deployed() as (proxy, server, services):
        assert exit_of(proxy) == "score"
        server.away = True
        eventually(lambda: services.freshness.away)
        assert services.shown_states() == {"toy": "away"}
        server.app, server.away = server.other, False
        eventually(lambda: services.shown_states() == {"toy": "fingerprint"})
        assert exit_of(proxy) == "passed"
        assert ready(proxy).status_code == 503
        eventually(lambda: proxy.count("lynxstop_model_state", model="toy", state="fingerprint") == 1)
        assert proxy.count("lynxstop_model_state", model="toy", state="watched") == 0


def test_ready_notices_that_the_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with deployed() as (proxy, server, services):
        monkeypatch.setattr(freshness, "CHECK_SECONDS", 1000)
        server.away = True
        assert ready(proxy).status_code == 503
        assert "watched" not in services.shown_states().values()


def test_ready_heals_by_itself_when_the_right_model_comes_back() -> None:
    with deployed() as (proxy, server, services):
        services.forget()
        server.app = server.other
        eventually(lambda: ready(proxy).status_code == 503)
        server.app = server.right
        eventually(lambda: ready(proxy).status_code == 200)
        assert exit_of(proxy) == "score"


def test_another_root_is_another_model() -> None:
    with deployed() as (proxy, server, services):
        server.app, server.root = server.other, "toy-finetuned"
        eventually(lambda: services.shown_states() == {"toy": "fingerprint"})
        assert exit_of(proxy) == "passed"


def test_another_fingerprint_ends_the_certificate_and_the_watch() -> None:
    server = Deployment()
    server.fingerprint = "a"
    with deployed() as (proxy, server, services):
        server.fingerprint = "a"
        services.forget()
        eventually(lambda: services.freshness.fingerprints.get("toy") == {"a"})
        assert exit_of(proxy) == "score"
        server.app, server.fingerprint = server.other, "b"
        looks = services.looks
        exit_of(proxy)
        eventually(lambda: services.shown_states() == {"toy": "fingerprint"})
        assert services.looks > looks
        assert exit_of(proxy) == "passed"


def test_a_replica_with_a_fingerprint_of_its_own_is_examined_once() -> None:
    with deployed() as (proxy, server, services):
        server.fingerprint = "a"
        services.forget()
        eventually(lambda: services.freshness.fingerprints.get("toy") == {"a"})
        server.fingerprint = "b"
        exit_of(proxy)
        eventually(lambda: services.freshness.fingerprints.get("toy") == {"a", "b"})
        looks = services.looks
        assert exit_of(proxy) == "score"
        server.fingerprint = "a"
        assert exit_of(proxy) == "score"
        assert services.looks == looks


def test_without_any_sign_the_age_of_an_examination_counts() -> None:
    with deployed(recheck_seconds=0.1) as (proxy, server, services):
        server.app = server.other
        exit_of(proxy)
        eventually(lambda: services.shown_states() == {"toy": "fingerprint"})


def test_how_tools_are_answered_is_not_found_out_again_with_each_examination() -> None:
    tools = [{"type": "function", "function": {"name": "check", "parameters": {"type": "object"}}}]
    asked: list[int] = []
    with deployed(recheck_seconds=0.1) as (proxy, server, services):

        def looked_since(before: int) -> bool:
            # A request that comes during an examination asks for no other one.
            exit_of(proxy)
            return services.looks > before

        for _ in range(3):
            looks = services.looks
            answer = httpx.post(proxy.url + CHAT, json={**BODY, "tools": tools}, timeout=60).json()
            assert answer["lynxstop"]["stopped"]
            with_tools = [record.body["tools"] for record in server.right.records if "tools" in record.body]
            asked.append(len([own for own in with_tools if own != tools]))
            eventually(partial(looked_since, looks))
    assert asked[0] > 0
    assert asked == [asked[0]] * 3


def test_other_models_do_not_concern_ready() -> None:
    with deployed() as (proxy, _, services):
        services._found["alias"] = Service(cause="fingerprint", trouble="The name differs.")
        services._found["made-up"] = Service(cause="fingerprint", trouble="The name differs.")
        shown = ready(proxy)
        assert shown.status_code == 200
        assert shown.json()["models"] == {"toy": "watched", "alias": "fingerprint", "other": "unresolved"}


def test_an_idle_server_is_left_alone() -> None:
    with deployed(recheck_seconds=0.01) as (_, server, services):
        looks, lists = services.looks, server.looks
        eventually(lambda: server.looks > lists + 5)
        assert services.looks == looks


def test_a_request_that_is_off_waits_for_no_examination() -> None:
    with deployed() as (proxy, _, services):
        looks = services.looks
        answer = httpx.post(
            proxy.url + CHAT, json={**BODY, "model": "x", "lynxstop": {"risk": "off"}}, timeout=30
        )
        assert answer.status_code == 200
        assert services.looks == looks
        assert proxy.count("lynxstop_passthrough_total", cause="off") == 1


def test_a_request_without_a_model_is_for_the_servers_only_one() -> None:
    with deployed() as (proxy, *_):
        answer = httpx.post(proxy.url + CHAT, json={"messages": BODY["messages"]}, timeout=30)
    assert answer.json()["lynxstop"]["exit"] == "score"


def test_what_is_new_in_every_answer_is_no_sign() -> None:
    one, two = ({"id": "x", "created": place, "permission": [place], "root": "r"} for place in (1, 2))
    assert sign(one) == sign(two) != sign({**one, "root": "s"})
    assert listed_models({"data": [one, "x", {}]}) == {"x": one}
    assert listed_models([]) == {}


def test_what_is_due() -> None:
    fresh = Freshness()
    fresh.examined("a", None)
    fresh.examined("b", "f")
    assert fresh.due(0) == set()
    fresh.asked |= {"b", "c"}
    assert fresh.knows("b", "f")
    assert not fresh.knows("b", "g")
    assert fresh.knows("b", None)
    assert fresh.knows("c", "g")
    assert fresh.due(1000) == {"c"}
    assert fresh.due(0) == {"b", "c"}


class Slow:
    """A server whose list of models takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def call(self, path: str, body: Any = None) -> Any:
        await asyncio.sleep(self.seconds)
        return {"data": [{"id": "toy"}]}


def test_a_slow_list_of_models_ends_no_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "ANSWER_SECONDS", 0.05)
    services, server = Services(None), Slow(0.12)
    services._found["toy"] = Service(cause="fingerprint")

    async def looks(count: int) -> list[str | None]:
        found = []
        for _ in range(count):
            await freshness.check(services, server, 1000)  # type: ignore[arg-type]
            found.append(services.freshness.away)
        return found

    # two looks are in vain, and the third waits long enough
    assert asyncio.run(looks(6)) == [None] * 6
    assert services.states() == {"toy": "fingerprint"}
    assert services.freshness.first == "toy"
    # one that never answers is away after four, and stays so
    server.seconds = 60
    assert asyncio.run(looks(5)) == [*[None] * 3, *["It does not answer."] * 2]
    assert not services.states()
    server.seconds = 0
    assert asyncio.run(looks(1)) == [None]


def test_a_look_that_fails_does_not_end_the_watch() -> None:
    class Odd(Services):
        async def ready(self, server: Any) -> str | None:
            raise RuntimeError

    class Listing:
        calls = 0

        async def call(self, path: str, body: Any = None) -> Any:
            self.calls += 1
            return {"data": []}

    async def run() -> int:
        server: Any = Listing()
        task = asyncio.create_task(freshness.keep_fresh(Odd(None), server, 1, lambda: None))
        while server.calls < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        return int(server.calls)

    assert asyncio.run(run()) >= 3
