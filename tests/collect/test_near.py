"""Near repeats of prompts: all pairs that are similar enough, found without comparing all."""

import json
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lynxstop.cli import app
from lynxstop.recordings.near import near_pairs, shingles

words = st.lists(st.sampled_from("abc"), min_size=0, max_size=8).map(" ".join)


@given(st.lists(words, max_size=8), st.sampled_from([0.2, 0.5, 0.8, 1.0]), st.integers(1, 3))
def test_exactly_the_similar_pairs_are_found(prompts, least, size):
    sets = [shingles(prompt, size) for prompt in prompts]
    found = {(near.first, near.second): near.similarity for near in near_pairs(prompts, least, size)}
    expected = {
        (i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in combinations(range(len(sets)), 2)
    }
    assert found == {pair: value for pair, value in expected.items() if value >= least}


def test_the_command_finds_renamed_repeated_and_reworded_prompts(tmp_path):
    # given a training set, and one with its prompt under another id, one twice, and one nearly the same
    long = "A train leaves at noon and needs three hours for the whole way to the sea"
    sets = {
        "train": [("a", long), ("b", "Add 2 and 3")],
        "calibration": [
            ("x", "add  2 AND 3"),
            ("y", "Add 7 and 9"),
            ("z", "Add 7 and 9"),
            ("w", f"{long} today"),
        ],
    }
    for name, rows in sets.items():
        lines = [json.dumps({"id": key, "prompt": prompt}) for key, prompt in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    files = [str(tmp_path / f"{name}.jsonl") for name in sets]
    # when they are compared
    made = CliRunner().invoke(app, ["problems", *files, "--json"])
    found = json.loads(made.stdout)
    # then all three are told
    assert [(line["problems"], line["prompts"]) for line in found["files"]] == [(2, 2), (4, 3)]
    assert [line["prompts"] for line in found["shared"]] == [1]
    assert [[one[1] for one in line["problems"]] for line in found["near"]] == [["a", "w"]]
    assert found["near"][0]["similarity"] == pytest.approx(12 / 13, abs=1e-3)
    shown = CliRunner().invoke(app, ["problems", *files])
    assert shown.exit_code == 0
