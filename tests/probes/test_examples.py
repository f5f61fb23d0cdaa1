"""Every example that needs no more than a recording runs as written, and so does the document."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.probe import Probe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(recorded, monkeypatch, capsys):
    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def layers_of(bundle: Path) -> tuple[int, ...]:
    probe = Bundle.load(bundle).probe
    assert probe is not None
    return probe.layers


def test_a_probe_is_trained(run, recorded, tmp_path):
    assert "chosen" in run("train_probe.py", recorded.path, tmp_path / "bundle")
    assert set(layers_of(tmp_path / "bundle")) <= set(recorded.layers)


def test_an_estimator_of_ones_own_is_served(run, recorded, tmp_path):
    said = run("own_estimator.py", recorded.path, tmp_path / "bundle")
    assert float(said.partition("differ by ")[2].split()[0]) < 1e-3
    assert layers_of(tmp_path / "bundle") == recorded.layers[-1:]


def test_a_grid_is_searched(run, recorded, tmp_path):
    assert "best" in run("grid_search.py", recorded.path, tmp_path / "probe.safetensors")
    assert Probe.load(tmp_path / "probe.safetensors").layers == recorded.layers


def test_scores_are_certified(run):
    assert "saves" in run("certify_scores.py")


def test_the_document_runs_from_top_to_bottom(recorded, tmp_path, monkeypatch):
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "train").symlink_to(recorded.path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "probes.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 4
    space: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/probes.md", "exec"), space)
    served = Bundle.load(tmp_path / "bundle").policy.rule
    assert served is not None
    assert served.name == "combined"
