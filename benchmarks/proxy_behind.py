"""What a real server still generates behind the token that decides an exit: vLLM, at its own pace.

Starts vLLM with a model of 113 million random parameters, which writes a cue word by chance now and then (a
bias helps), and in front of it a proxy that exits at the first one. One request after the other, the tokens
that vLLM generated, by its own metrics, are counted against those that the proxy read.

    python benchmarks/proxy_behind.py [--requests 30] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from proxy import watching_app
from vllm_step import random_model

from lynxstop import shipped


def start(model: Path, port: int, log: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start vLLM and wait until it serves."""
    flags = (
        "--served-model-name m --dtype float32 --reasoning-parser qwen3 --enforce-eager --max-model-len 1536"
    )
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), *flags.split()]
    line += ["--generation-config", "vllm", "--port", str(port)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": str(threads)}
    with log.open("wb") as output:
        process = subprocess.Popen(line, env=environment, stdout=output, stderr=output)
    while process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return process
        except httpx.TransportError:
            time.sleep(1)
    raise SystemExit(log.read_text()[-3000:])


async def metric(client: httpx.AsyncClient, url: str, name: str) -> float:
    """Sum of a metric over its labels."""
    lines = (await client.get(f"{url}/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


async def measure(url: str, requests: int) -> dict[str, Any]:
    """Ask, and compare what was generated with what was read."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = watching_app(url, -1e30, exit_ids=())
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    behind: list[int] = []
    tokens, seconds = 0.0, 0.0
    async with httpx.AsyncClient(timeout=600) as client:

        async def counts() -> tuple[float, float]:
            while await metric(client, url, "vllm:num_requests_running{"):
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.3)
            return (
                await metric(client, url, "vllm:generation_tokens_total{"),
                await metric(client, proxy, "lynxstop_upstream_tokens_total"),
            )

        cue = {"model": "m", "prompt": "Wait", "add_special_tokens": False}
        [first, *_] = (await client.post(f"{url}/tokenize", json=cue)).json()["tokens"]
        known = await counts()
        for number in range(requests):
            messages = [{"role": "user", "content": f"What is {number} + 5 * 2 - 3?"}]
            body = {"model": "m", "messages": messages, "max_tokens": 120, "logit_bias": {str(first): 2.0}}
            begun = time.monotonic()
            answer = (await client.post(f"{proxy}/v1/chat/completions", json=body)).json()
            seconds += time.monotonic() - begun
            before, known = known, await counts()
            tokens += known[0] - before[0]
            if (answer.get("lynxstop") or {}).get("stopped"):
                behind.append(int(known[0] - before[0] - (known[1] - before[1])))
    server.should_exit = True
    await serving
    return {"exits": len(behind), "ms_per_token": round(seconds / tokens * 1e3, 1), "tokens_behind": behind}


def main() -> None:
    """Print what was found."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1, help="of vLLM's engine")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        model = random_model(Path(folder) / "model", shipped.MODEL)
        process = start(model, port, Path(folder) / "log", arguments.threads)
        try:
            url = f"http://127.0.0.1:{port}"
            found = asyncio.run(measure(url, arguments.requests))
        finally:
            process.terminate()
            process.wait(120)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    behind = found["tokens_behind"]
    print(f"{found['ms_per_token']} ms per token, {found['exits']} exits.")
    print(f"Tokens behind each: {sum(behind) / len(behind):.2f} on average, {max(behind)} at most.")


if __name__ == "__main__":
    main()
