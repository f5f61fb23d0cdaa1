"""When a server is examined, and what a failed examination means for the requests that wait for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest

from lynxstop.errors import UpstreamError
from lynxstop.proxy import chat_routes, service
from lynxstop.proxy.examination import Service
from lynxstop.proxy.service import Services
from lynxstop.remote.dialects.openai import OpenAI
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.canned import CHAT
from tests.support.servers import serving
from tests.support.watching import Fixed, watching


class Looking(Services):
    """Looks as a test says, one way after the other."""

    def __init__(self, *ways: Any) -> None:
        super().__init__(None)
        self.bundle: Any = object()
        self.ways, self.looks = list(ways), 0

    async def _look(self, server: Any, model: str) -> Service:
        self.looks += 1
        way = self.ways.pop(0)
        if way is None:
            await asyncio.Event().wait()
        if isinstance(way, Exception):
            raise way
        return way


GOOD = Service(cause=None)


def causes(services: Looking, count: int, *, together: bool = False) -> list[str | None]:
    async def run() -> list[str | None]:
        asked: Any = [services.of(cast(Any, None), "toy") for _ in range(count)]
        found = await asyncio.gather(*asked) if together else [await one for one in asked]
        return [one.cause for one in found]

    return asyncio.run(run())


def test_a_server_is_looked_at_once_for_all_that_ask_at_a_time() -> None:
    services = Looking(GOOD)
    assert causes(services, 5, together=True) == [None] * 5
    assert services.looks == 1


def test_a_server_that_was_away_is_looked_at_anew() -> None:
    other = Service(cause="fingerprint")
    services = Looking(GOOD, other)
    assert causes(services, 2) == [None, None]
    services.forget()
    assert causes(services, 2) == ["fingerprint", "fingerprint"]
    assert services.looks == 2


def test_it_is_forgotten_when_a_request_does_not_reach_it() -> None:
    with serving(MockServer(MockSettings(opened=True))) as url, watching(url) as proxy:
        services = cast(Any, proxy.app.handlers["POST", CHAT])._services
        body = {"model": "toy", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
        assert httpx.post(proxy.url + CHAT, json=body, timeout=30).status_code == 200
        services._found = {"toy": GOOD}
        proxy.app.backends.all[0].upstream._address = httpx.URL("http://127.0.0.1:9")
        assert httpx.post(proxy.url + CHAT, json=body, timeout=30).status_code == 502
        assert not services._found


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_speaks_for_its_own_request(status: int) -> None:
    services = Looking(UpstreamError("No.", status=status), GOOD)
    assert causes(services, 3) == ["unresolved", None, None]


@pytest.mark.parametrize("trouble", [UpstreamError("Down."), UpstreamError("Busy.", status=429)])
def test_a_server_in_trouble_is_left_alone_for_a_while(
    trouble: UpstreamError, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Looking(trouble, GOOD)
    assert causes(services, 3) == ["unresolved"] * 3
    assert services.looks == 1
    monkeypatch.setattr("lynxstop.proxy.service.time.monotonic", lambda: 1e12)
    assert causes(services, 1) == [None]


def test_a_server_that_does_not_answer_holds_nobody_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LOOK_SECONDS", 0.05)
    services = Looking(None, GOOD)
    assert causes(services, 3) == ["unresolved"] * 3
    assert services.looks == 1


class Listing:
    """A server that lists its models, or fails."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def call(self, path: str, body: Any = None) -> Any:
        assert (path, body) == ("/v1/models", None)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


TOY = {"data": [{"id": "toy"}, {"id": "other"}]}


@pytest.mark.parametrize(
    ("answer", "ways", "troubles"),
    [
        (TOY, [Service(cause="fingerprint", trouble="Another model.")], ["Another model."] * 3),
        (TOY, [GOOD], [None] * 3),
        (TOY, [UpstreamError("Busy.", status=429)], ["Busy."] * 3),
        (TOY, [UpstreamError("No.", status=401), GOOD], [None] * 3),
        (UpstreamError("Who?", status=401), [], [None] * 3),
        ({"data": []}, [], [None] * 3),
        ([], [], [None] * 3),
    ],
)
def test_whether_the_bundle_belongs_is_known_before_the_first_request(
    answer: Any, ways: list[Any], troubles: list[str | None]
) -> None:
    services = Looking(*ways)

    async def run() -> list[str | None]:
        return [await services.ready(Listing(answer)) for _ in troubles]  # type: ignore[arg-type]

    assert asyncio.run(run()) == troubles
    assert not services.ways


def test_a_look_goes_on_when_the_one_who_asked_has_gone() -> None:
    begun = asyncio.Event()

    class Slow(Looking):
        async def _look(self, server: Any, model: str) -> Service:
            self.looks += 1
            await begun.wait()
            return GOOD

    services = Slow()

    async def run() -> str | None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(services.ready(Listing(TOY)), 0.01)  # type: ignore[arg-type]
        begun.set()
        return await services.ready(Listing(TOY))  # type: ignore[arg-type]

    assert asyncio.run(run()) is None
    assert services.looks == 1


