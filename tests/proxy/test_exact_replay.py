"""From a server's streams to a certificate, and back: the proxy stops where the replay says it would."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from lynxstop.artifacts.bundle import Bundle
from lynxstop.cli import app
from lynxstop.core.rule import eligible_mask
from lynxstop.errors import ConfigError, DataError, FingerprintError
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.serve import build
from lynxstop.proxy.shadow import ShadowRecorder
from lynxstop.recordings.storage import Recording
from lynxstop.replay.serving import scores_of
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from lynxstop.workflows.shadow_traffic import read_shadow
from tests.support.first_exit import first_exit
from tests.support.servers import Proxied, command, eventually, program, proxied, serving

RECIPE = """
[cues]
words = ["wait", "hmm", "alternatively"]
[exit]
text = "\\n{close}\\n\\nThe answer is \\\\boxed{"
cut = "before"
[sampling]
temperature = 0.0
max_tokens = 1000
answer_tokens = 16
[guards]
min_tokens = 45
"""
PROBLEMS, RISK = 240, 0.2
OTHER_EXTRAS = (
    "aiohttp", "datasets", "fsspec", "httpx_aiohttp", "huggingface_hub", "mapie", "matplotlib",
    "opentelemetry", "pandas", "pyarrow", "ray", "scipy", "sklearn", "starlette", "sympy", "tokenizers",
    "torch", "transformers", "uvloop", "vllm",
)  # fmt: skip


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def problems(path: Path, start: int) -> Path:
    rows = [
        {"id": f"p{n}", "prompt": f"What is {n} + {n % 7 + 2} * {n % 5 + 3} - {n % 3}?"}
        for n in range(start, start + PROBLEMS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    with serving(MockServer(MockSettings(opened=True))) as url:
        yield url


@pytest.fixture(scope="module")
def made(mock: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recorded data and a certified bundle, made by the commands users type."""
    folder = tmp_path_factory.mktemp("stream")
    (folder / "recipe.toml").write_text(RECIPE)
    for name, start in (("train", 1000), ("cal", 2000)):
        server = ("--engine", "openai", "--base-url", mock, "--argument", "dialect=vllm")
        given = problems(folder / f"{name}.jsonl", start)
        run("collect", "toy", given, folder / name, "--recipe", folder / "recipe.toml", *server)
    run("train", folder / "train", folder / "bundle")
    run("calibrate", folder / "bundle", folder / "cal", "--risk", RISK)
    return folder


@pytest.fixture(scope="module")
def proxy(mock: str, made: Path) -> Iterator[Proxied]:
    policy = {"bundle": made / "bundle", "risk": RISK}
    config = ProxyConfig.model_validate({"upstream": {"url": mock, "dialect": "vllm"}, "policy": policy})
    with proxied(mock, build(config)) as served:
        yield served


def test_the_proxy_stops_where_the_replay_says(made: Path, proxy: Proxied) -> None:
    # given recorded traces, their scores under the bundle, and the certified threshold
    bundle, data = Bundle.load(made / "bundle"), Recording.open(made / "cal")
    policy = bundle.policy.stop_policy()
    threshold = policy.level(RISK).threshold
    scores = scores_of(bundle, data)
    prompts = {
        row["id"]: row["prompt"] for row in map(json.loads, (made / "cal.jsonl").read_text().splitlines())
    }
    cues, start, stopped, differ = data.cues().to_pylist(), 0, 0, 0

    for trace in data.traces().to_pylist():
        end = start + trace["cues"]
        positions = np.array([cue["position"] for cue in cues[start:end]], dtype=np.int64)
        hit = first_exit(scores[start:end], eligible_mask(policy, positions), threshold)
        # when the same request is served
        messages = [{"role": "user", "content": prompts[trace["problem_id"]]}]
        body = {"model": "toy", "messages": messages, "temperature": 0, "max_tokens": 1000}
        answer = httpx.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=30).json()
        report, said = answer["lynxstop"], answer["choices"][0]["message"]["content"]
        # then it exits at the same cue, by the same comparison, with the recorded answer
        if hit < 0:
            assert report["exit"] is None
            assert said.strip() == trace["text"].partition("</think>")[2].strip()
        else:
            cue = cues[start + hit]
            assert (report["cue"], report["thinking_tokens"]) == (cue["cue"], cue["thinking_at_exit"])
            assert report["score"] == pytest.approx(float(scores[start + hit]), abs=1e-6)
            assert said.strip() == cue["trial_text"].partition("</think>")[2].strip()
            stopped += 1
            differ += not cue["agrees"]
        start = end
    assert stopped > PROBLEMS / 4
    assert differ / PROBLEMS <= RISK


