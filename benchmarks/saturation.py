"""The longest silence inside a stream while the server is saturated: direct, and stopped by the proxy.

A stopped request asks the server twice, and the second request may have to wait for all others. vLLM answers
two requests at a time here, with and without `--scheduling-policy priority`; all clients ask at once, first
the server itself, then a proxy with the shipped bundle in front of it. Silence is the longest time between
two events of a stream; signs of life are comments in between, which no client shows.

    python benchmarks/saturation.py [--clients 24] [--at-once 2] [--risk 0.05] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from promise import CERTIFIED, FLAGS, MODEL, Command

from lynxstop import shipped
from lynxstop.demo import held_out

MEASURES = {
    "silence": "silence",
    "without_sign": "without a sign of life",
    "seconds": "answered after",
}
"""What is measured of each request, and how it is called."""


async def one(client: httpx.AsyncClient, url: str, prompt: str, seed: int) -> dict[str, Any]:
    """Ask one request; measure the silences of its stream, in seconds."""
    body = {**CERTIFIED, "model": MODEL, "stream": True, "seed": seed}
    body["messages"] = [{"role": "user", "content": prompt}]
    begun = time.monotonic()
    heard = said = None
    events = signs = 0.0
    report: dict[str, Any] = {}
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line:
                continue
            now = time.monotonic()
            signs, heard = max(signs, now - (heard or now)), now
            if line.startswith("data: {"):
                events, said = max(events, now - (said or now)), now
                report = json.loads(line[6:]).get("lynxstop") or report
    return {
        "silence": events,
        "without_sign": signs,
        "seconds": time.monotonic() - begun,
        "stopped": bool(report.get("stopped")),
    }


async def ask(url: str, clients: int) -> dict[str, Any]:
    """Ask all at once."""
    prompts = [problem.prompt for problem in held_out.problems(clients, None)]
    begun = time.monotonic()
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:
        rows = await asyncio.gather(*(one(client, url, prompts[n], n) for n in range(clients)))
    found: dict[str, Any] = {"stopped": sum(row["stopped"] for row in rows)}
    for name in MEASURES:
        values = [row[name] for row in rows]
        found[name] = [round(float(value), 2) for value in np.quantile(values, [0.5, 0.9, 1.0])]
    found["all"] = round(time.monotonic() - begun, 1)
    return found


def measure(clients: int, at_once: int, risk: float) -> dict[str, dict[str, Any]]:
    """Measure with each way of scheduling."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for policy in ("fcfs", "priority"):
            line = ["vllm.entrypoints.openai.api_server", "--model", shipped.MODEL, *FLAGS]
            line += ["--reasoning-parser", "qwen3", "--scheduling-policy", policy]
            line += ["--max-num-seqs", at_once]
            log = Path(folder)
            with Command(log / "vllm.log", *line) as vllm:
                proxy = ["lynxstop.cli", "proxy", "--upstream", vllm.url]
                proxy += ["--bundle", shipped.STREAM_BUNDLE, "--risk", risk]
                with Command(log / "proxy.log", *proxy) as stopping:
                    asyncio.run(ask(stopping.url, 2))
                    found[f"{policy}, direct"] = asyncio.run(ask(vllm.url, clients))
                    found[f"{policy}, proxy"] = asyncio.run(ask(stopping.url, clients))
    return found


def main() -> None:
    """Measure, and print a table."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--risk", type=float, default=0.05)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.clients, arguments.at_once, arguments.risk)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{arguments.clients} clients at once, {arguments.at_once} answered at a time\n")
    print("| scheduling | seconds | p50 | p90 | longest |\n|---|---|---|---|---|")
    for name, row in found.items():
        for what, title in MEASURES.items():
            print(f"| {name} | {title} | {' | '.join(map(str, row[what]))} |")
    print("\n| scheduling | stopped | all answered after, s |\n|---|---|---|")
    for name, row in found.items():
        print(f"| {name} | {row['stopped']} | {row['all']} |")


if __name__ == "__main__":
    main()