def test_a_look_ends_with_the_proxy_and_takes_no_probe_along() -> None:
    class Slow(Looking):
        async def _look(self, server: Any, model: str) -> Service:
            await asyncio.Event().wait()
            return GOOD

    async def run() -> None:
        services = Slow()
        await services.end()
        probe = asyncio.create_task(services.ready(Listing(TOY)))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        await services.end()
        assert await asyncio.wait_for(probe, 10) is None
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_client_that_goes_leaves_the_look_to_the_next() -> None:
    services = Looking(None, GOOD)

    async def run() -> str | None:
        first = asyncio.create_task(services.of(cast(Any, None), "toy"))
        second = asyncio.create_task(services.of(cast(Any, None), "toy"))
        await asyncio.sleep(0)
        first.cancel()
        return (await second).cause

    assert asyncio.run(run()) is None


class Taking(Looking):
    """Takes any name, as llama.cpp's server does."""

    async def _look(self, server: Any, model: str) -> Service:
        self.looks += 1
        await asyncio.sleep(0)
        return GOOD


MADE_UP = [f"made-up-{number}" for number in range(200)]


def served(services: Services, server: Any, *models: str) -> list[str | None]:
    async def run() -> list[str | None]:
        found = await asyncio.gather(*(services.of(server, model) for model in models))
        return [one.cause for one in found]

    return asyncio.run(run())


@pytest.mark.parametrize("keyless", [False, True])
def test_names_that_clients_make_up_keep_no_model_of_the_server_unwatched(keyless: bool) -> None:
    services, server = Taking(), Listing(TOY)
    services._names = frozenset({"configured"})
    if not keyless:
        services.freshness.signs = {"toy": "", "other": ""}
    assert served(services, server, *MADE_UP).count(None) == 64
    assert served(services, server, "toy", "other", "configured") == [None] * 3
    assert services.looks == 67
    assert served(services, server, MADE_UP[0], MADE_UP[-1], "toy") == [None, "unresolved", None]


def test_names_that_clients_make_up_hold_up_no_model_of_the_server() -> None:
    class Waiting(Taking):
        async def _look(self, server: Any, model: str) -> Service:
            if model in MADE_UP:
                await asyncio.Event().wait()
            return GOOD

    services = Waiting()
    services.freshness.signs = {"toy": ""}

    async def run() -> Service:
        flood = [asyncio.create_task(services.of(cast(Any, None), name)) for name in MADE_UP]
        await asyncio.sleep(0)
        found = await asyncio.wait_for(services.of(cast(Any, None), "toy"), 10)
        for one in flood:
            one.cancel()
        return found

    assert asyncio.run(run()) is GOOD


def test_a_model_that_takes_long_to_examine_holds_up_no_other() -> None:
    class Waiting(Looking):
        async def _look(self, server: Any, model: str) -> Service:
            if model == "slow":
                await asyncio.Event().wait()
            return GOOD

    services = Waiting()
    services.freshness.signs = {"toy": "", "slow": ""}

    async def run() -> Service:
        slow = asyncio.create_task(services.of(cast(Any, None), "slow"))
        await asyncio.sleep(0)
        found = await asyncio.wait_for(services.of(cast(Any, None), "toy"), 10)
        slow.cancel()
        return found

    assert asyncio.run(run()) is GOOD


def test_how_tools_are_answered_is_found_out_for_one_model_while_another_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, tools = Fixed(0.0).service, frozenset({"tools"})
    looks: list[str] = []

    async def checked(server: Any, dialect: Any, model: str, *_: Any) -> tuple[Any, int]:
        looks.append(model)
        await (asyncio.Event().wait() if model == "slow" else asyncio.sleep(0))
        return dialect, 0

    monkeypatch.setattr(chat_routes, "check_chat_route", checked)

    async def run() -> list[Service | None]:
        routes = chat_routes.ChatRoutes()
        slow = asyncio.create_task(routes.of(cast(Any, None), found, "slow", tools))
        await asyncio.sleep(0)
        asked = [routes.of(cast(Any, None), found, "toy", tools) for _ in range(3)]
        answers = await asyncio.wait_for(asyncio.gather(*asked), 10)
        slow.cancel()
        return answers

    answers = asyncio.run(run())
    assert answers[0] is not None
    assert answers[0] is answers[1] is answers[2]
    assert looks == ["slow", "toy"]


def test_requests_that_wait_for_an_examination_that_fails_wait_for_no_other() -> None:
    class Failing(Looking):
        async def _look(self, server: Any, model: str) -> Service:
            await asyncio.sleep(0)
            return await super()._look(server, model)

    services = Failing(UpstreamError("Busy.", status=429), GOOD)
    assert causes(services, 5, together=True) == ["unresolved"] * 5
    assert services.looks == 1


def test_an_examination_that_finds_the_same_keeps_what_was_found_out_beside() -> None:
    config, server = Fixed(0.0).service.stream_config, cast(Any, None)
    assert config is not None
    looks = [Service(OpenAI("tokens", lead), replace(config, exit_ids=(1,))) for lead in ("", "", "{open}")]
    services = Looking(*looks)

    async def run() -> list[Service | None]:
        first = await services.of(server, "toy")
        found: list[Service | None] = [first]
        for _ in range(2):
            await services.again(server, "toy")
            found.append(services.known("toy"))
        return found

    first, same, other = asyncio.run(run())
    assert first is same is looks[0]
    assert other is looks[2]


def test_a_server_that_never_lists_its_models_holds_no_check_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Listing):
        async def call(self, path: str, body: Any = None) -> Any:
            await asyncio.Event().wait()

    monkeypatch.setattr(service, "LOOK_SECONDS", 0.05)
    hanging: Any = Hanging(None)
    assert asyncio.run(asyncio.wait_for(Looking().ready(hanging), 10)) is None
