"""Several processes as one proxy: numbers summed, nothing else shared, all of them drained."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx

from lynxstop.testing.server import MockServer
from tests.support.servers import children, eventually, serving

ASK = {"messages": [{"role": "user", "content": "7 + 5 * 2"}], "stream": True}
CHAT = "/v1/chat/completions"


@contextmanager
def several(*words: str, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run `lynxstop proxy` with two workers; give its process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "lynxstop.cli", "proxy", "--workers", "2", "--port", str(port), *words]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, env={**os.environ, **variables})
    address = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return httpx.get(address + "/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(up)
        yield process, address
    finally:
        process.terminate()
        process.wait(60)


def value(text: str, name: str) -> float:
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_every_worker_serves_and_shows_the_sum_of_all() -> None:
    with serving(MockServer()) as url, several("--upstream", url) as (process, proxy):
        eventually(lambda: len(children(process.pid)) == 2)

        def shown() -> set[float]:
            # Connections of their own, so that either worker may answer.
            texts = [httpx.get(proxy + "/metrics").text for _ in range(8)]
            return {value(text, "lynxstop_requests_total") for text in texts}

        def handled() -> dict[int, int]:
            found = {}
            for number in children(process.pid):
                with open(f"/proc/{number}/io") as counts:
                    found[number] = int(counts.read().split("wchar: ")[1].split()[0])
            return found

        before, asked = handled(), 0
        with ThreadPoolExecutor(8) as pool:
            while not all(count > before[number] for number, count in handled().items()):
                answers = list(pool.map(lambda _: httpx.get(proxy + "/v1/models").status_code, range(16)))
                assert answers == [200] * 16
                asked += 16
        eventually(lambda: shown() == {asked})
        assert value(httpx.get(proxy + "/metrics").text, "lynxstop_requests_active") == 0


def test_a_signal_drains_all_workers() -> None:
    mock = MockServer()
    settings = {"x-mock": "delay=0.02, checks=2"}

    async def one(client: httpx.AsyncClient, begun: list[int], number: int) -> bytes:
        async with client.stream("POST", address + CHAT, json=ASK, headers=settings) as response:
            raw = b""
            async for chunk in response.aiter_raw():
                raw += chunk
                begun[number] = 1
            return raw

    async def all_of_them() -> list[bytes]:
        begun = [0] * 12
        async with httpx.AsyncClient(timeout=60) as client:
            tasks = [asyncio.create_task(one(client, begun, number)) for number in range(12)]
            while sum(begun) < 12:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            return list(await asyncio.gather(*tasks))

    with serving(mock) as url, several("--upstream", url) as (process, address):
        eventually(lambda: len(children(process.pid)) == 2)
        found = asyncio.run(all_of_them())
        status = process.wait(60)

    assert all(raw.endswith(b"data: [DONE]\n\n") for raw in found)
    assert [record.outcome for record in mock.records] == ["completed"] * 12
    assert status in (0, -signal.SIGTERM)


def test_a_worker_that_is_killed_is_replaced_and_the_others_go_on() -> None:
    with serving(MockServer()) as url, several("--upstream", url) as (process, proxy):
        eventually(lambda: len(children(process.pid)) == 2)
        lost = set(children(process.pid))

        def shown(name: str) -> float:
            try:
                return value(httpx.get(proxy + "/metrics").text, name)
            except httpx.TransportError:
                return -1

        for _ in range(10):
            httpx.get(proxy + "/v1/models")
        settings = {"x-mock": "delay=0.02, checks=1000"}
        with httpx.stream("POST", proxy + CHAT, json=ASK, headers=settings, timeout=60) as response:
            chunks = response.iter_raw()
            next(chunks)
            assert shown("lynxstop_requests_active") == 1
            for number in lost:
                os.kill(number, signal.SIGKILL)
            eventually(lambda: len(set(children(process.pid)) - lost) == 2)

        # What the lost ones had counted stays counted, and what they were about is no more.
        eventually(lambda: shown("lynxstop_requests_total") == 10)
        eventually(lambda: shown("lynxstop_requests_active") == 0)
