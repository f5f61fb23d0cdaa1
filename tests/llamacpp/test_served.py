"""From llama.cpp's streams to a certificate, and back: the proxy stops where the replay says it would."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.cli import app
from lynxstop.core.rule import eligible_mask
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.serve import build
from lynxstop.recordings.storage import Recording
from lynxstop.replay.serving import scores_of
from tests.support.first_exit import first_exit
from tests.support.servers import proxied

RECIPE = """
[cues]
words = ["wait", "hmm", "alternatively"]
[exit]
text = "\\n{close}\\n\\nThe answer is \\\\boxed{"
cut = "before"
[sampling]
temperature = 0.9
top_p = 1.0
max_tokens = 1100
answer_tokens = 16
"""
PROBLEMS, RISK, SERVED = 60, 0.3, 30
SAMPLING = {"temperature": 0.9, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_bundle_made_from_its_streams_is_served(llama_server: str, tmp_path: Path) -> None:
    # given data recorded through the server, and a certified bundle, made by the commands users type
    (tmp_path / "recipe.toml").write_text(RECIPE)
    rows = (shipped.PROBLEMS / "test.jsonl").read_text().splitlines()
    server = ("--engine", "openai", "--base-url", llama_server, "--argument", "seeded=true")
    for name, start in (("train", 0), ("cal", 100)):
        given = tmp_path / f"{name}.jsonl"
        given.write_text("".join(f"{row}\n" for row in rows[start : start + PROBLEMS]))
        run("collect", "reasoner", given, tmp_path / name, "--recipe", tmp_path / "recipe.toml", *server)
    run("train", tmp_path / "train", tmp_path / "bundle")
    run("calibrate", tmp_path / "bundle", tmp_path / "cal", "--risk", RISK)
    found = CliRunner().invoke(app, ["doctor", llama_server, "--bundle", str(tmp_path / "bundle"), "--json"])
    assert json.loads(found.stdout)["mode"] == "stream"
    bundle, data = Bundle.load(tmp_path / "bundle"), Recording.open(tmp_path / "cal")
    policy = bundle.policy.stop_policy()
    threshold = policy.level(RISK).threshold
    scores = scores_of(bundle, data)
    prompts = {row["id"]: row["prompt"] for row in map(json.loads, rows)}
    cues, start, same = data.cues().to_pylist(), 0, 0
    section = {"bundle": tmp_path / "bundle", "risk": RISK}
    config = ProxyConfig.model_validate({"upstream": {"url": llama_server}, "policy": section})
    with proxied(llama_server, build(config)) as proxy:
        for trace in data.traces().to_pylist()[:SERVED]:
            end = start + trace["cues"]
            positions = np.array([cue["position"] for cue in cues[start:end]], dtype=np.int64)
            hit = first_exit(scores[start:end], eligible_mask(policy, positions), threshold)
            # when the same request is served
            messages = [{"role": "user", "content": prompts[trace["problem_id"]]}]
            seed = zlib.crc32(f"0/{trace['trace_id']}".encode()) & 0x7FFFFFFF
            body = {"model": "reasoner", "messages": messages, "max_tokens": 1100, "seed": seed, **SAMPLING}
            answer = httpx.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=120).json()
            report, message = answer["lynxstop"], answer["choices"][0]["message"]
            cue, first = cues[start + hit] if hit >= 0 else None, start
            start = end
            # The server's numbers differ in their last bits by what else it computes, and so may a draw.
            if cue is None or not trace["text"].startswith(message["reasoning_content"].rstrip("\n")):
                continue
            # then, with the same draws, it exits at the same cue, with the recorded answer
            same += 1
            assert (report["cue"], report["thinking_tokens"]) == (cue["cue"], cue["thinking_at_exit"])
            assert report["score"] == pytest.approx(float(scores[first + hit]), abs=0.05)
            assert message["content"].strip() == cue["trial_text"].partition("</think>")[2].strip()
    assert same > SERVED / 2
