"""Reloading loses no request, and a configuration that cannot be served changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import httpx
import pytest

from lynxstop.proxy.reload import Reloading
from lynxstop.proxy.serve import reloading
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.servers import children, command, eventually, program, serving

CHAT = "/v1/chat/completions"
BODY = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2?"}], "stream": True}


class Sources:
    """A configuration file, and the proxy that reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lynxstop.toml"
        self.url = ""

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def reload(self) -> httpx.Response:
        return httpx.post(self.url + "/lynxstop/reload", timeout=30)

    def count(self, outcome: str) -> float:
        text = httpx.get(self.url + "/metrics").text
        line = f'lynxstop_reloads_total{{outcome="{outcome}"}} '
        return next((float(one[len(line) :]) for one in text.splitlines() if one.startswith(line)), 0.0)


@contextmanager
def sourced(folder: Path, text: str) -> Iterator[Sources]:
    sources = Sources(folder)
    sources.write(text)
    with serving(reloading(sources.path, {})) as sources.url:
        yield sources


def upstream(url: str, more: str = "") -> str:
    return f'[upstream]\nurl = "{url}"\n{more}'


def asked(url: str) -> str:
    answer = httpx.post(url + CHAT, json={**BODY, "stream": False}, timeout=30)
    assert answer.status_code == 200
    name: str = answer.json()["model"]
    return name


def test_requests_under_way_end_where_they_began(tmp_path: Path) -> None:
    slow = MockServer(MockSettings(delay=0.01), model="old")
    with (
        serving(slow) as old,
        serving(MockServer(model="new")) as new,
        sourced(tmp_path, upstream(old)) as sources,
        httpx.stream("POST", sources.url + CHAT, json=BODY, timeout=60) as response,
    ):
        lines = response.iter_lines()
        assert '"model":"old"' in next(lines)
        sources.write(upstream(new))
        answer = sources.reload()
        assert answer.status_code == 200
        assert answer.json()["checks"] == {"upstream": "ok"}
        assert asked(sources.url) == "new"
        rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert all('"model":"old"' in line for line in rest[:-1])
        assert sources.count("done") == 1


def test_many_reloads_lose_no_request(tmp_path: Path) -> None:
    with (
        serving(MockServer(model="one")) as one,
        serving(MockServer(model="two")) as two,
        sourced(tmp_path, upstream(one)) as sources,
    ):
        found: list[str] = []
        over = threading.Event()

        def go_on() -> None:
            while not over.is_set():
                found.append(asked(sources.url))

        thread = threading.Thread(target=go_on)
        thread.start()
        for turn in range(6):
            sources.write(upstream(two if turn % 2 == 0 else one))
            assert sources.reload().status_code == 200
            later = len(found) + 2
            while len(found) < later and thread.is_alive():
                time.sleep(0.005)
        over.set()
        thread.join()
    assert set(found) == {"one", "two"}
    assert len(found) > 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("[polcy]", "no section [polcy]"),
        ("[limits]\nconcurrent = 0", "limits.concurrent"),
        ('[policy]\nbundle = "missing"', "missing"),
        ("[serve]\nport = 1234", "serve.port cannot change while the proxy runs"),
        ("this is no toml", "is not TOML"),
    ],
)
def test_what_cannot_be_served_is_refused_and_the_old_kept(tmp_path: Path, change: str, said: str) -> None:
    with serving(MockServer()) as url, sourced(tmp_path, upstream(url)) as sources:
        sources.write(upstream(url, change))
        answer = sources.reload()
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "reload_refused"
        assert said in answer.json()["error"]["message"]
        assert asked(sources.url) == "toy"
        assert (sources.count("refused"), sources.count("done")) == (1, 0)
        # And once it is mended, it is served.
        sources.write(upstream(url, "[limits]\nconcurrent = 7"))
        assert sources.reload().status_code == 200


def test_what_is_refused_leaves_no_trace(tmp_path: Path) -> None:
    with serving(MockServer()) as url, sourced(tmp_path, upstream(url, "[policy]\nrisk = 0.1")) as sources:
        sources.write(upstream(url, "[policy]\nrisk = 0.2\n[serve]\nport = 1234"))
        assert sources.reload().status_code == 409
        assert "lynxstop_risk_target 0.1\n" in httpx.get(sources.url + "/metrics").text


