"""Fingerprints tell models apart, and only models."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lynxstop import shipped
from lynxstop.artifacts.fingerprint import (
    fingerprint,
    require_same,
    require_same_template,
    require_same_tokenizer,
)
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


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_cannot_be_read_is_named(model: Path, name: str) -> None:
    """As one of another user's, which the tests, where they run as root, may read all the same."""
    (model / name).unlink()
    (model / name).mkdir()
    with pytest.raises(ModelError, match=f"{name} cannot be read: Is a directory"):
        fingerprint(model)


@pytest.mark.parametrize("kept", ["settings", "file"])
def test_a_template_given_to_the_server_is_compared_with_that_of_the_bundle(
    model: Path, tmp_path: Path, kept: str
) -> None:
    # given a model whose template is in one of two places
    own = "{{ messages }}\n"
    if kept == "file":
        (model / "chat_template.jinja").write_text(own)
    else:
        (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": own}))
    recorded, other = fingerprint(model), tmp_path / "other.jinja"
    # when a server is given it, as a file or as text, then it is the same
    (tmp_path / "own.jinja").write_text(own)
    for template in (str(tmp_path / "own.jinja"), own):
        require_same_template(recorded, template, "The bundle")
    # and any other is refused
    other.write_text(own + " ")
    for template in (str(other), own + " ", "x" * 10_000):
        with pytest.raises(FingerprintError, match="template differ"):
            require_same_template(recorded, template, "The bundle")


def test_a_tokenizer_of_its_own_is_compared_with_that_of_the_bundle(model: Path, tmp_path: Path) -> None:
    recorded, folder = fingerprint(model), tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    require_same_tokenizer(recorded, folder, "The bundle")
    for name, part in (("tokenizer.json", "tokenizer"), ("tokenizer_config.json", "template")):
        kept = (folder / name).read_bytes()
        (folder / name).write_text('{"chat_template": "x"}')
        with pytest.raises(FingerprintError, match=f"model: {part} differ"):
            require_same_tokenizer(recorded, folder, "The bundle")
        (folder / name).write_bytes(kept)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        require_same_tokenizer(recorded, folder, "The bundle")
