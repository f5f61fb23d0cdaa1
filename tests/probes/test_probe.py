"""A probe scores what it was told to, survives its file, and refuses what is not a probe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file

from lynxstop.artifacts.probe import FORMAT, Probe
from lynxstop.errors import BundleError

FLOATS = st.floats(-100, 100, width=32)


def affine(weight: object, bias: object) -> tuple[np.ndarray, np.ndarray]:
    return np.array(weight, np.float32), np.array(bias, np.float32)


@pytest.fixture
def mlp() -> Probe:
    return Probe((1, 2), (affine([[1, -1], [0, 2], [1, 1]], [0, 1, -9]), affine([[1, 2, 3]], [0.5])))


@given(arrays(np.float32, (3, 2), elements=FLOATS))
def test_one_map_is_a_logistic_regression(features: np.ndarray) -> None:
    probe = Probe((4,), (affine([[2, -3]], [0.25]),))
    expected = 2 * features[:, 0] - 3 * features[:, 1] + 0.25
    np.testing.assert_allclose(probe.score(features), expected, rtol=1e-4, atol=1e-3)


def test_relu_stands_between_the_maps_only(mlp: Probe) -> None:
    # hidden units 3-(-1)=4, 2*-1+1=-1 -> 0, 3-1-9=-7 -> 0; the logit itself may be negative
    assert mlp.score(np.array([[3, -1]], np.float32)).tolist() == [4.5]
    assert Probe((1,), (affine([[1]], [-2]),)).score(np.array([[1]], np.float32)).tolist() == [-1]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_gives_nan_and_harms_no_other_row(mlp: Probe, poison: float) -> None:
    scores = mlp.score(np.array([[3, -1], [3, poison], [3, -1]], np.float32))
    assert np.isnan(scores).tolist() == [False, True, False]
    assert scores[0] == scores[2] == 4.5


def test_no_cues_give_no_scores(mlp: Probe) -> None:
    assert mlp.score(np.zeros((0, 2), np.float32)).shape == (0,)


def test_other_widths_are_refused(mlp: Probe) -> None:
    for shape in ((1, 3), (2,)):
        with pytest.raises(BundleError, match="features"):
            mlp.score(np.zeros(shape, np.float32))


def test_a_saved_probe_comes_back(mlp: Probe, tmp_path: Path) -> None:
    mlp.save(tmp_path / "probe.safetensors")
    back = Probe.load(tmp_path / "probe.safetensors")
    assert (back.layers, back.width) == (mlp.layers, mlp.width)
    assert back.tensors().keys() == mlp.tensors().keys()
    assert all(np.array_equal(back.tensors()[name], tensor) for name, tensor in mlp.tensors().items())
    assert [file.name for file in tmp_path.iterdir()] == ["probe.safetensors"]


def test_one_probe_is_the_same_file_whenever_it_is_saved(mlp: Probe, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(12)]
    for path in paths:
        mlp.save(path)

    assert len({path.read_bytes() for path in paths}) == 1


def test_a_probe_that_cannot_be_written_leaves_nothing(mlp: Probe, tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    with pytest.raises(OSError):
        mlp.save(tmp_path / "probe")
    assert [file.name for file in tmp_path.iterdir()] == ["probe"]


BAD_MAPS = {
    "no maps": (),
    "double precision": ((np.ones((1, 2)), np.ones(1)),),
    "not finite": (affine([[1, np.nan]], [0]),),
    "bias of another size": (affine([[1, 1]], [0, 0]),),
    "maps that do not chain": (affine([[1, 1], [1, 1]], [0, 0]), affine([[1]], [0])),
    "two outputs": (affine([[1, 1], [1, 1]], [0, 0]),),
    "width no multiple of the layers": (affine([[1, 1, 1]], [0]),),
    "a vector": (affine([1, 1], [0]),),
}


@pytest.mark.parametrize("name", BAD_MAPS)
def test_what_is_no_probe_is_refused(name: str) -> None:
    with pytest.raises(BundleError):
        Probe((1, 2), BAD_MAPS[name])


@pytest.mark.parametrize("layers", [(), (2, 1), (1, 1), (-1, 2)])
def test_layers_must_ascend(layers: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match="layers"):
        Probe(layers, (affine([[1, 1]], [0]),))


def test_damaged_files_are_refused(mlp: Probe, tmp_path: Path) -> None:
    path = tmp_path / "probe.safetensors"
    with pytest.raises(BundleError, match="no probe"):
        Probe.load(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(BundleError, match="damaged"):
        Probe.load(path)
    mlp.save(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BundleError, match="damaged"):
        Probe.load(path)


METADATA = {"format": FORMAT, "layers": "[1, 2]", "width": "2"}


@pytest.mark.parametrize(
    "change",
    [{"format": "lynxstop-probe-0"}, {"layers": "one"}, {"layers": "3"}, {"width": "4"}, {"width": "two"}],
)
def test_wrong_metadata_is_refused(change: dict[str, str], mlp: Probe, tmp_path: Path) -> None:
    save_file(mlp.tensors(), tmp_path / "probe", {**METADATA, **change})
    with pytest.raises(BundleError):
        Probe.load(tmp_path / "probe")


@pytest.mark.parametrize("name", ["0.weights", "2.weight", "extra"])
def test_wrong_tensors_are_refused(name: str, mlp: Probe, tmp_path: Path) -> None:
    tensors = mlp.tensors()
    tensors[name] = tensors.pop("0.weight")
    save_file(tensors, tmp_path / "probe", METADATA)
    with pytest.raises(BundleError, match="numbered"):
        Probe.load(tmp_path / "probe")


def test_a_probe_works_without_torch(mlp: Probe, tmp_path: Path) -> None:
    mlp.save(tmp_path / "probe")
    code = (
        "import sys; from lynxstop.artifacts.probe import Probe; import numpy as np;"
        f"Probe.load({str(tmp_path / 'probe')!r}).score(np.zeros((1, 2), np.float32));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
