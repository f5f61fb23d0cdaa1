"""`lynxstop doctor` without a server: this machine, a model and a bundle."""

import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.cli import app
from lynxstop.workflows import machine


def doctor(*words: object) -> tuple[int, dict[str, dict[str, Any]]]:
    done = CliRunner().invoke(app, ["doctor", *map(str, words), "--json"])
    return done.exit_code, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_a_model_and_its_bundle_fit() -> None:
    code, found = doctor("--model", shipped.MODEL, "--bundle", shipped.BUNDLE)
    assert code == 0
    assert all(check["state"] != "wrong" for check in found.values())
    assert found["bundle and model"]["state"] == "yes"
    assert {"GPU", "disk", "vLLM plugin", "torch", "extra proxy"} <= found.keys()


def test_a_changed_model_and_a_missing_one_are_named(tmp_path: Path) -> None:
    other = shutil.copytree(shipped.MODEL, tmp_path / "model")
    (other / "chat_template.jinja").write_text("another")
    code, found = doctor("--model", other, "--bundle", shipped.BUNDLE)
    assert code == 1
    assert found["bundle and model"]["state"] == "wrong"
    assert "template" in found["bundle and model"]["text"]
    code, found = doctor("--model", tmp_path / "nosuch")
    assert code == 1
    assert "is not a model folder" in found["model"]["text"]


def test_a_bundle_that_expired_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lynxstop.artifacts.expiry.expired", lambda *_, **__: True)
    code, found = doctor("--bundle", shipped.BUNDLE)
    assert code == 1
    assert "expired" in found["certificates"]["text"]


def test_a_plugin_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda _: True)
    monkeypatch.setattr(machine, "entry_points", lambda group: [])
    assert machine._plugin().state == "wrong"
    broken = EntryPoint("lynxstop", "lynxstop.no_such_module:register", "vllm.general_plugins")
    monkeypatch.setattr(machine, "entry_points", lambda group: [broken])
    assert "no_such_module" in machine._plugin().text


def test_the_extras_are_those_of_the_package() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    for name, packages in machine.EXTRAS.items():
        declared = {requirement.split(">")[0].split("[")[0] for requirement in extras[name]}
        assert declared == set(packages), name
