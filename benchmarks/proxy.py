"""What the proxy costs: added latency, CPU per event, memory, many streams; beside server and bare relay.

Four processes serve: an upstream that streams events of 20 log-probabilities at a fixed pace, a bare relay in
a few lines of the same libraries, the proxy that only relays, and the proxy that watches every token and
never stops. A fifth one asks all four at the same time, so that all see the same machine. The delay of a
stream's first event is counted from before the client connects, that of a later one from when the upstream
wrote it; what is added is the difference of quantiles to the direct connection. Streams begin spread over the
length of one, each followed by another; then all within the time between two events; then all at once.
Processor time per event is measured again with one of them asked at a time: with streams that keep apart, and
with streams in step, as an engine sends what it generates for a batch.

    python benchmarks/proxy.py [--streams 64] [--events 300] [--pace 0.02] [--requests 10000] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np

WORDS = [" so", " the", " 5", " +", " 3", " =", " 8", ".", " Check", " gives", " ok.", "\n\n", "Wait", " let"]
RATES = [8, 8, 8, 8, 8, 8, 8, 4, 2, 2, 2, 1, 1, 1]
NUMBER = b"#0#"
BETWEEN = ("bare", "relay", "watching")


def event(chance: random.Random) -> bytes:
    """One event as vLLM streams it, with the number of its stream to be filled in."""

    def entry(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    [text] = chance.choices(WORDS, RATES)
    top = [entry(chance.choice(WORDS), -0.1 - 0.7 * k - 0.1 * chance.random()) for k in range(20)]
    logprobs = {"content": [{**entry(text, -0.3), "top_logprobs": top}]}
    choice = {"index": 0, "delta": {"reasoning": text}, "logprobs": logprobs, "finish_reason": None}
    body = {
        "id": f"chatcmpl-{NUMBER.decode()}",
        "object": "chat.completion.chunk",
        "created": 1795338676,
        "model": "m",
        "choices": [{**choice, "token_ids": [337]}],
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def upstream_app() -> Any:
    """A server that streams as many events as `max_tokens` says, at the pace of the header `x-pace`.

    Streams whose request says `in_step` have their events at the same moments.
    `/written` tells, stream by stream, when it wrote the events of all streams since it was last asked.
    """
    chance = random.Random(0)
    parts = [tuple(event(chance).split(NUMBER)) for _ in range(997)]
    last = {"id": "end", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}
    end = b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n"
    written: dict[int, list[int]] = {}
    numbers = itertools.count(1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/written":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": json.dumps(written).encode()})
            written.clear()
            return
        pace = float(dict(scope["headers"]).get(b"x-pace", b"0"))
        stream = next(numbers)
        name = str(stream).encode()
        times: list[int] = []
        if pace:
            written[stream] = times
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        loop = asyncio.get_running_loop()
        asked = json.loads(body)
        start = loop.time()
        if asked.get("in_step"):
            start = math.ceil(start / pace) * pace
        for number in range(asked["max_tokens"]):
            if pace:
                await asyncio.sleep(max(0.0, start + number * pace - loop.time()))
            head, tail = parts[number % len(parts)]
            times.append(time.monotonic_ns())
            await send({"type": "http.response.body", "body": head + name + tail, "more_body": True})
        await send({"type": "http.response.body", "body": end, "more_body": False})

    return app


def bare_app(upstream: str) -> Any:
    """A relay as one would write it in a few lines, on Starlette and httpx, with aiohttp under it."""
    from httpx_aiohttp import AiohttpTransport
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    client = httpx.AsyncClient(transport=AiohttpTransport(), base_url=upstream, timeout=None)

    async def handle(request: Request) -> StreamingResponse:
        headers = {"content-type": "application/json", "x-pace": request.headers.get("x-pace", "0")}
        asked = client.build_request("POST", request.url.path, headers=headers, content=await request.body())
        answer = await client.send(asked, stream=True)

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
            finally:
                await answer.aclose()

        return StreamingResponse(chunks(), answer.status_code, media_type=answer.headers["content-type"])

    return Starlette(routes=[Route("/v1/chat/completions", handle, methods=["POST"])])


def relay_app(upstream: str) -> Any:
    """The proxy without a bundle: everything is relayed."""
    from lynxstop.proxy.app import create_app
    from lynxstop.proxy.config import ProxyConfig

    limits = {"concurrent": 4096}
    return create_app(ProxyConfig.model_validate({"upstream": {"url": upstream}, "limits": limits}))


def mock_app() -> Any:
    """The toy server, at 20 ms per token; it counts what it has generated."""
    from lynxstop.testing.server import MockServer
    from lynxstop.testing.settings import MockSettings

    return MockServer(MockSettings(delay=0.02, opened=True))


def stopping_app(upstream: str) -> Any:
    """The proxy with a rule that exits at the first cue."""
    return watching_app(upstream, -1e30, exit_ids=())


def watching_app(upstream: str, threshold: float = 1e30, exit_ids: tuple[int, ...] = (1,)) -> Any:
    """The proxy with a rule that scores every cue, and never exits, unless its threshold is low."""
    from lynxstop.core.cues import CueSet
    from lynxstop.core.policy import Level, StopPolicy
    from lynxstop.core.stream import StreamWatch
    from lynxstop.core.thinking import Delimiters
    from lynxstop.proxy.app import create_app
    from lynxstop.proxy.chat import ChatHandler
    from lynxstop.proxy.config import ProxyConfig
    from lynxstop.proxy.examination import Service
    from lynxstop.proxy.metrics import Metrics
    from lynxstop.proxy.service import Services
    from lynxstop.remote.dialects.vllm import Vllm
    from lynxstop.remote.http.upstream import Upstream
    from lynxstop.remote.stream_config import StreamConfig
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
        Vllm(), StreamConfig(watch, policy, "\n</think>\n\n", ("</think>",), before=True, exit_ids=exit_ids)
    )
    services = Fixed(None)
    services.policy = policy
    given = {"upstream": {"url": upstream}, "policy": {"risk": 0.05}, "limits": {"concurrent": 4096}}
    config = ProxyConfig.model_validate(given)
    metrics, connection = Metrics(), Upstream(config.upstream)
    chat = ChatHandler(config, connection, metrics, services)
    return create_app(config, {("POST", "/v1/chat/completions"): chat}, upstream=connection, metrics=metrics)


def serve(kind: str, port: int, upstream: str) -> None:
    """Serve one of them; runs in a process of its own."""
    import uvicorn

    from lynxstop.proxy.config import ProxyConfig
    from lynxstop.proxy.serve import options, settle_memory

    settle_memory()
    apps = {"upstream": upstream_app, "mock": mock_app}
    proxies = {"bare": bare_app, "relay": relay_app, "watching": watching_app, "stopping": stopping_app}
    app = apps[kind]() if kind in apps else proxies[kind](upstream)
    served = options(ProxyConfig()) | {"port": port, "log_level": "critical", "backlog": 4096}
    uvicorn.run(app, **served)


class Process:
    """A process that serves on a free port; as a context, it ends with the block."""

    process: subprocess.Popen[bytes]

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(120)

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


class Server(Process):
    """One of the servers of this file."""

    def __init__(self, kind: str, upstream: str = "") -> None:
        super().__init__()
        line = [sys.executable, __file__, "--serve", kind, str(self.port), upstream]
        self.process = subprocess.Popen(line)
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"{kind} did not start")


async def ask(port: int, tokens: int, pace: float, in_step: bool) -> AsyncIterator[tuple[int, bytes]]:
    """Ask for a stream; give each event with the time at which it arrived, and first of all the time."""
    yield time.monotonic_ns(), b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    chat = {"model": "m", "messages": [{"role": "user", "content": "q"}], "stream": True}
    body = json.dumps({**chat, "max_tokens": tokens, "in_step": in_step}).encode()
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


@dataclass
class Stream:
    """One stream as it arrived; times in nanoseconds.

    A cue and the word after it are `held`: they wait for the decision, since an exit may remove them.
    """

    asked: int = 0
    number: int = 0
    arrived: list[int] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    whole: bool = False


async def read(port: int, events: int, pace: float, in_step: bool = False) -> Stream:
    """Read one stream."""
    found, after = Stream(), False
    try:
        async for now, line in ask(port, events, pace, in_step):
            if not line:
                found.asked = now
            elif line.startswith(b"data: [DONE]"):
                found.whole = len(found.arrived) == events
            elif number := line.partition(b'"id":"chatcmpl-')[2].partition(b'"')[0]:
                cue = b'"reasoning":"Wait"' in line
                found.number = int(number)
                found.arrived.append(now)
                found.held.append(cue or after)
                after = cue
    except (OSError, RuntimeError):
        pass
    return found


async def several(
    port: int, streams: int, events: int, pace: float, gap: float, rounds: int, in_step: bool = False
) -> list[Stream]:
    """Read as many streams at a time, begun `gap` seconds apart, each followed by others."""

    async def one(number: int) -> list[Stream]:
        await asyncio.sleep(number * gap)
        return [await read(port, events, pace, in_step) for _ in range(rounds)]

    return [stream for found in await asyncio.gather(*map(one, range(streams))) for stream in found]


def delays(streams: Sequence[Stream], written: dict[str, list[int]]) -> dict[str, list[float]]:
    """Milliseconds by kind of event."""
    found: dict[str, list[float]] = {"first_ms": [], "chunk_ms": [], "held_ms": []}
    for stream in streams:
        found["first_ms"] += [(now - stream.asked) / 1e6 for now in stream.arrived[:1]]
        times = zip(stream.arrived, written.get(str(stream.number), []), stream.held, strict=False)
        for now, then, held in itertools.islice(times, 1, None):
            found["held_ms" if held else "chunk_ms"].append((now - then) / 1e6)
    return found


async def measure(
    servers: dict[str, Server], streams: int, events: int, pace: float, gap: float, rounds: int
) -> dict[str, Any]:
    """Ask all servers at the same time; return delays, what the proxies add, and what they use."""
    before = {name: server.cpu() for name, server in servers.items()}
    asked = [several(server.port, streams, events, pace, gap, rounds) for server in servers.values()]
    read = dict(zip(servers, await asyncio.gather(*asked), strict=True))
    written = httpx.get(f"{servers['upstream'].url}/written").json()
    found: dict[str, Any] = {}
    for name, got in read.items():
        found[name] = {"failed": sum(not stream.whole for stream in got)}
        for what, times in delays(got, written).items():
            found[name][what] = [round(float(q), 3) for q in np.quantile(times or [0.0], [0.5, 0.99])]
    for name in BETWEEN:
        used = servers[name].cpu() - before[name]
        found[name]["cpu_us_per_event"] = round(used / (streams * rounds * events) * 1e6, 1)
        for what in ("first_ms", "chunk_ms", "held_ms"):
            pairs = zip(found[name][what], found["upstream"][what], strict=True)
            found[name][f"added_{what}"] = [round(own - direct, 3) for own, direct in pairs]
    return found


async def alone(
    servers: dict[str, Server], streams: int, events: int, pace: float, in_step: bool
) -> dict[str, Any]:
    """Microseconds of processor time per event of each proxy, measured alone: medians of three."""
    used: dict[str, list[float]] = {name: [] for name in BETWEEN}
    for _ in range(3):
        for name in BETWEEN:
            before = servers[name].cpu()
            await several(servers[name].port, streams, events, pace, pace / streams, 1, in_step)
            used[name].append((servers[name].cpu() - before) / (streams * events) * 1e6)
    return {name: round(float(np.median(values)), 1) for name, values in used.items()}


async def one_by_one(servers: dict[str, Server]) -> dict[str, list[float]]:
    """Milliseconds to the first event, p50 and p99, of 300 requests one after the other."""
    found = {}
    for name, server in servers.items():
        streams = [await read(server.port, 1, 0.0) for _ in range(300)]
        times = [(stream.arrived[0] - stream.asked) / 1e6 for stream in streams if stream.arrived]
        found[name] = [round(float(q), 2) for q in np.quantile(times, [0.5, 0.99])]
    return found


async def flood(port: int, requests: int, at_once: int = 64) -> int:
    """Ask many short streams; return how many failed."""
    left, failed = iter(range(requests)), 0

    async def work() -> None:
        nonlocal failed
        for _ in left:
            failed += not (await read(port, 5, 0.0)).whole

    await asyncio.gather(*(work() for _ in range(at_once)))
    return failed


def after_exits(requests: int) -> dict[str, float]:
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
    return {"exits": len(aborted), "tokens_after": round((generated - read) / max(1, len(aborted)), 2)}


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
    servers = {"upstream": upstream} | {name: Server(name, upstream.url) for name in BETWEEN}
    streams, events, pace = arguments.streams, arguments.events, arguments.pace
    found: dict[str, Any] = {"streams": streams, "events": events, "pace": pace}
    watching = servers["watching"]
    try:
        for name in BETWEEN:
            asyncio.run(flood(servers[name].port, 200))
        gap = events * pace / streams
        found["spread"] = asyncio.run(measure(servers, streams, events, pace, gap, 2))
        found["together"] = asyncio.run(measure(servers, streams, events, pace, pace / streams, 1))
        found["at_once"] = asyncio.run(measure(servers, streams, events, pace, 0.0, 1))
        found["alone"] = [
            {
                "pace": each,
                "in_step": in_step,
                **asyncio.run(alone(servers, streams, int(count), each, in_step)),
            }
            for each, in_step in ((pace, False), (pace / 5, False), (pace / 5, True))
            for count in [events * pace / each / 2]
        ]
        found["one_by_one"] = asyncio.run(one_by_one(servers))
        many = asyncio.run(several(watching.port, arguments.many, 20, 1.0, 1.0 / arguments.many, 1))
        found["many"] = {"streams": arguments.many, "failed": sum(not stream.whole for stream in many)}
        memory = [watching.rss()]
        failures = 0
        for _ in range(4):
            failures += asyncio.run(flood(watching.port, arguments.requests // 4))
            memory.append(watching.rss())
        sizes = [round(size, 1) for size in memory]
        found["after_exits"] = after_exits(30)
        found["requests"] = {"number": arguments.requests, "failed": failures, "rss_mib": sizes}
    finally:
        for server in servers.values():
            server.process.terminate()
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    show(found)


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    kinds = {"first_ms": "first event", "chunk_ms": "later events", "held_ms": "cues and the word after"}
    size = f"{found['streams']} streams of {found['events']} events, one every {found['pace'] * 1e3:g} ms"
    begun = {"spread": "one after the other", "together": "between two events", "at_once": "all at once"}
    for way, how in begun.items():
        print(f"{size}, begun {how}\n")
        print("| | direct | a bare relay adds | relaying adds | watching adds |\n|---|---|---|---|---|")
        timed = found[way]
        for what, label in kinds.items():
            for place, quantile in enumerate(("p50", "p99")):
                own = timed["upstream"][what][place]
                added = [f"{timed[name][f'added_{what}'][place]:+.2f} ms" for name in BETWEEN]
                print(f"| {label}, {quantile} | {own:.2f} ms | {' | '.join(added)} |")
        cpu = [f"{timed[name]['cpu_us_per_event']:.0f} us" for name in BETWEEN]
        print(f"| CPU per event | | {' | '.join(cpu)} |")
        print(f"\n{sum(timed[name]['failed'] for name in ('upstream', *BETWEEN))} failed.\n")
    print("CPU per event, one server at a time\n")
    print("| an event every | a bare relay | relaying | watching |\n|---|---|---|---|")
    for row in found["alone"]:
        cells = " | ".join(f"{row[name]:.0f} us" for name in BETWEEN)
        step = ", all streams in step" if row["in_step"] else ""
        print(f"| {row['pace'] * 1e3:g} ms{step} | {cells} |")
    each = found["one_by_one"]
    print(f"\n| first event, one request at a time | {' | '.join(each)} |\n|{'---|' * (len(each) + 1)}")
    for number, share in enumerate(("p50", "p99")):
        print(f"| {share} | {' | '.join(f'{times[number]:.2f} ms' for times in each.values())} |")
    print()
    many, requests, after = found["many"], found["requests"], found["after_exits"]
    print(f"{after['exits']} exits: {after['tokens_after']} tokens each after the deciding one.")
    print(f"\n{many['streams']} streams at once: {many['failed']} failed.")
    print(f"{requests['number']} requests: {requests['failed']} failed.\n")
    fifth = requests["number"] // len(requests["rss_mib"])
    print("| after requests | RSS |\n|---|---|")
    for number, size in enumerate(requests["rss_mib"], 1):
        print(f"| {number * fifth:,} | {size} MiB |")


if __name__ == "__main__":
    main()
