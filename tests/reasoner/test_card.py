"""The model's card says what was measured, and the manifest what is there."""

import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lynxstop_research.reasoner.card import families, requirements, rivals, signals, with_sets
from lynxstop_research.reasoner.curves import draw_curves

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, object]]:
    loaded: dict[str, dict[str, object]] = json.loads((DATA / "reasoner" / "measured.json").read_text())
    return loaded


def test_every_requirement_is_met(measured: dict[str, dict[str, object]]) -> None:
    rows = requirements(with_sets(measured)).splitlines()[2:]
    assert [row for row in rows if not row.endswith("| yes |")] == []


def test_the_card_shows_the_measurements(measured: dict[str, dict[str, object]]) -> None:
    card = (DATA / "reasoner" / "README.md").read_text()
    assert requirements(with_sets(measured)) in card
    assert signals(measured["usual"], measured["shift"]) in card
    assert families(measured["usual"], measured["shift"]) in card
    assert "{{" not in card


def test_the_card_of_the_silent_model_shows_what_was_measured_and_what_is_not_met() -> None:
    measured = json.loads((DATA / "silent" / "measured.json").read_text())
    card = (DATA / "silent" / "README.md").read_text()
    assert requirements(measured) in card
    assert rivals(measured) in card
    assert "{{" not in card
    # what it is for: thinking destroys little, nothing prints the verdict, and the oracle is ahead
    assert measured["damaged"] < 0.03
    assert measured["rivals"]["regular expression"] == 0.5
    assert measured["oracle_saves"] > measured["first_exit"]["probe"]["saves"] + 0.1


def test_every_digest_of_the_manifest_is_right() -> None:
    files = json.loads((DATA / "manifest.json").read_text())["files"]
    assert {"problems/test.jsonl", "reasoner/model.safetensors", "silent/model.safetensors"} <= set(files)
    for name, entry in files.items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == entry["sha256"], name


def test_the_curves_are_a_small_drawing(tmp_path: Path) -> None:
    draw_curves(DATA / "reasoner" / "log.jsonl", tmp_path / "curves.svg")
    assert ElementTree.parse(tmp_path / "curves.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "curves.svg").stat().st_size < 20_000