def test_a_backend_that_is_gone_is_shown_no_more(tmp_path: Path) -> None:
    with serving(MockServer(model="a")) as url:
        both = f"[[backend]]\nmodels = ['a']\nurl = '{url}'\n[[backend]]\nmodels = ['b']\nurl = '{url}'\n"
        with sourced(tmp_path, both) as sources:
            eventually(lambda: 'backend_up{backend="b"}' in httpx.get(sources.url + "/metrics").text)
            sources.write(both.partition("[[backend]]\nmodels = ['b']")[0])
            assert sources.reload().status_code == 200
            assert 'backend_up{backend="b"}' not in httpx.get(sources.url + "/metrics").text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_reloads_on_hup_and_has_an_admin_port(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "lynxstop.toml"
    with serving(MockServer(model="one")) as one, serving(MockServer(model="two")) as two:
        path.write_text(upstream(one))
        port = free_port()
        words = ("--config", str(path), "--workers", str(workers))
        with command(*words, LYNXSTOP_ADMIN_PORT=str(port)) as (process, url, lines):
            admin = f"http://127.0.0.1:{port}"
            eventually(lambda: _answers(url) and _answers(admin) and said(lines, "started") >= workers)
            assert asked(url) == "one"
            path.write_text(upstream(two, "[limits]\nconcurrent = 'many'"))
            os.kill(process.pid, signal.SIGHUP)
            eventually(lambda: said(lines, "reload_refused") >= workers)
            assert asked(url) == "one"
            path.write_text(upstream(two))
            os.kill(process.pid, signal.SIGHUP)
            eventually(lambda: said(lines, "reloaded") >= workers)
            assert asked(url) == "two"
            # The admin port alone has what is for operators, and nothing of the clients.
            assert httpx.get(admin + "/lynxstop/status").status_code == 200
            assert httpx.get(admin + "/metrics").status_code == 200
            assert httpx.post(admin + "/lynxstop/reload", timeout=30).status_code == 200
            for base, paths in (
                (url, ("/lynxstop", "/lynxstop/status", "/metrics")),
                (admin, ("/v1/models",)),
            ):
                for one_path in paths:
                    assert httpx.get(base + one_path).json()["error"]["code"] == "not_found"
            assert process.poll() is None
            process.terminate()
            process.wait(30)


def test_a_backend_that_is_gone_is_not_down_where_there_are_workers(tmp_path: Path) -> None:
    path = tmp_path / "lynxstop.toml"
    with serving(MockServer(model="a")) as one:
        kept, gone = (f"[[backend]]\nmodels = ['{name}']\nurl = '{one}'\n" for name in "ab")
        path.write_text(kept + gone)
        with command("--config", str(path), "--workers", "2") as (process, url, lines):

            def up(name: str) -> list[str]:
                shown = httpx.get(url + "/metrics").text.splitlines()
                return [line.split()[1] for line in shown if f'backend_up{{backend="{name}"}}' in line]

            eventually(lambda: _answers(url) and said(lines, "started") >= 4 and up("b") == ["1.0"])
            path.write_text(kept)
            os.kill(process.pid, signal.SIGHUP)
            eventually(lambda: said(lines, "reloaded") >= 2)
            # An alert takes 0 for a server that does not answer.
            assert (up("a"), up("b")) == (["1.0"], ["NaN"])
            process.terminate()
            process.wait(30)


def test_a_worker_that_starts_under_a_broken_configuration_takes_no_other_along(tmp_path: Path) -> None:
    path = tmp_path / "lynxstop.toml"
    with serving(MockServer(model="one")) as one:
        path.write_text(upstream(one))
        with command("--config", str(path), "--workers", "2") as (process, url, lines):
            eventually(lambda: said(lines, "started") >= 2)
            path.write_text(upstream(one, "[limits]\nconcurrent = 'many'"))
            killed = children(process.pid)[-1]
            os.kill(killed, signal.SIGKILL)
            eventually(lambda: said(lines, "worker_not_started") >= 2)
            assert asked(url) == "one"
            path.write_text(upstream(one))
            eventually(lambda: said(lines, "started") >= 3)
            assert asked(url) == "one"
            assert process.poll() is None


def test_what_cannot_be_served_ends_the_command_and_starts_no_worker(tmp_path: Path) -> None:
    words = program("proxy", "--port", "0", "--upstream", "http://127.0.0.1:1", "--workers", "2")
    done = subprocess.run([*words, "--bundle", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "There is no bundle at" in done.stderr
    assert "Traceback" not in done.stderr
    assert "worker" not in done.stderr


def said(lines: list[Any], event: str) -> int:
    return [line["event"] for line in list(lines)].count(event)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url + "/health").status_code == 200
    except httpx.TransportError:
        return False


def test_an_old_proxy_ends_after_its_last_request() -> None:
    ended: list[str] = []

    class Old:
        config = metrics = None

        async def __call__(self, *_: Any) -> None:
            await free.wait()

        async def settle(self) -> None:
            ended.append("settled")

        async def end(self) -> None:
            ended.append("ended")

    async def check() -> None:
        old: Any = Old()
        made = Reloading(old, lambda _: old)
        request = asyncio.create_task(made({"type": "http"}, None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        made.app = None  # type: ignore[assignment]
        retiring = asyncio.create_task(made._retire(old))
        await asyncio.sleep(0.01)
        assert ended == ["settled"]
        free.set()
        await asyncio.gather(request, retiring)
        assert ended == ["settled", "settled", "ended"]

    free = asyncio.Event()
    asyncio.run(check())


def test_a_shutdown_ends_what_was_replaced_and_what_was_to_replace_it() -> None:
    ended: list[str] = []

    class One:
        metrics: Any = MagicMock()
        config = None

        def __init__(self, name: str) -> None:
            self.name = name

        async def __call__(self, *_: Any) -> None:
            await asyncio.Event().wait()

        async def begin(self) -> None:
            pass

        async def checked(self) -> None:
            await asyncio.Event().wait()

        async def settle(self) -> None:
            await asyncio.Event().wait()

        async def end(self) -> None:
            ended.append(self.name)
            if self.name != "next":
                # at the same time, so that a shutdown takes no longer for them
                await asyncio.wait_for(both.wait(), 10)

    async def check() -> None:
        old, new, next_one = (cast("Any", One(name)) for name in ("old", "new", "next"))
        made = Reloading(old, lambda _: next_one)
        request = asyncio.create_task(made({"type": "http"}, None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        # given an app that is being retired, and one whose servers are being examined
        made.app = new
        made._start(made._retire(old))
        made._on_signal()
        await asyncio.sleep(0.1)
        # when the server ends
        await made._end()
        request.cancel()

    both = asyncio.Barrier(2)
    asyncio.run(check())
    # then all of them are ended, and their connections closed
    assert sorted(ended) == ["new", "next", "old"]
