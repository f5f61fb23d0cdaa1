"""Minutes of mixed load and faults through the proxy: is anything lost, and does memory stay flat?

    python benchmarks/soak.py [--minutes 30] [--clients 12] [--without-vllm] [--json]

A mock server thinks; one proxy in front of it watches and never stops, another stops at the first cue.
Clients send streams, whole answers and slow reads, leave in the middle, and ask for faults of the server.
What the first proxy gives has to be what the server itself says, an answer of the second has to be whole, and
a fault has to be reported. A third proxy, `lynxstop proxy` with the shipped bundle, is in front of a real
vLLM with the shipped model; it serves its certified level, or full thinking where a request asks for that,
and reads its configuration again every 20 seconds. Ends with status 1 when something was lost, or when memory
has grown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
from promise import FLAGS, MODEL, Command
from proxy import Process, Server

from lynxstop import shipped
from lynxstop.demo import held_out
from lynxstop.testing.settings import Fault

CHAT = "/v1/chat/completions"
FAULTS = [
    fault for fault in get_args(Fault) if fault not in ("none", "before-done", "hang", "huge-line", "charset")
]
"""Faults that have to reach the client as an error."""
KINDS = {"stream": 6, "whole": 2, "stopped": 6, "fault": 3, "leave": 2, "slow": 1}
"""What clients do, and how often."""
REAL = {"certified": 2, "full": 1}
"""What they ask of the proxy in front of vLLM."""
RELOADING = """
[policy]
bundle = "{bundle}"
uncertified = "stop"
"""
RELOAD_SECONDS = 20
PROBLEMS = [problem.prompt for problem in held_out.problems(64, 7)]
SUMS = [
    f"What is {a} + {b} * {c} - {d}?"
    for a, b, c, d in zip(range(3, 11), range(5, 13), [2, 3] * 4, [1, 4] * 4, strict=True)
]
FAST = "delay=0.002"
GROWTH_MIB, GROWTH = 8.0, 0.05
"""Growth of memory that is still flat: MiB, or a share."""


@dataclass
class Soak:
    """What happened."""

    done: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, float]] = field(default_factory=list)


def body(problem: str, *, stream: bool) -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": "user", "content": problem}], "stream": stream}


def text_of(content: bytes) -> tuple[str, str, bool]:
    """Thinking and answer of a stream, and whether it came to its end."""
    thinking, answer = "", ""
    parts = [part for part in content.replace(b"\r\n", b"\n").split(b"\n\n") if part.startswith(b"data: ")]
    for part in parts:
        if part == b"data: [DONE]":
            continue
        for choice in json.loads(part[6:]).get("choices") or ():
            thinking += choice["delta"].get("reasoning") or ""
            answer += choice["delta"].get("content") or ""
    return thinking, answer, bool(parts) and parts[-1] == b"data: [DONE]"


async def one(
    kind: str, problem: str, proxies: dict[str, Process], client: httpx.AsyncClient, right: dict[str, Any]
) -> bool:
    """Send one request; say whether what came is what should."""
    if kind in REAL:
        return await real(kind, proxies["vllm"].url, client)
    url = proxies["stopping" if kind == "stopped" else "watching"].url + CHAT
    headers = {"x-mock": FAST}
    if kind == "whole":
        answer = await client.post(url, json=body(problem, stream=False), headers=headers)
        message = answer.json()["choices"][0]["message"]
        return bool(message["content"] == right[problem][1])
    if kind == "fault":
        fault = random.choice(FAULTS)
        try:
            answer = await client.post(
                url, json=body(problem, stream=True), headers={"x-mock": f"{FAST},fault={fault}"}
            )
        except httpx.RemoteProtocolError:
            return True  # the connection was cut, which a client notices too
        return answer.status_code >= 400 or b'"error"' in answer.content
    if kind in ("leave", "slow"):
        async with client.stream("POST", url, json=body(problem, stream=True), headers=headers) as answer:
            content, count = b"", 0
            async for chunk in answer.aiter_raw():
                content, count = content + chunk, count + 1
                if kind == "leave" and count > 5:
                    return True
                await asyncio.sleep(0.01 * (kind == "slow"))
        return text_of(content) == right[problem]
    answer = await client.post(url, json=body(problem, stream=True), headers=headers)
    if kind == "stream":
        return text_of(answer.content) == right[problem]
    thinking, said, ended = text_of(answer.content)
    return ended and bool(said) and right[problem][0].startswith(thinking[:20])


async def real(kind: str, url: str, client: httpx.AsyncClient) -> bool:
    """Ask the proxy in front of vLLM; say whether the answer is whole, and stopped only where it may be."""
    asked = {
        "model": MODEL, "messages": [{"role": "user", "content": random.choice(PROBLEMS)}], "stream": True,
        "temperature": 0.9, "max_tokens": 1100, "lynxstop": {"risk": "off"} if kind == "full" else {},
    }  # fmt: skip
    answer = await client.post(url + CHAT, json=asked)
    thinking, said, ended = text_of(answer.content)
    stopped = b'"stopped":true' in answer.content
    # What thinks to its limit has no room for an answer.
    spoken = bool(said) or b'"finish_reason":"length"' in answer.content
    return ended and bool(thinking) and spoken and not (kind == "full" and stopped)


async def load(
    soak: Soak, proxies: dict[str, Process], right: dict[str, Any], clients: int, end: float
) -> None:
    """Keep so many requests under way until the end."""
    chance = random.Random(0)
    kinds = KINDS | (REAL if "vllm" in proxies else {})

    async def worker() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            while time.monotonic() < end:
                kind = chance.choices(list(kinds), list(kinds.values()))[0]
                try:
                    came = await one(kind, chance.choice(SUMS), proxies, client, right)
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    came = False
                    soak.lost[f"{kind}: {type(error).__name__}"] += 1
                soak.done[kind] += 1
                if not came:
                    soak.lost[kind] += 1

    async def watch() -> None:
        begun = time.monotonic()
        while time.monotonic() < end:
            for name, server in proxies.items():
                soak.samples.append(
                    {"at": time.monotonic() - begun, "who": name, "rss": server.rss(), "files": files(server)}  # type: ignore[dict-item]
                )
            await asyncio.sleep(max(0.5, (end - begun) / 400))

    async def reload() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            while "vllm" in proxies and time.monotonic() + RELOAD_SECONDS < end:
                await asyncio.sleep(RELOAD_SECONDS)
                answer = await client.post(f"{proxies['vllm'].url}/lynxstop/reload")
                soak.done["reload"] += 1
                soak.lost["reload"] += answer.status_code != 200

    await asyncio.gather(watch(), reload(), *(worker() for _ in range(clients)))
    soak.lost = +soak.lost


def files(server: Process) -> int:
    """Open files of a process."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def report(soak: Soak, proxies: dict[str, Process], minutes: float) -> dict[str, Any]:
    """Everything in plain numbers: memory after the first fifth against that of the last fifth."""
    memory = {}
    for name in proxies:
        own = [one for one in soak.samples if one["who"] == name]
        rss = np.array([one["rss"] for one in own])
        fifth = max(1, len(rss) // 5)
        memory[name] = {
            "rss_early": float(np.median(rss[fifth : 2 * fifth])),
            "rss_late": float(np.median(rss[-fifth:])),
            "rss_most": float(rss.max()),
            "files_idle": files(proxies[name]),
        }
    grown = [
        name
        for name, one in memory.items()
        if one["rss_late"] - one["rss_early"] > max(GROWTH_MIB, GROWTH * one["rss_early"])
    ]
    return {
        "minutes": minutes,
        "requests": dict(soak.done),
        "lost": dict(soak.lost),
        "memory": memory,
        "grown": grown,
        "load": os.getloadavg()[0],
    }


def render(found: dict[str, Any]) -> str:
    """The same as Markdown."""
    lines = ["| requests | sent | lost |", "|---|---|---|"]
    lines += [
        f"| {kind} | {count:,} | {found['lost'].get(kind, 0)} |" for kind, count in found["requests"].items()
    ]
    lines += [
        "",
        "| proxy | MiB, early | MiB, late | MiB, most | open files, idle |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {one['rss_early']:.1f} | {one['rss_late']:.1f} | {one['rss_most']:.1f} "
        f"| {one['files_idle']} |"
        for name, one in found["memory"].items()
    ]
    return "\n".join(lines)


def in_front_of_vllm(stack: ExitStack) -> Process:
    """Start vLLM and `lynxstop proxy` in front of it."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    config = folder / "lynxstop.toml"
    config.write_text(RELOADING.format(bundle=shipped.STREAM_BUNDLE))
    stock = ("vllm.entrypoints.openai.api_server", "--model", shipped.MODEL, *FLAGS)
    vllm = stack.enter_context(Command(folder / "vllm.log", *stock, "--reasoning-parser", "qwen3"))
    line = ("lynxstop.cli", "proxy", "--upstream", vllm.url, "--config", config)
    return stack.enter_context(Command(folder / "proxy.log", *line))


def main() -> None:
    """Soak, and print what happened."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--without-vllm", action="store_true", help="leave out the real server")
    parser.add_argument("--json", action="store_true", help="print plain data")
    options = parser.parse_args()
    with ExitStack() as stack:
        mock = stack.enter_context(Server("mock"))
        proxies: dict[str, Process] = {
            name: stack.enter_context(Server(name, mock.url)) for name in ("watching", "stopping")
        }
        if not options.without_vllm:
            proxies["vllm"] = in_front_of_vllm(stack)
        with httpx.Client(timeout=60, headers={"x-mock": FAST}) as client:
            answers = {
                problem: client.post(mock.url + CHAT, json=body(problem, stream=True)).content
                for problem in SUMS
            }
        right = {problem: text_of(content) for problem, content in answers.items()}
        soak, end = Soak(), time.monotonic() + 60 * options.minutes
        asyncio.run(load(soak, proxies, right, options.clients, end))
        time.sleep(2)
        found = report(soak, proxies, options.minutes)
    print(json.dumps(found, indent=1) if options.json else render(found))
    for kind, count in found["lost"].items():
        print(f"lost: {kind} {count}", file=sys.stderr)
    for name in found["grown"]:
        print(f"memory of {name} has grown", file=sys.stderr)
    sys.exit(bool(found["lost"] or found["grown"]))


if __name__ == "__main__":
    main()
