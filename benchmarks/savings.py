"""Net tokens that early exit saves: by the plugin in the engine, and through the proxy before stock vLLM.

Asks held-out problems of the shipped reasoner at the certified sampling, once with thinking to the end and
once at a certified risk. Tokens are those that vLLM generated and computed as prompts, by its own counters.
A server generates on until it notices that its stream was cut, and computes the kept thinking again for the
answer. How much that is depends on how long a step takes; the small model's alone takes 2 ms, in which its
own front end does not even send what it writes. So every step sleeps as long as one of a usual model takes.
Tokens that the proxy never read are those, and those that vLLM shows in no event, such as the end of a text.

    python benchmarks/savings.py [--risk 0.05] [-n 60] [--at-once 16] [--step 0.02] [--json]

Measured are, beside plain chats, answers by a JSON schema, and chats that offer a function, with a template
that keeps the thinking of a continued message. No certificate is about these two, and exits are made without
one; this model has not learned to write JSON, and never calls a function.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import uvicorn
from paced import PACE
from promise import CERTIFIED, FLAGS, MODEL, Command

from lynxstop import shipped
from lynxstop.demo import held_out
from lynxstop.grading.grading import grade
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.serve import build
from lynxstop.recordings.problems import Problem

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer", "minimum": -99999, "maximum": 99999}},
    "required": ["answer"],
    "additionalProperties": False,
}
FORM = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}}
TOOLS = {"tools": [{"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}}]}
FORMS = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
"""Where a grammar lets this model write blanks, it writes nothing else."""

CALLS = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
CALLS += ["--chat-template", str(Path(__file__).with_name("keeps_thinking.jinja"))]


class Way(NamedTuple):
    """How requests are asked: the server's command, the proxy's bundle, and what is added to requests."""

    command: list[str]
    bundle: Path
    body: dict[str, Any]


STOCK = ["vllm.entrypoints.openai.api_server", "--model", str(shipped.MODEL)]
WAYS = {
    "plugin": Way(
        ["lynxstop.cli", "serve", str(shipped.MODEL), "--bundle", str(shipped.BUNDLE)], shipped.BUNDLE, {}
    ),
    "proxy": Way(STOCK, shipped.STREAM_BUNDLE, {}),
    "proxy, a form": Way([*STOCK, *FORMS], shipped.STREAM_BUNDLE, FORM),
    "proxy, a function offered": Way([*STOCK, *CALLS], shipped.STREAM_BUNDLE, TOOLS),
}
LABELS = {
    "right": "right answers",
    "unfinished": "answers cut by the token limit",
    "stopped": "stopped",
    "thinking": "thinking tokens, as billed",
    "generated": "tokens the server generated",
    "computed": "these, and prompt tokens that were not in its cache",
}


async def metric(client: httpx.AsyncClient, url: str, start: str, within: str = "") -> float:
    """Sum of the series of a server's metrics that begin so."""
    lines = (await client.get(f"{url}/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(start) and within in line)


async def counters(client: httpx.AsyncClient, url: str, proxy: str) -> dict[str, float]:
    """Tokens that vLLM has generated and computed, by its own metrics, and those that the proxy has read."""
    while await metric(client, url, "vllm:num_requests_running{"):
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    generated = await metric(client, url, "vllm:generation_tokens_total{")
    prompt = await metric(client, url, "vllm:prompt_tokens_total{")
    cached = await metric(client, url, "vllm:prompt_tokens_by_source_total{", 'source="local_cache_hit"')
    read = await metric(client, proxy, "lynxstop_upstream_tokens_total")
    return {"generated": generated, "computed": generated + prompt - cached, "read": read}


def said(message: dict[str, Any], body: dict[str, Any]) -> str:
    """Return an answer as the grader reads it; empty when the token limit cut the form."""
    content = str(message["content"] or "")
    if "response_format" not in body:
        return content
    try:
        return f"\\boxed{{{json.loads(content)['answer']}}}"
    except json.JSONDecodeError:
        return ""


async def run(
    client: httpx.AsyncClient,
    servers: tuple[str, str],
    problems: list[Problem],
    body: dict[str, Any],
    risk: Any,
    at_once: int,
) -> dict[str, Any]:
    """Ask all problems at one level, some at a time."""
    limit = asyncio.Semaphore(at_once)
    url, proxy = servers

    async def one(problem: Problem) -> dict[str, Any]:
        messages = [{"role": "user", "content": problem.prompt}]
        async with limit:
            answer = await client.post(
                f"{proxy}/v1/chat/completions",
                json={**CERTIFIED, **body, "model": MODEL, "messages": messages, "lynxstop": {"risk": risk}},
            )
        answer.raise_for_status()
        return answer.json()  # type: ignore[no-any-return]

    before = await counters(client, url, proxy)
    answers = await asyncio.gather(*(one(problem) for problem in problems))
    after = await counters(client, url, proxy)
    contents = [said(answer["choices"][0]["message"], body) for answer in answers]
    right = [
        grade(content, problem.answer).right is True
        for content, problem in zip(contents, problems, strict=True)
    ]
    usage = [answer["usage"] for answer in answers]
    return {
        "right": sum(right),
        "unfinished": contents.count(""),
        "stopped": sum(bool((answer.get("lynxstop") or {}).get("stopped")) for answer in answers),
        "thinking": sum(u["completion_tokens_details"]["reasoning_tokens"] for u in usage),
        **{name: after[name] - before[name] for name in after},
    }


async def ask(url: str, way: Way, arguments: argparse.Namespace) -> dict[str, Any]:
    """Serve the proxy, and ask at both levels."""
    policy: dict[str, Any] = {"bundle": way.bundle}
    if way.body:
        policy["uncertified"] = "stop"
    config = ProxyConfig.model_validate({"upstream": {"url": url}, "policy": policy})
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build(config), log_level="critical", access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    servers = url, f"http://127.0.0.1:{listener.getsockname()[1]}"
    problems = held_out.problems(arguments.n, None)
    found: dict[str, Any] = {}
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        for name, risk in (("full", "off"), ("early", arguments.risk)):
            found[name] = await run(client, servers, problems, way.body, risk, arguments.at_once)
    server.should_exit = True
    await serving
    early = found["early"]
    for name in ("thinking", "generated", "computed"):
        found[f"saved_{name}"] = round(1 - early[name] / found["full"][name], 4)
    if way.bundle == shipped.STREAM_BUNDLE and early["stopped"]:
        found["unread"] = round((early["generated"] - early["read"]) / early["stopped"], 2)
    return found


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Ask in each way, with a server of its own."""
    os.environ[PACE] = str(arguments.step)
    os.environ["PYTHONPATH"] = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    found = {}
    for name, way in WAYS.items():
        line = [*way.command, *FLAGS, "--reasoning-parser", "qwen3", "--logits-processors", "paced:Paced"]
        with tempfile.TemporaryDirectory() as folder, Command(Path(folder) / "log", *line) as vllm:
            found[name] = asyncio.run(ask(vllm.url, way, arguments))
    return found


def main() -> None:
    """Print the tables."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--risk", type=float, default=0.05)
    parser.add_argument("-n", type=int, default=60)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--step", type=float, default=0.02, help="seconds that a step sleeps")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{arguments.n} problems, risk {arguments.risk:g}\n")
    print(
        "| saved | thinking | generated | computed | generated, not read, per exit |\n|---|---|---|---|---|"
    )
    for name, row in found.items():
        shares = [f"{row[f'saved_{what}']:.1%}" for what in ("thinking", "generated", "computed")]
        print(f"| {name} | {' | '.join(shares)} | {row.get('unread', '-')} |")
    columns = [(name, level) for name in found for level in ("full", "early")]
    print(
        f"\n| | {' | '.join(f'{name}: {level}' for name, level in columns)} |\n|{'---|' * (len(columns) + 1)}"
    )
    for what, label in LABELS.items():
        print(f"| {label} | {' | '.join(f'{found[name][level][what]:,.0f}' for name, level in columns)} |")


if __name__ == "__main__":
    main()
