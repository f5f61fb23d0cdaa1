"""Net tokens that early exit saves behind a server, with a plugin in its engine or by cutting its stream.

Asks held-out problems of the shipped reasoner at the certified sampling, once with thinking to the end and
once at a certified risk, through a proxy in this process. Tokens are those that vLLM generated, by its own
counters; what continuations were given again as their prompts is shown beside.

    python benchmarks/proxy_savings.py URL BUNDLE [--risk 0.05] [-n 300] [--model reasoner]
                                       [--form | --tools] [--json]

`--form` asks for the answer as JSON by a schema, and `--tools` offers a function, which this model never
calls: no certificate is about these, and exits are made without one. A grammar that lets the model write
blanks lets this one, which has not learned to write JSON, write nothing else: for `--form` start vLLM with
--structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}', and for `--tools` with
--enable-auto-tool-choice --tool-call-parser hermes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from lynxstop.artifacts.bundle import Bundle
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


async def counters(client: httpx.AsyncClient, url: str) -> dict[str, float]:
    """Tokens that vLLM has generated and computed as prompts, by its own metrics."""
    found = {"generated": 0.0, "prompt": 0.0, "cached": 0.0}
    starts = {
        "vllm:generation_tokens_total{": "generated",
        "vllm:prompt_tokens_total{": "prompt",
        "vllm:prompt_tokens_by_source_total{": "cached",
    }
    for line in (await client.get(f"{url}/metrics")).text.splitlines():
        name = next((name for start, name in starts.items() if line.startswith(start)), None)
        if name is not None and (name != "cached" or 'source="local_cache_hit"' in line):
            found[name] += float(line.split()[-1])
    return found


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
    client: httpx.AsyncClient, proxy: str, url: str, problems: list[Problem], body: dict[str, Any], risk: Any
) -> dict[str, Any]:
    """Ask all problems at one level."""
    limit = asyncio.Semaphore(16)

    async def one(problem: Problem) -> dict[str, Any]:
        messages = [{"role": "user", "content": problem.prompt}]
        async with limit:
            answer = await client.post(
                f"{proxy}/v1/chat/completions",
                json={**body, "messages": messages, "lynxstop": {"risk": risk}},
            )
        answer.raise_for_status()
        return answer.json()  # type: ignore[no-any-return]

    before = await counters(client, url)
    answers = await asyncio.gather(*(one(problem) for problem in problems))
    await asyncio.sleep(2)
    after = await counters(client, url)
    contents = [said(answer["choices"][0]["message"], body) for answer in answers]
    right = [
        grade(content, problem.answer).right is True
        for content, problem in zip(contents, problems, strict=True)
    ]
    usage = [answer["usage"] for answer in answers]
    return {
        "right": sum(right),
        "unfinished": contents.count(""),
        "thinking": sum(u["completion_tokens_details"]["reasoning_tokens"] for u in usage),
        "completion": sum(u["completion_tokens"] for u in usage),
        **{name: after[name] - before[name] for name in after},
    }


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Serve the proxy and ask at both levels."""
    bundle = Bundle.load(arguments.bundle)
    sampling = bundle.policy.sampling
    body = {"model": arguments.model, "max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    body |= {"top_p": sampling.top_p, "top_k": sampling.top_k or -1}
    policy: dict[str, Any] = {"bundle": arguments.bundle}
    if arguments.form or arguments.tools:
        body |= FORM if arguments.form else TOOLS
        policy["uncertified"] = "stop"
    config = ProxyConfig.model_validate({"upstream": {"url": arguments.url}, "policy": policy})
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build(config), log_level="critical", access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    problems = held_out.problems(arguments.n, None)
    found: dict[str, Any] = {"problems": len(problems), "risk": arguments.risk}
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        found["full"] = await run(client, proxy, config.upstream.url, problems, body, "off")
        found["early"] = await run(client, proxy, config.upstream.url, problems, body, arguments.risk)
    server.should_exit = True
    await serving
    for name in ("thinking", "generated"):
        if found["full"][name]:
            found[f"saved_{name}"] = round(1 - found["early"][name] / found["full"][name], 4)
    return found


def main() -> None:
    """Print the table."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("url")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--risk", type=float, default=0.05)
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--model", default="reasoner")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--form", action="store_true", help="answers as JSON")
    how.add_argument("--tools", action="store_true", help="requests that offer a function")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments))
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['problems']} problems, risk {found['risk']:g}\n\n| | full | early |\n|---|---|---|")
    labels = {
        "right": "right answers",
        "unfinished": "answers cut by the token limit",
        "thinking": "thinking tokens, as billed",
        "generated": "tokens the server generated",
        "prompt": "prompt tokens it was given",
        "cached": "of these from its cache",
    }
    for name, label in labels.items():
        print(f"| {label} | {found['full'][name]:,.0f} | {found['early'][name]:,.0f} |")
    saved = {name: found.get(f"saved_{name}") for name in ("thinking", "generated")}
    print(f"\nSaved: {saved['thinking']:.1%} of thinking, {saved['generated']:.1%} of generated tokens.")


if __name__ == "__main__":
    main()
