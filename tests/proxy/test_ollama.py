"""The proxy in front of what its source says that Ollama is."""

from __future__ import annotations

import json
from typing import Any

import httpx
from typer.testing import CliRunner

from lynxstop.cli import app
from lynxstop.remote.dialects.ollama import Ollama
from lynxstop.testing.reasoner import held
from tests.support.ollama_like import OllamaLike
from tests.support.servers import serving
from tests.support.watching import watching

BODY = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}], "temperature": 0}


def doctor(server: OllamaLike) -> tuple[int, dict[str, Any]]:
    with serving(server) as url:
        made = CliRunner().invoke(app, ["doctor", url, "--json"])
    return made.exit_code, json.loads(made.stdout)


def test_a_cut_chat_is_continued_by_the_native_route() -> None:
    server = OllamaLike()
    with serving(server) as url, watching(url, dialect=Ollama()) as proxy:
        whole = httpx.post(f"{proxy.url}/v1/chat/completions", json={**BODY, "lynxstop": {"risk": "off"}})
        answer = httpx.post(f"{proxy.url}/v1/chat/completions", json=BODY, timeout=30).json()
    assert whole.status_code == 200
    message, report = answer["choices"][0]["message"], answer["lynxstop"]
    assert report["stopped"] is True
    assert message["content"] == f"\n\nThe answer is \\boxed{{{held(message['reasoning'])}}}."
    assert answer["choices"][0]["finish_reason"] == "stop"
    path, asked = server.asked[-1]
    assert path == "/api/generate"
    # The delimiter that the stream showed without text opens the block again.
    assert "<think>" + message["reasoning"].rstrip("\n") in asked["prompt"]


def test_the_doctor_tries_it_out() -> None:
    code, found = doctor(OllamaLike())
    assert code == 0
    assert (found["kind"], found["version"]) == ("ollama", "0.12.0")
    assert (found["thinking"], found["mode"], found["verified"]) == ("reasoning", "stream", True)
    code, found = doctor(OllamaLike(debug=False))
    assert (code, found["mode"]) == (1, "pass through")
    assert "rendered prompt" in found["trouble"]
