"""The command as operators run it: drained at SIGTERM, several workers, clear refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import httpx
import pytest

from lynxstop.testing.server import MockServer
from tests.support.servers import command, eventually, serving

ASK = {"messages": [{"role": "user", "content": "7 + 5 * 2"}], "stream": True}


def test_requests_under_way_are_finished_and_new_ones_refused() -> None:
    mock = MockServer()
    with serving(mock) as url, command("--upstream", url) as (process, proxy, lines):
        settings = {"x-mock": "delay=0.01, checks=2"}
        address = proxy + "/v1/chat/completions"
        with httpx.stream("POST", address, json=ASK, headers=settings, timeout=60) as response:
            chunks = response.iter_raw()
            raw = next(chunks)
            process.send_signal(signal.SIGTERM)

            def refused() -> bool:
                try:
                    httpx.get(proxy + "/health")
                except httpx.TransportError:
                    # Refused, or closed before it was accepted.
                    return True
                return False

            eventually(refused)
            assert not raw.endswith(b"data: [DONE]\n\n")
            raw += b"".join(chunks)
        process.wait(60)

    assert raw.endswith(b"data: [DONE]\n\n")
    assert mock.records[0].outcome == "completed"
    assert [line["outcome"] for line in lines if line["event"] == "request"] == ["completed"]


def test_what_takes_too_long_to_drain_is_reported_and_stopped_at_the_server() -> None:
    mock = MockServer()
    with (
        serving(mock) as url,
        command("--upstream", url, LYNXSTOP_SERVE_DRAIN_SECONDS="1") as (process, proxy, lines),
    ):
        settings = {"x-mock": "delay=0.02, checks=1000"}
        address = proxy + "/v1/chat/completions"
        with httpx.stream("POST", address, json=ASK, headers=settings, timeout=60) as response:
            chunks = response.iter_raw()
            raw = next(chunks)
            process.send_signal(signal.SIGTERM)
            raw += b"".join(chunks)
        process.wait(60)
        eventually(lambda: mock.records[0].outcome == "aborted")

    assert json.loads(raw.split(b"\n\n")[-2].removeprefix(b"data: "))["error"]["code"] == "shutdown"
    assert "Traceback" not in str(lines)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--upstream", "nowhere"], "upstream.url"),
        (["--mode", "halt"], "policy.mode"),
        (["--config", "missing.toml"], "missing.toml"),
        (["--risk", "2"], "Give 2%."),
    ],
)
def test_a_wrong_configuration_is_one_message(words: list[str], named: str) -> None:
    line = [sys.executable, "-m", "lynxstop.cli", "proxy", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert named in done.stderr
    assert "Traceback" not in done.stderr
