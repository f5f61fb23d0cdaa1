"""The examples of docs/extending.md work as written; that of a signal and a rule is tested with the rules."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lynxstop.artifacts.recipe import Recipe
from lynxstop.calibration.losses import Verdicts
from lynxstop.collect import sources
from lynxstop.remote.dialects import table
from tests.support.scripted import ScriptedSource

TEXT = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


def example(heading: str, **names: Any) -> dict[str, Any]:
    """Run the code of a section; return its names."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
        exec(compile(block, "docs/extending.md", "exec"), names)
    return names


def test_the_loss_charges_what_it_says() -> None:
    cautious = example("A loss")["cautious"]
    exits = Verdicts(
        agrees=np.array([1.0, 0.0, 0.0, 1.0]),
        right=np.array([1.0, 0.0, 0.0, 0.0]),
        full_right=np.array([1.0, 1.0, 0.0, 0.0]),
    )
    assert cautious.at_exit(exits).tolist() == [0.0, 1.0, 0.25, 0.0]
    assert not cautious.selective


def test_the_dialect_is_found_by_its_facts_and_asks_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        async def call(self, path: str) -> Any:
            return {"data": [{"id": "m", "owned_by": "forked"}]}

    kind = example("A dialect")["Forked"]
    monkeypatch.setattr(table, "DIALECTS", {**table.DIALECTS, kind.name: kind})
    with pytest.raises(StopIteration) as found:
        table.choose("auto", Server()).send(None)  # type: ignore[arg-type]
    assert type(found.value.value) is kind
    body = found.value.value.watched({"messages": []})
    assert "stream_reasoning" not in body
    assert "logprobs" in json.dumps(body)


def test_the_engine_is_loaded_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ENGINES", dict(sources.ENGINES))
    made = ScriptedSource()
    example("An engine", MySource=lambda *_, batch_size: made)
    assert sources.load_source("mine", "none", Recipe(), sources.SourceOptions()) is made
