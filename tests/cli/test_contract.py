"""What the command line promises: a reference that is up to date, examples everywhere, clear endings."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from lynxstop.cli import SUMMARIES, _output, app
from lynxstop.remote.dialects.table import DIALECTS

ROOT = Path(__file__).parents[2]
SERVERS = {"serve", "mock-upstream", "proxy"}
GROUP: Any = typer.main.get_command(app)
COMMANDS = {
    f"{name} {inner}".strip(): found
    for name, command in GROUP.commands.items()
    for inner, found in getattr(command, "commands", {"": command}).items()
}


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "cli_reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["doctor", "proxy"])
def test_the_help_of_a_dialect_lists_all_of_them(name: str) -> None:
    listed = next(parameter.help for parameter in COMMANDS[name].params if parameter.name == "dialect")

    assert [kind for kind in DIALECTS if kind not in listed] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_examples_and_json(name: str) -> None:
    command = COMMANDS[name]

    assert "**Examples**" in command.help
    assert f"`lynxstop {name}" in command.help
    if name not in SERVERS:
        assert any("--json" in parameter.opts for parameter in command.params)
    assert all(getattr(parameter, "help", "set") for parameter in command.params)


def test_completion_can_be_installed() -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).stdout


def test_an_error_on_purpose_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lynxstop.cli", "inspect", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert "lynxstop collect" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_loads_no_command_and_nothing_heavy() -> None:
    code = "import sys; from lynxstop.cli import app; app(['--help'], standalone_mode=False); " + (
        "print(' '.join(sys.modules), file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stderr.split()

    assert all(f"  {name} " in done.stdout for name in COMMANDS if " " not in name)
    assert not {"torch", "numpy", "pydantic", "rich", "asyncio", "lynxstop.cli.collect"} & set(loaded)


def test_the_list_of_commands_says_what_their_help_says() -> None:
    for name, command in GROUP.commands.items():
        first = command.help.split("\n\n")[0]
        assert " ".join(first.split()) == SUMMARIES[name], name


def test_json_has_no_infinities(capsys: pytest.CaptureFixture[str]) -> None:
    _output.emit({"a": float("inf"), "b": [float("nan"), {"c": 1.5}]})

    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, {"c": 1.5}]}
