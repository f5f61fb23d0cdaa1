"""Bundles from strangers: whatever their files hold, loading ends in one clear error."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from lynxstop import shipped
from lynxstop.artifacts import atomic
from lynxstop.artifacts.bundle import WEIGHTS, Bundle
from lynxstop.artifacts.hub import known_files
from lynxstop.artifacts.probe import FORMAT
from lynxstop.artifacts.seal import seal
from lynxstop.artifacts.sums import SUMS, read_sums, sums_differ
from lynxstop.errors import LynxstopError
from lynxstop.workflows.verify_bundle import verify_path

Tensors = dict[str, np.ndarray]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped.BUNDLE, tmp_path / "bundle"))


def say(bundle: Path, **changes: Any) -> None:
    """Change the policy as somebody would who knows of its digest."""
    path = bundle / "policy.json"
    path.write_text(json.dumps(seal(json.loads(path.read_text()) | changes)))


def put_probe(bundle: Path, content: bytes) -> None:
    (bundle / WEIGHTS).write_bytes(content)
    say(bundle, probe_sha256=atomic.sha256(bundle / WEIGHTS), levels=[], default_risk=None)


def probe(changes: Tensors | None = None, *, layers: str = "[1]", width: str = "4") -> bytes:
    tensors: Tensors = {"0.weight": np.zeros((1, 4), np.float32), "0.bias": np.zeros(1, np.float32)}
    return save(tensors | (changes or {}), {"format": FORMAT, "layers": layers, "width": width})


def raw(dtype: str, size: int, **more: Any) -> bytes:
    """A file whose header is written by hand."""
    header = {
        "__metadata__": {"format": FORMAT, "layers": "[1]", "width": "4"},
        "0.weight": {"dtype": dtype, "shape": [1, 4], "data_offsets": [0, 4 * size]},
        "0.bias": {"dtype": dtype, "shape": [1], "data_offsets": [4 * size, 5 * size]},
    }
    for name, changed in more.items():
        header[name.replace("_", ".")] |= changed
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(5 * size)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x80\x04\x95cos\nsystem\n(S'id'\ntR.", id="pickle"),
        pytest.param((1 << 62).to_bytes(8, "little") + b"{}", id="a header of exabytes"),
        pytest.param(raw("F32", 4, **{"0_weight": {"shape": [1 << 62, 4]}}), id="a shape that overflows"),
        pytest.param(raw("F32", 4, **{"0_bias": {"data_offsets": [12, 16]}}), id="tensors that overlap"),
        pytest.param(raw("F8_E4M3", 1), id="a type that numpy lacks"),
        pytest.param(raw("BF16", 2), id="bfloat16"),
        pytest.param(raw("F16", 2), id="float16"),
        pytest.param(raw("F64", 8), id="float64"),
        pytest.param(raw("I64", 8), id="integers"),
        pytest.param(probe({"0.weight": np.full((1, 4), np.nan, np.float32)}), id="NaN weights"),
        pytest.param(probe({"0.bias": np.full(1, np.inf, np.float32)}), id="an infinite bias"),
        pytest.param(probe({"0.weight": np.zeros((1, 5), np.float32)}), id="another width"),
        pytest.param(probe({"surprise": np.zeros(1, np.float32)}), id="one tensor more"),
        pytest.param(probe(layers="[Infinity]"), id="an infinite layer"),
        pytest.param(probe(layers="[" * 100_000), id="nested layers"),
        pytest.param(probe(layers="null"), id="no layers"),
        pytest.param(probe(width="-4"), id="a negative width"),
    ],
)
def test_a_hostile_probe_is_one_clear_error(bundle: Path, content: bytes) -> None:
    put_probe(bundle, content)

    with pytest.raises(LynxstopError):
        Bundle.load(bundle)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "rule",
    [
        {"name": "combined", "constants": {"weights": "abc"}},
        {"name": "combined", "constants": {"weights": [1.0], "means": [1.0], "scales": [1.0]}},
        {"name": "combined", "constants": {"weights": nested(300)}},
        {"name": "combined", "constants": {}},
        {"name": "sched", "constants": {"budget": 0}},
        {"name": "sched", "constants": {"low": "x"}},
        {"name": "rpdi", "constants": {"window": -1}},
        {"name": "lynx|rpdi", "constants": {"members": 5}},
        {"name": "deer", "constants": {}},
        {"name": "os:system", "constants": {}},
    ],
    ids=str,
)
def test_a_rule_that_cannot_score_is_refused_before_any_request(bundle: Path, rule: dict[str, Any]) -> None:
    say(bundle, rule=rule, levels=[], default_risk=None)

    with pytest.raises(LynxstopError):
        Bundle.load(bundle)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_digests_of_files_elsewhere_are_not_looked_up(bundle: Path, name: str) -> None:
    outside = bundle.parent / "outside"
    outside.write_text("secret")
    (bundle / SUMS).write_text(f"{atomic.sha256(outside)}  {name}\n")

    assert read_sums(bundle) == {}
    assert sums_differ(bundle) == [f"{SUMS} is damaged."]
    assert not verify_path(bundle).holds


def test_a_huge_list_of_digests_is_not_read(bundle: Path) -> None:
    with (bundle / SUMS).open("wb") as file:
        file.truncate(1 << 40)

    assert read_sums(bundle) == {}


@pytest.mark.parametrize("name", ["policy.json", WEIGHTS, "scores.safetensors", "training.json"])
@pytest.mark.parametrize("kind", ["link", "loop", "device", "pipe", "folder"])
def test_what_is_no_file_of_the_bundle_is_not_taken_for_one(bundle: Path, name: str, kind: str) -> None:
    secret = bundle.parent / "secret"
    secret.write_text("root:x:0:0")
    (bundle / name).unlink()
    made = {
        "link": lambda: (bundle / name).symlink_to(secret),
        "loop": lambda: (bundle / name).symlink_to(name),
        "device": lambda: (bundle / name).symlink_to("/dev/zero"),
        "pipe": lambda: os.mkfifo(bundle / name),
        "folder": lambda: (bundle / name).mkdir(),
    }
    made[kind]()

    with pytest.raises(LynxstopError) as refused:
        Bundle.load(bundle).check()
    assert "root:x" not in str(refused.value)


def test_names_that_lead_elsewhere_are_no_files_of_a_bundle() -> None:
    names = ["../policy.json", "/policy.json", "certificates/../../risk-1.json", "policy.json/..", "x.py"]
    assert known_files([*names, "policy.json"]) == ["policy.json"]