def test_the_certificate_is_named(made: Path, proxy: Proxied) -> None:
    body = {"model": "toy", "messages": [{"role": "user", "content": "What is 2000 + 4 * 5 - 1?"}]}
    report = httpx.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=30).json()["lynxstop"]
    assert (made / "bundle" / report["certificate"]).is_file()
    with httpx.stream("POST", f"{proxy.url}/v1/chat/completions", json={**body, "stream": True}) as answer:
        answer.read()
    assert answer.headers["x-lynxstop-risk"] == "0.2"
    assert answer.headers["x-lynxstop-certificate"] == report["certificate"]
    assert proxy.count("lynxstop_decision_seconds_count") > 0
    assert proxy.count("lynxstop_risk_target") == RISK


def test_serving_needs_the_extra_of_the_proxy_only(mock: str, made: Path) -> None:
    words = ("--bundle", str(made / "bundle"), "--dialect", "vllm")
    body = {"model": "toy", "messages": [{"role": "user", "content": "What is 2000 + 4 * 5 - 1?"}]}

    with command("--upstream", mock, *words, "--risk", str(RISK), without=OTHER_EXTRAS) as (_, url, _):
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).json()
    doctor = program("doctor", mock, *words, "--json", without=OTHER_EXTRAS)
    found = subprocess.run(doctor, capture_output=True, text=True, check=False, timeout=60)

    assert answer["lynxstop"]["exit"] == "score"
    assert (found.returncode, json.loads(found.stdout)["mode"]) == (0, "stream"), found.stderr


def test_recording_without_the_means_to_compare_answers_ends_the_start(made: Path) -> None:
    words = ("proxy", "--bundle", str(made / "bundle"), "--record", str(made / "shadow"))
    line = program(*words, without=("sympy",))
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, "lynxstop[calibrate]" in done.stderr) == (2, True), done.stderr
    assert not (made / "shadow").exists()


def test_another_model_is_not_stopped(made: Path) -> None:
    with serving(MockServer(MockSettings(opened=False), model="other")) as url:
        policy = {"bundle": made / "bundle", "risk": RISK}
        config = ProxyConfig.model_validate({"upstream": {"url": url, "dialect": "vllm"}, "policy": policy})
        with proxied(url, build(config)) as served:
            body = {"model": "other", "messages": [{"role": "user", "content": "What is 2000 + 4 * 5 - 1?"}]}
            answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=30).json()
            assert "lynxstop" not in answer
            assert served.count("lynxstop_passthrough_total", cause="fingerprint") == 1
            ready = httpx.get(f"{served.url}/ready")
            assert ready.status_code == 503
            assert "another model" in ready.json()["checks"]["bundle"]


def test_a_level_that_is_not_certified_ends_the_start(made: Path) -> None:
    from lynxstop.errors import ConfigError

    policy = {"bundle": made / "bundle", "risk": 0.01}
    with pytest.raises(ConfigError, match=r"0\.2"):
        build(ProxyConfig.model_validate({"policy": policy}))


def test_the_doctor_says_whether_the_bundle_belongs(mock: str, made: Path) -> None:
    def doctor(url: str) -> tuple[int, dict]:
        words = ["doctor", url, "--bundle", str(made / "bundle"), "--dialect", "vllm", "--json"]
        result = CliRunner().invoke(app, words)
        return result.exit_code, json.loads(result.stdout)

    code, found = doctor(mock)
    assert (code, found["mode"], found["trouble"]) == (0, "stream", None)
    with serving(MockServer(MockSettings(opened=False), model="other")) as url:
        code, found = doctor(url)
    assert (code, found["mode"]) == (1, "pass through")
    assert "another model" in found["trouble"]


def test_the_default_level_is_the_one_asked_for_and_one_there_is(made: Path, tmp_path: Path) -> None:
    from lynxstop.errors import ConfigError

    copy = tmp_path / "bundle"
    shutil.copytree(made / "bundle", copy)
    run("calibrate", copy, made / "cal", "--risk", RISK, "--risk", 0.4, "--default-risk", 0.4)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert Bundle.load(copy).policy.default_risk == 0.4
    with pytest.raises(ConfigError, match="not one of the bundle's levels"):
        run("calibrate", copy, made / "cal", "--risk", RISK, "--default-risk", 0.3)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def ask_all(url: str, start: int, count: int) -> None:
    for n in range(start, start + count):
        messages = [{"role": "user", "content": f"What is {n} + {n % 7 + 2} * {n % 5 + 3} - {n % 3}?"}]
        body = {"model": "toy", "messages": messages}
        assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).status_code == 200


