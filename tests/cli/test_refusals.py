"""What new users run into: one sentence that says what is wrong, and what to do."""

import json
import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.cli import app
from lynxstop.cli._checks import AddressError, check_folder, check_port
from lynxstop.cli._risk import risk, risk_or_off
from lynxstop.errors import ConfigError, LynxstopError, ModelError, StepError
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.serve import build
from lynxstop.recordings.lock import alone_in
from lynxstop.testing.server import MockServer
from tests.support.servers import serving


@pytest.mark.parametrize(
    ("text", "level"),
    [("0.05", 0.05), ("5%", 0.05), (" 7 % ", 0.07), ("0.1%", 0.001), ("1", 1.0), ("0", 0.0)],
)
def test_a_risk_is_a_number_or_a_percentage(text: str, level: float) -> None:
    assert risk(text) == level
    assert float(risk_or_off(text)) == level


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("5", "Give 5%."),
        ("five", "such as 0.05 or 5%"),
        ("5%%", "such as 0.05 or 5%"),
        ("nan", "such as 0.05 or 5%"),
        ("-0.1", "between 0 and 1"),
        ("120%", "between 0 and 1"),
    ],
)
def test_another_risk_is_refused_with_what_was_meant(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        risk(text)
    assert complaint in f"{caught.value.message} {caught.value.hint}"
    with pytest.raises(ConfigError) as caught:
        risk_or_off(text)
    assert complaint in f"{caught.value.message} {caught.value.hint}"
    assert "`off`" in str(caught.value.hint)


def test_off_is_kept() -> None:
    assert risk_or_off("OFF ") == "off"


@pytest.mark.parametrize(
    "command", ["calibrate", "cues", "curve", "demo", "evaluate", "plan", "proxy", "run", "serve"]
)
def test_every_command_reads_risks_alike(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--risk", "5 percent"])
    assert isinstance(done.exception, ConfigError)
    assert "such as 0.05 or 5%" in str(done.exception.hint)


def test_a_missing_model_is_said_where_only_its_tokenizer_is_needed() -> None:
    done = CliRunner().invoke(app, ["export", "nothing", "data", "problems.jsonl", "out.jsonl"])
    assert isinstance(done.exception, ModelError)
    assert done.exception.message == "There is no model folder nothing."


def test_options_of_rules_are_refused_where_levels_are_replayed() -> None:
    words = ["evaluate", "recorded", "--bundle", "bundle", "--risk", "0.05", "--seed", "3"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError)
    assert done.exception.message.startswith("--risk, --seed would change nothing")
    # given rules, they are read, and what is missing is the bundle
    done = CliRunner().invoke(app, [*words, "--rules", "budget"])
    assert isinstance(done.exception, StepError)


def test_levels_in_percent_reach_the_command() -> None:
    done = CliRunner().invoke(app, ["plan", "--risk", "2%", "--risk", "0.05", "--json"])
    assert [level["risk"] for level in json.loads(done.stdout)["levels"]] == [0.02, 0.05]


@pytest.mark.parametrize("command", ["mock-upstream", "proxy"])
def test_a_port_in_use_is_refused_before_anything_starts(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, [command, "--port", str(port)])
    assert isinstance(done.exception, AddressError)
    assert str(port) in done.exception.message
    assert "--port" in str(done.exception.hint)


def test_a_free_port_and_port_0_are_taken_and_a_foreign_address_is_not() -> None:
    check_port("127.0.0.1", 0)
    check_port("localhost", 0)
    with pytest.raises(AddressError, match="not an address of this machine"):
        check_port("192.0.2.1", 0)


@pytest.mark.parametrize("denied", [True, False])
def test_a_folder_that_cannot_be_written_is_refused(
    denied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    if denied:
        monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    else:
        folder.write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written to") as caught:
        check_folder(folder, "--record")
    assert "--record" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="Choose another folder"), alone_in(folder):
        pass
    if denied:
        done = CliRunner().invoke(app, ["calibrate", str(shipped.BUNDLE), "nosuch"])
        assert isinstance(done.exception, ConfigError)
        assert "cannot be written to" in done.exception.message
    monkeypatch.undo()
    if not denied:
        done = CliRunner().invoke(app, ["proxy", "--port", "0", "--record", str(folder)])
        assert isinstance(done.exception, ConfigError)
        assert "cannot be written to" in done.exception.message


def test_a_model_that_the_server_lacks_is_named_with_those_it_has() -> None:
    class Strict(MockServer):
        async def __call__(self, scope, receive, send) -> None:
            if scope["type"] == "http" and scope["method"] == "POST":
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body", "body": b'{"error": {"message": "no model"}}'})
                return
            await super().__call__(scope, receive, send)

    with serving(Strict(model="toy")) as address:
        asked = CliRunner().invoke(app, ["doctor", address, "--model", "nosuch"])
        listed = CliRunner().invoke(app, ["doctor", address, "--model", "toy"])
    assert isinstance(asked.exception, ModelError)
    assert str(asked.exception) == "The server has no model 'nosuch'. It lists: toy."
    # and a model that it has fails for another reason
    assert isinstance(listed.exception, LynxstopError)
    assert not isinstance(listed.exception, ModelError)


def test_after_collecting_both_ways_on_are_named(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"prompt": "7 + 5"}\n')
    with serving(MockServer()) as address:
        out = tmp_path / "out"
        done = CliRunner().invoke(
            app, ["collect", "toy", str(problems), str(out), "--engine", "openai", "--base-url", address]
        )
    assert f"lynxstop train {out} BUNDLE" in done.output
    assert f"lynxstop calibrate BUNDLE {out}" in done.output


def test_a_folder_that_turns_out_not_to_be_writable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems let everybody write, and then do not: /proc for root."""

    def made(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("lynxstop.proxy.parts.ShadowRecorder", made)
    given = {"policy": {"bundle": shipped.STREAM_BUNDLE}, "record": {"folder": "/proc/x"}}
    with pytest.raises(ConfigError, match="cannot be written to: No such file"):
        build(ProxyConfig.model_validate(given))
