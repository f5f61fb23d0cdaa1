"""`lynxstop doctor` against servers that can more and less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lynxstop.cli import app
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.servers import serving


def doctor(*arguments: str, **settings: Any) -> Result:
    with serving(MockServer(MockSettings(**settings))) as url:
        return CliRunner().invoke(app, ["doctor", url, *arguments])


@pytest.mark.parametrize(
    ("settings", "thinking"),
    [
        ({}, "reasoning"),
        ({"reasoning": "reasoning_content"}, "reasoning_content"),
        ({"reasoning": "raw"}, "raw"),
        ({"reasoning": "raw", "opened": True}, "raw, opened by the template"),
    ],
)
def test_it_tells_what_a_server_offers(settings: dict[str, Any], thinking: str) -> None:
    made = doctor("--json", **settings)
    assert made.exit_code == 0
    found = json.loads(made.stdout)
    assert found["kind"] == "openai"
    assert found["models"] == ["toy"]
    assert found["model"] == "toy"
    assert found["thinking"] == thinking
    assert found["logprobs"] == 20
    assert found["per_token"] is True
    assert found["in_thinking"] is (None if "raw" in thinking else True)
    assert found["usage"] is found["reasoning_tokens"] is True
    assert found["continuation"] == "/v1/completions from token ids"
    assert found["verified"] is True
    assert found["token_ids"] is found["plugin"] is False
    assert found["overshoot"] is None
    assert found["mode"] == "stream"
    assert found["trouble"] is None
    assert found["tools"] == found["forms"] == "the chat route, thinking as reasoning: verified"


def test_it_tells_why_tools_would_pass_through() -> None:
    made = doctor("--json", resume=False)
    assert made.exit_code == 0
    found = json.loads(made.stdout)
    assert found["tools"].startswith("pass through: The server cannot answer after an exit.")
    assert found["forms"].startswith("pass through: ")
    # With vLLM a form needs no chat route.
    found = json.loads(doctor("--json", "--dialect", "vllm", resume=False, opened=True).stdout)
    assert found["tools"].startswith("pass through: ")
    assert found["forms"] == "/v1/completions from token ids, with the grammar: verified"


def test_it_shows_what_differs() -> None:
    found = json.loads(doctor("--json", tokens_per_event=3, completions=False).stdout)
    assert found["per_token"] is False
    assert found["continuation"] == "continue_final_message"
    found = json.loads(doctor("--json", "--dialect", "vllm").stdout)
    assert found["kind"] == "vllm"
    assert found["token_ids"] is True
    assert found["verified"] is False


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"logprobs": False}, "log-probabilities"),
        ({"completions": False, "resume": False}, "cannot continue"),
    ],
)
def test_what_would_pass_through_ends_with_one(settings: dict[str, Any], why: str) -> None:
    made = doctor("--json", **settings)
    assert made.exit_code == 1
    found = json.loads(made.stdout)
    assert found["mode"] == "pass through"
    assert why in found["trouble"]
    assert found["continuation"] is None


def test_people_get_a_table() -> None:
    made = doctor("--model", "toy")
    assert made.exit_code == 0
    assert not made.stdout
    for said in ("reasoning", "20 per token", "verified", "stream"):
        assert said in made.stderr


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["doctor", "http://127.0.0.1:9"])
    assert made.exit_code != 0
    assert "cannot be reached" in str(made.exception)


def test_a_missing_bundle_is_an_error(tmp_path: Path) -> None:
    made = doctor("--bundle", str(tmp_path / "none"))
    assert made.exit_code != 0
    assert "none" in str(made.exception)
