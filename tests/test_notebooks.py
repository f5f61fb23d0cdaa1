"""The notebooks run, and what they end in is shown as HTML."""

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))


def executed(path: Path) -> list[Any]:
    """Run the code cells in one namespace; return the value of each cell's last line."""
    names: dict[str, Any] = {}
    values = []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        lines = "".join(cell["source"])
        head, _, last = lines.rpartition("\n")
        try:
            shown = compile(last, str(path), "eval")
        except SyntaxError:
            exec(compile(lines, str(path), "exec"), names)
            continue
        exec(compile(head, str(path), "exec"), names)
        values.append(eval(shown, names))
    return values


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_tables(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    shown = [value._repr_html_() for value in executed(path) if hasattr(value, "_repr_html_")]
    assert shown
    assert all("<table>" in text for text in shown)
    if path.stem == "certificate":
        assert any("<polyline" in text for text in shown)


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"certificate", "probes"}
