"""What the proxy costs: added latency, CPU per event, memory, many streams; beside server and bare relay.

Three processes serve: an upstream that streams events of 20 log-probabilities at a fixed pace, a proxy that
only relays, and a proxy that watches every token and never stops. A fourth one asks all three at the same
time, so that all see the same machine. Events carry the time at which they were written: a delay is arrival
minus that, and what is added is the difference of quantiles to the direct connection.

    python benchmarks/proxy.py [--streams 64] [--events 300] [--pace 0.02] [--requests 10000] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

WORDS = [" so", " the", " 5", " +", " 3", " =", " 8", ".", " Check", " gives", " ok.", "\n\n", "Wait", " let"]
RATES = [8, 8, 8, 8, 8, 8, 8, 4, 2, 2, 2, 1, 1, 1]
STAMP = b"1795338676"


def event(chance: random.Random) -> bytes:
    """One event as vLLM streams it, with a stamp to be replaced."""

    def entry(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    [text] = chance.choices(WORDS, RATES)
    top = [entry(chance.choice(WORDS), -0.1 - 0.7 * k - 0.1 * chance.random()) for k in range(20)]
    logprobs = {"content": [{**entry(text, -0.3), "top_logprobs": top}]}
    choice = {"index": 0, "delta": {"reasoning": text}, "logprobs": logprobs, "finish_reason": None}
    body = {
        "id": "chatcmpl-0",
        "object": "chat.completion.chunk",
        "created": int(STAMP),
        "model": "m",
        "choices": [{**choice, "token_ids": [337]}],
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def upstream_app() -> Any:
    """A server that streams as many events as `max_tokens` says, at the pace of the header `x-pace`."""
    chance = random.Random(0)
    parts = [tuple(event(chance).split(STAMP)) for _ in range(997)]
    last = {"id": "chatcmpl-0", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}
    end = b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        pace = float(dict(scope["headers"]).get(b"x-pace", b"0"))
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number in range(json.loads(body)["max_tokens"]):
            if pace:
                await asyncio.sleep(max(0.0, start + number * pace - loop.time()))
            head, tail = parts[number % len(parts)]
            stamp = str(time.monotonic_ns()).encode()
            await send({"type": "http.response.body", "body": head + stamp + tail, "more_body": True})
        await send({"type": "http.response.body", "body": end, "more_body": False})

    return app


def relay_app(upstream: str) -> Any:
    """The proxy without a bundle: everything is relayed."""
    from lynxstop.proxy.app import create_app
    from lynxstop.proxy.config import ProxyConfig

    limits = {"concurrent": 4096}
    return create_app(ProxyConfig.model_validate({"upstream": {"url": upstream}, "limits": limits}))


def mock_app() -> Any:
    """The toy server, at 20 ms per token; it counts what it has generated."""
    from lynxstop.proxy.mock.knobs import Knobs
    from lynxstop.proxy.mock.server import MockServer

    return MockServer(Knobs(delay=0.02, opened=True))


def stopping_app(upstream: str) -> Any:
    """The proxy with a rule that exits at the first cue."""
    return watching_app(upstream, -1e30, exit_ids=())


def watching_app(upstream: str, threshold: float = 1e30, exit_ids: tuple[int, ...] = (1,)) -> Any:
    """The proxy with a rule that scores every cue, and never exits unless told to."""
    from lynxstop.core.cues import CueSet
    from lynxstop.core.policy import Level, StopPolicy
    from lynxstop.core.stream import StreamWatch
    from lynxstop.core.thinking import Delimiters
    from lynxstop.proxy.app import create_app
    from lynxstop.proxy.chat import ChatHandler
    from lynxstop.proxy.config import ProxyConfig
    from lynxstop.proxy.metrics import Metrics
    from lynxstop.proxy.service import Service, Services
    from lynxstop.proxy.upstream import Upstream
    from lynxstop.remote.dialects.vllm import Vllm
    from lynxstop.remote.session import Terms
    from lynxstop.rules.learned import LogprobProbe
    from lynxstop.rules.served import serve

    ones = (1.0,) * len(LogprobProbe.keys)
    rule = LogprobProbe(means=ones, scales=ones, weights=ones, bias=0.0)

    class Fixed(Services):
        async def of(self, server: Any, model: str) -> Service:
            return served

    watch = StreamWatch(CueSet(("wait", "hmm", "alternatively")), Delimiters(("<think>",), ("</think>",)))
    policy = StopPolicy((0,), (Level(0.05, threshold),), rule=serve(rule))
    served = Service(
        Vllm(), Terms(watch, policy, "\n</think>\n\n", ("</think>",), before=True, exit_ids=exit_ids)
    )
    services = Fixed(None)
    services.policy = policy
    given = {"upstream": {"url": upstream}, "policy": {"risk": 0.05}, "limits": {"concurrent": 4096}}
    config = ProxyConfig.model_validate(given)
    metrics, connection = Metrics(), Upstream(config.upstream)
    chat = ChatHandler(config, connection, metrics, services)
    return create_app(config, {("POST", "/v1/chat/completions"): chat}, upstream=connection, metrics=metrics)


def serve(kind: str, port: int, upstream: str) -> None:
    """Serve one of the three; runs in a process of its own."""
    import uvicorn

    from lynxstop.proxy.serve import settle_memory

    settle_memory()
    apps = {"upstream": upstream_app, "mock": mock_app}
    proxies = {"relay": relay_app, "watching": watching_app, "stopping": stopping_app}
    app = apps[kind]() if kind in apps else proxies[kind](upstream)
    uvicorn.run(app, port=port, log_level="critical", access_log=False, backlog=4096)


class Server:
    """A process that serves."""

    def __init__(self, kind: str, upstream: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        line = [sys.executable, __file__, "--serve", kind, str(self.port), upstream]
        self.process = subprocess.Popen(line)
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"{kind} did not start")

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def cpu(self) -> float:
        """CPU seconds it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self) -> float:
        """Resident memory in MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def ask(port: int, tokens: int, pace: float) -> AsyncIterator[tuple[int, bytes]]:
    """Ask for a stream; give each event with the time it arrived at, in nanoseconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    chat = {"model": "m", "messages": [{"role": "user", "content": "q"}], "stream": True}
    body = json.dumps({**chat, "max_tokens": tokens}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    kind = f"content-type: application/json\r\nx-pace: {pace}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode() + kind.encode() + body)
    try:
        if b"200" not in await reader.readline():
            raise RuntimeError("refused")
        while True:
            line = await reader.readline()
            if not line:
                return
            if line.startswith(b"data: "):
                yield time.monotonic_ns(), line
    finally:
        writer.close()


async def delays(
    port: int, streams: int, events: int, pace: float
) -> tuple[list[float], list[float], list[float], int]:
    """Delays in milliseconds of first events, later ones and cues, and how many streams did not end well."""
    first: list[float] = []
    later: list[float] = []
    held: list[float] = []

    async def one(number: int) -> bool:
        await asyncio.sleep(number * pace / max(1, streams))
        seen, ended, behind = 0, False, False
        try:
            async for arrived, line in ask(port, events, pace):
                if line.startswith(b"data: [DONE]"):
                    ended = True
                    continue
                stamp = line.partition(b'"created":')[2].split(b",")[0].split(b"}")[0]
                if stamp:
                    # A cue and the word behind it wait for the decision: that is what the exit may take away.
                    cue = b'"reasoning":"Wait"' in line
                    kind = first if not seen else held if cue or behind else later
                    kind.append((arrived - int(stamp)) / 1e6)
                    behind = cue
                    seen += 1
        except (OSError, RuntimeError):
            return False
        return ended and seen == events

    good = await asyncio.gather(*(one(number) for number in range(streams)))
    return first, later, held, streams - sum(good)


async def measure(arguments: argparse.Namespace, servers: dict[str, Server]) -> dict[str, Any]:
    found: dict[str, Any] = {"streams": arguments.streams, "events": arguments.events, "pace": arguments.pace}
    before = {name: server.cpu() for name, server in servers.items()}
    timed = dict(
        zip(
            servers,
            await asyncio.gather(
                *(
                    delays(server.port, arguments.streams, arguments.events, arguments.pace)
                    for server in servers.values()
                )
            ),
            strict=True,
        )
    )
    for name, (first, later, held, failed) in timed.items():
        found[name] = {
            "failed": failed,
            "first_ms": [round(float(q), 3) for q in np.quantile(first, [0.5, 0.99])],
            "chunk_ms": [round(float(q), 3) for q in np.quantile(later, [0.5, 0.99])],
            "held_ms": [round(float(q), 3) for q in np.quantile(held or [0.0], [0.5, 0.99])],
        }
    events = arguments.streams * arguments.events
    for name in ("relay", "watching"):
        found[name]["cpu_us_per_event"] = round((servers[name].cpu() - before[name]) / events * 1e6, 1)
        for what in ("first_ms", "chunk_ms", "held_ms"):
            pairs = zip(found[name][what], found["upstream"][what], strict=True)
            found[name][f"added_{what}"] = [round(own - direct, 3) for own, direct in pairs]
    return found


async def flood(port: int, requests: int, at_once: int = 64) -> int:
    """Ask many short streams; return how many failed."""
    left, failed = iter(range(requests)), 0

    async def work() -> None:
        nonlocal failed
        for _ in left:
            failed += (await delays(port, 1, 5, 0.0))[3]

    await asyncio.gather(*(work() for _ in range(at_once)))
    return failed


def behind_exits(requests: int) -> dict[str, float]:
    """How many tokens a server still generates once the proxy has read the one that decides an exit."""
    mock = Server("mock")
    stopping = Server("stopping", mock.url)
    with httpx.Client(timeout=60) as client:
        for number in range(requests):
            messages = [{"role": "user", "content": f"What is {number} + 5 * 2 - 3?"}]
            client.post(f"{stopping.url}/v1/chat/completions", json={"model": "toy", "messages": messages})
        time.sleep(1)
        records = client.get(f"{mock.url}/stats").json()["recent"]
        shown = client.get(f"{stopping.url}/metrics").text.splitlines()
    for server in (mock, stopping):
        server.process.terminate()
    read = next(float(line.split()[1]) for line in shown if line.startswith("lynxstop_upstream_tokens_total"))
    aborted = [record for record in records if record["outcome"] == "aborted"]
    generated = sum(record["tokens"] for record in records)
    return {"exits": len(aborted), "tokens_behind": round((generated - read) / max(1, len(aborted)), 2)}


def main() -> None:
    """Run all measurements."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--pace", type=float, default=0.05, help="seconds between events of a stream")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    upstream = Server("upstream")
    servers = {"upstream": upstream} | {name: Server(name, upstream.url) for name in ("relay", "watching")}
    try:
        asyncio.run(flood(servers["watching"].port, 200))
        found = asyncio.run(measure(arguments, servers))
        watching = servers["watching"]
        _, _, _, failed = asyncio.run(delays(watching.port, arguments.many, 20, 1.0))
        found["many"] = {"streams": arguments.many, "failed": failed}
        memory = [watching.rss()]
        failures = 0
        for _ in range(4):
            failures += asyncio.run(flood(watching.port, arguments.requests // 4))
            memory.append(watching.rss())
        sizes = [round(size, 1) for size in memory]
        found["behind"] = behind_exits(30)
        found["requests"] = {"number": arguments.requests, "failed": failures, "rss_mib": sizes}
    finally:
        for server in servers.values():
            server.process.terminate()
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    show(found)


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{found['streams']} streams of {found['events']} events, one every {found['pace'] * 1e3:g} ms\n")
    print("| | direct | a relay adds | watching adds |\n|---|---|---|---|")
    kinds = {"first_ms": "first event", "chunk_ms": "later events", "held_ms": "cues and the word behind"}
    for what, label in kinds.items():
        for place, quantile in enumerate(("p50", "p99")):
            own = found["upstream"][what][place]
            added = [found[name][f"added_{what}"][place] for name in ("relay", "watching")]
            print(f"| {label}, {quantile} | {own:.2f} ms | {added[0]:+.2f} ms | {added[1]:+.2f} ms |")
    cpu = [found[name]["cpu_us_per_event"] for name in ("relay", "watching")]
    print(f"| CPU per event | | {cpu[0]:.0f} us | {cpu[1]:.0f} us |")
    many, requests, behind = found["many"], found["requests"], found["behind"]
    print(f"\n{behind['exits']} exits: {behind['tokens_behind']} tokens each behind the deciding one.")
    print(f"\n{many['streams']} streams at once: {many['failed']} failed.")
    print(f"{requests['number']} requests: {requests['failed']} failed; RSS {requests['rss_mib']} MiB.")


if __name__ == "__main__":
    main()
