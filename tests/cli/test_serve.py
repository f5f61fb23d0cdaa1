"""The life of the server's process: signals are passed on, and nothing outlives the launcher."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lynxstop.artifacts.bundle import Bundle
from lynxstop.cli import app
from lynxstop.cli.serve import CHOSEN, FRONT, command, middleware_config, reasoning_parser
from lynxstop.core.conditions import Conditions
from lynxstop.core.families import ROWS
from lynxstop.errors import ConfigError
from lynxstop.proxy.vllm_middleware import VARIABLE

ROOT = Path(__file__).parents[2]
BUNDLE = Bundle.load(ROOT / "probes" / "reasoner")
LAUNCH = """
import os, sys
from lynxstop.cli.serve import run
sys.exit(run([sys.executable, "-c", sys.argv[1]], dict(os.environ), float(sys.argv[2])))
"""
SERVER = """
import signal, subprocess, sys, time, pathlib
{signals}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
pathlib.Path({pids!r}).write_text(str(child.pid))
time.sleep(300)
"""


def launched(folder: Path, signals: str, patience: float) -> tuple[subprocess.Popen[bytes], int]:
    pids = folder / "pid"
    server = SERVER.format(signals=signals, pids=str(pids))
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, server, str(patience)])
    while not (pids.exists() and pids.read_text()):
        assert launcher.poll() is None
        time.sleep(0.02)
    return launcher, int(pids.read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_does_not_end_is_killed_with_its_processes(
    number: signal.Signals, tmp_path: Path
) -> None:
    # given a server that hears no signal, and a process of its own
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)"
    launcher, worker = launched(tmp_path, deaf, 0.5)
    # when the launcher is told to end
    launcher.send_signal(number)
    # then it does, with a status that says so, and the worker is gone
    assert launcher.wait(60) == 128 + signal.SIGKILL
    for _ in range(500):
        if not running(worker):
            break
        time.sleep(0.02)
    assert not running(worker)


def test_a_server_that_ends_by_itself_gives_the_status(tmp_path: Path) -> None:
    # given a server that tidies up and ends
    tidy = "signal.signal(signal.SIGTERM, lambda *_: (child.kill(), sys.exit(3)))"
    launcher, _ = launched(tmp_path, tidy, 60.0)
    # when the launcher is told to end, then the status is the server's
    launcher.terminate()
    assert launcher.wait(60) == 3


def test_the_front_gets_the_flags_and_the_sections_of_the_file(tmp_path: Path) -> None:
    # given a file with a level of its own, and flags
    file = tmp_path / "lynxstop.toml"
    file.write_text(
        "[policy]\nrisk = 0.1\nreasoning_effort = {low = 0.1}\n[monitor]\nstate = 'audits'\naudit = 0.2\n"
    )
    # when the server is put together, then flags win, and the rest is as in the file
    found = middleware_config(file, BUNDLE, {"bundle": "b", "risk": 0.05, "mode": "shadow"})
    assert (found.policy.risk, found.policy.mode) == (0.05, "shadow")
    assert found.policy.reasoning_effort == {"low": 0.1}
    assert (found.monitor.audit, found.monitor.on) == (0.2, True)
    line = command(Path("model"), BUNDLE, {"bundle": "b"}, [])
    assert line[line.index("--middleware") + 1] == FRONT


@pytest.mark.parametrize(
    ("flags", "mode", "risk"),
    [([], "shadow", 0.1), (["--mode", "stop", "--risk", "5%"], "stop", 0.05)],
)
def test_the_plugins_variables_hold_in_both_halves_of_the_server(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], mode: str, risk: float
) -> None:
    # given variables of the plugin
    for name, value in (("MODE", "shadow"), ("RISK", "0.1"), ("UNCERTIFIED", "stop")):
        monkeypatch.setenv(f"LYNXSTOP_{name}", value)
    started: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def run(line: Sequence[str], environment: dict[str, str], patience: float) -> int:
        given = json.loads(line[line.index("--additional-config") + 1])["lynxstop"]
        middleware = json.loads(Path(environment[VARIABLE]).read_text())["config"]["policy"]
        started.append((given, middleware))
        return 0

    monkeypatch.setattr("lynxstop.cli.serve.run", run)
    # when a server is started, then its engine and its front have them, unless a flag says otherwise
    words = ["serve", str(ROOT / "data" / "reasoner"), "--bundle", str(ROOT / "probes" / "reasoner"), *flags]
    assert CliRunner().invoke(app, words).exit_code == 0
    [halves] = started
    for half in halves:
        assert (half["mode"], half["risk"], half["uncertified"]) == (mode, risk, "stop")


def test_the_server_separates_the_thinking_of_every_family() -> None:
    # given the families, when a server is started for a model of one, then it gets the parser of that family
    found = {row.name: reasoning_parser(row.open[0]) for row in ROWS}
    assert (found["think"], found["gpt-oss"], found["mistral"]) == ("qwen3", "openai_gptoss", "mistral")
    assert (found["gemma4"], found["minimax-m3"], found["kimi-k3"]) == ("gemma4", "minimax_m3", "kimi_k3")
    assert all(found[row.name] in row.parsers for row in ROWS if row.parsers and row.name not in CHOSEN)
    # and none where it has none
    assert reasoning_parser("<own>") is found["kimi"] is None
    line = command(Path("model"), BUNDLE, {"bundle": "b"}, [])
    assert line[line.index("--reasoning-parser") + 1] == "qwen3"


@pytest.mark.parametrize("flag", ["--headless", "--api_server_count=4", "-asc", "--grpc"])
def test_flags_that_the_server_would_ignore_are_refused(flag: str) -> None:
    # given a flag that only `vllm serve` obeys, when a command is made of it, then the error names it
    with pytest.raises(ConfigError, match="does not obey " + flag.partition("=")[0].replace("_", "-")):
        command(Path("model"), BUNDLE, {"bundle": "b"}, ["--port", "1", flag, "4"])


def test_a_bundle_with_a_quantised_cache_names_its_data_type() -> None:
    # given a bundle that was made with a cache of another type, when its server is started, then vLLM gets
    # the data type alone
    made = replace(BUNDLE, policy=BUNDLE.policy.model_copy(update={"dtype": "bfloat16, fp8 cache"}))
    line = command(Path("model"), made, {"bundle": "b"}, [])
    assert line[line.index("--dtype") + 1] == "bfloat16"


def test_a_model_with_other_defaults_is_served_with_the_certified_sampling() -> None:
    # given a model whose generation_config.json names a penalty and a limit of tokens
    defaults = {"temperature": 0.6, "repetition_penalty": 1.05, "min_p": 0.1, "max_new_tokens": 64}
    line = command(Path("model"), BUNDLE, {"bundle": "b"}, [])
    # when vLLM overrides these with what it is given
    defaults |= json.loads(line[line.index("--override-generation-config") + 1])
    # then a request that names nothing departs from no certificate
    served = Conditions.read({**defaults, "max_tokens": defaults["max_new_tokens"]})
    assert BUNDLE.policy.sampling.conditions.departures(served) == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[policy]\nreasoning_effort = {low = 0.3}", "not certified"),
        ("[policy]\nmode = 'shadow'", "started otherwise"),
        ("[monitor]\naudits = 1", "no key monitor.audits"),
        ("[monitor]\nstate = 'a'\ngrader = 'none'", "none"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_anything_starts(
    tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "lynxstop.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=said):
        middleware_config(file, BUNDLE, {"mode": "stop", "uncertified": "think"})


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
