"""The examples of the document run as they stand, in order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


def test_examples_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)
    text = (ROOT / "docs" / "transformers.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "docs/transformers.md", "exec"), names)
    assert "problem 1" in capsys.readouterr().out
    assert len(names["answers"]) == 2


def test_the_start_in_python_stops_early(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "start.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/start.md", "exec"), names)
    assert names["answer"].exit.reason == "score"
    assert "boxed" in capsys.readouterr().out