def test_from_traffic_to_a_certificate_in_three_commands(mock: str, made: Path, tmp_path: Path) -> None:
    # given a bundle, and traffic that the proxy has recorded in shadow mode
    bundle, shadow = tmp_path / "bundle", tmp_path / "shadow"
    shutil.copytree(made / "bundle", bundle)
    sections = {
        "upstream": {"url": mock, "dialect": "vllm"},
        "policy": {"bundle": bundle, "risk": RISK, "mode": "shadow"},
        "record": {"folder": shadow},
    }
    config = ProxyConfig.model_validate(sections)
    with proxied(mock, build(config)) as served:
        ask_all(served.url, 3000, 200)
        eventually(lambda: served.count("lynxstop_shadow_recorded_total", outcome="recorded") == 200)
    # when it is looked at
    found = run("shadow", "report", shadow, "--bundle", bundle)
    [level] = found["levels"]
    assert (found["requests"], found["prompts"], found["models"]) == (200, 200, ["toy"])
    assert 0 < level["saved"] < level["exits"] < 1
    assert found["forced_tokens"] >= found["forced_answers"] > 200
    assert found["left_out"] == {}
    # and certified, repeats being requests of their own, while one more was left out
    add(shadow / "left_out.txt", "unfinished\n")
    told = CliRunner().invoke(app, ["shadow", "report", str(shadow), "--bundle", str(bundle)])
    assert "in no promise on it: 1 did not come to" in " ".join(told.output.split())
    result = run("calibrate", bundle, "--from-shadow", shadow, "--risk", RISK)
    # then the bundle that serves has the new certificate, beside the one it replaces
    [new], [old] = result["levels"], result["replaced"]
    assert (new["problems"], old["problems"]) == (200, PROBLEMS)
    assert not new["refused"]
    run("verify", bundle)
    again = Bundle.load(bundle).policy
    assert again.levels[0].threshold == new["threshold"]
    assert again.levels[0].certificate != Bundle.load(made / "bundle").policy.levels[0].certificate
    policy = {"bundle": bundle, "risk": RISK}
    with proxied(
        mock, build(ProxyConfig.model_validate({**sections, "policy": policy, "record": {}}))
    ) as one:
        body = {"model": "toy", "messages": [{"role": "user", "content": "What is 2000 + 4 * 5 - 1?"}]}
        report = httpx.post(f"{one.url}/v1/chat/completions", json=body, timeout=30).json()["lynxstop"]
    assert report["certificate"] == again.levels[0].certificate


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_shadow_traffic_of_another_bundle_is_refused(made: Path, tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    options: dict[str, Any] = {"redact": True, "answer_tokens": 4, "on_done": print}
    ShadowRecorder(shadow, **options, served={"fingerprint": "other"})
    add(shadow / "scores.csv", "a,b,,,,,5,toy,\n")
    result = CliRunner().invoke(app, ["calibrate", str(made / "bundle"), "--from-shadow", str(shadow)])

    assert isinstance(result.exception, FingerprintError)
    with pytest.raises(ConfigError, match="another bundle"):
        ShadowRecorder(shadow, **options, served={"fingerprint": "mine"})
    add(shadow / "scores.csv", "a,b,")
    with pytest.raises(DataError, match="incomplete"):
        read_shadow(shadow)


def test_a_bundle_is_audited_as_it_is_served(mock: str, made: Path, tmp_path: Path) -> None:
    sections = {
        "upstream": {"url": mock, "dialect": "vllm"},
        "policy": {"bundle": made / "bundle", "risk": RISK},
        "monitor": {"state": tmp_path / "audits", "audit": 1.0},
    }
    with proxied(mock, build(ProxyConfig.model_validate(sections))) as served:
        ask_all(served.url, 2000, 60)
        eventually(lambda: served.count("lynxstop_arm_requests_total", arm="audit") == 60)
    found = run("monitor", "status", tmp_path / "audits")
    [level] = found["levels"]
    # The level holds on problems like those that it was calibrated on.
    assert (found["state"], level["state"], level["audits"]) == ("ok", "ok", 60)
    assert 0 < level["lost"] / 60 <= RISK
    assert 0 < level["exits"] < 60
    assert level["tokens"] > 0
    snapshot = json.loads((tmp_path / "audits" / "monitor.json").read_text())
    assert [len(test["edges"]) > 1 for test in snapshot["monitors"][0]["inputs"]] == [True, True]
