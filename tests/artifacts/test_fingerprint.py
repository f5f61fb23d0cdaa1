"""Fingerprints tell models apart, and only models."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lynxstop import shipped
from lynxstop.artifacts.fingerprint import fingerprint, require_same
from lynxstop.artifacts.policy_file import read_policy
from lynxstop.errors import FingerprintError, ModelError


def test_the_way_of_loading_does_not_count(model: Path) -> None:
    before = fingerprint(model)

    (model / "config.json").write_text(
        json.dumps({"transformers_version": "9", "dtype": "float32", "hidden_size": 4})
    )

    assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("config.json", {"hidden_size": 5}, "config"),
        ("tokenizer.json", {"model": 1}, "tokenizer"),
        ("tokenizer_config.json", {"chat_template": "other"}, "template"),
    ],
)
def test_a_change_is_named(model: Path, file: str, content: dict[str, object], part: str) -> None:
    before = fingerprint(model)

    (model / file).write_text(json.dumps(content))

    with pytest.raises(FingerprintError, match=f"bundle belongs to another model: {part} differ"):
        require_same(before, fingerprint(model), "The bundle")


def test_other_weights_of_the_same_shape_are_another_model(model: Path) -> None:
    before = fingerprint(model)

    save_file({"weight": np.arange(8, dtype=np.float32) + 1}, model / "model.safetensors")

    assert before.differences(fingerprint(model)) == ["weights"]


@pytest.mark.parametrize("place", [0, -1])
def test_large_weights_are_told_apart_at_both_ends(model: Path, place: int) -> None:
    weights = np.zeros(200_000, dtype=np.float32)
    save_file({"weight": weights}, model / "model.safetensors")
    before = fingerprint(model)

    weights[place] = 1
    save_file({"weight": weights}, model / "model.safetensors")

    assert before.differences(fingerprint(model)) == ["weights"]


def test_bundles_that_were_made_before_still_know_their_model() -> None:
    assert read_policy(shipped.BUNDLE).fingerprint == fingerprint(shipped.MODEL)


def test_tokenizer_files_count_by_name(model: Path) -> None:
    (model / "vocab.json").write_text("{}")
    before = fingerprint(model)

    (model / "vocab.json").rename(model / "merges.txt")

    assert before.differences(fingerprint(model)) == ["tokenizer"]


def test_a_template_in_a_file_of_its_own_goes_first(model: Path) -> None:
    before = fingerprint(model)
    (model / "chat_template.jinja").write_text("{{ messages }}<think>")
    own = fingerprint(model)
    assert before.differences(own) == ["template"]

    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "stale"}))

    assert fingerprint(model) == own


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(model: Path, missing: str) -> None:
    (model / missing).unlink()

    with pytest.raises(ModelError):
        fingerprint(model)
