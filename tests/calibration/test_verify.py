"""`verify` takes no file's word for another's: whatever is changed is found."""

import hashlib
import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle, write_bundle
from lynxstop.artifacts.seal import seal
from lynxstop.artifacts.sums import SUMS
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.errors import DataError, LynxstopError
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, install, write_bundle_sums
from lynxstop.workflows.verify_bundle import verify_path

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "bundle": shipped.BUNDLE,
    "stream": shipped.STREAM_BUNDLE,
    "certificates": ROOT / "calibration" / "reasoner",
}


def holds(path):
    try:
        return verify_path(path).holds
    except LynxstopError:
        return False


@pytest.fixture(params=FOLDERS)
def folder(request, tmp_path):
    """A copy of what is shipped."""
    return Path(shutil.copytree(FOLDERS[request.param], tmp_path / "copy"))


def test_what_is_shipped_holds(folder):
    assert (folder / SUMS).is_file()
    assert holds(folder)


def test_any_changed_byte_is_found(folder):
    # given one byte after the other of every file, drawn with a fixed seed
    rng = np.random.default_rng(5)
    missed: list[tuple[str, int | str]] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for place in rng.integers(0, len(whole), 3):
            changed = bytearray(whole)
            changed[place] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(changed)
            if holds(folder):
                missed.append((path.name, int(place)))
        path.write_bytes(whole[:-1])
        if holds(folder):
            missed.append((path.name, "shortened"))
        path.unlink()
        if holds(folder) and path.name != SUMS:
            missed.append((path.name, "removed"))
        path.write_bytes(whole)
    assert missed == []
    assert holds(folder)
    # and a certificate alone is held against its evidence, and both against the folder's digests
    one = next(folder.rglob("risk-*.json"))
    assert holds(one)
    one.write_text(one.read_text().replace('"seed": 0', '"seed": 1'))
    assert not holds(one)


def test_without_sums_changes_of_what_is_served_are_found(tmp_path):
    # given a bundle of before there were sums
    folder = Path(shutil.copytree(shipped.BUNDLE, tmp_path / "copy"))
    (folder / SUMS).unlink()
    assert holds(folder)
    rng = np.random.default_rng(6)
    for name in ("policy.json", "probe.safetensors", "scores.safetensors", "training.json"):
        path = folder / name
        whole = path.read_bytes()
        for place in rng.integers(0, len(whole), 3):
            changed = bytearray(whole)
            changed[place] ^= 1
            path.write_bytes(changed)
            assert not holds(folder), (name, place)
        path.write_bytes(whole)
    card = folder / "README.md"
    text = card.read_text()
    card.write_text(re.sub(r"Observed \d+/", "Observed 4/", text))
    assert card.read_text() != text
    assert not holds(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.csv", "no score table"),
        ("empty.csv", "Empty CSV file"),
        (".", "no score table"),
        ("x.parquet", "evidence"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_error(tmp_path, name, said):
    (tmp_path / "empty.csv").touch()
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=said):
        verify_path(shipped.BUNDLE, tmp_path / name)


@pytest.fixture
def made(bundle, data):
    """A small certified bundle."""
    install(bundle, calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.05, 0.2], by="family")))
    assert verify_path(bundle.path).holds
    return bundle.path


def forge(folder, change):
    """Change a certificate, and make every digest fit: its own, those in the policy, and the sums."""
    path = sorted((folder / "certificates").glob("risk-*.json"))[0]
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(seal(content)))
    policy = json.loads((folder / "policy.json").read_text())
    for level in policy["levels"]:
        if level["certificate"].endswith(path.name):
            level["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            for name in ("risk", "confidence", "loss", "method", "threshold"):
                level[name] = content.get(name)
    (folder / "policy.json").write_text(json.dumps(seal(policy)))
    write_bundle_sums(folder)


RESTS_ON_NOTHING = {
    "lynxstop", "created", "digests.data", "settings.by", "settings.seed",
    "grading.pairs", "grading.contradicted",
}  # fmt: skip
"""What no file of a bundle says a second time: only the digests guard it."""


def leaves(content, start=""):
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{start}{name}.")
        else:
            yield f"{start}{name}"


def changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return value[:-1] if value else [1.0]
    if value is None:
        return 1
    try:
        return (datetime.fromisoformat(value).astimezone(UTC).replace(year=2019)).isoformat()
    except ValueError:
        return value + "x"


def test_any_field_is_found_even_when_all_digests_fit(made, tmp_path):
    first = sorted((made / "certificates").glob("risk-*.json"))[0]
    names = [name for name in leaves(json.loads(first.read_text())) if name != "digest"]
    missed = []
    for number, name in enumerate(names):
        folder = Path(shutil.copytree(made, tmp_path / str(number)))

        def change(content, name=name):
            *outer, last = name.split(".")
            for part in outer:
                content = content[part]
            content[last] = changed(content[last])

        forge(folder, change)
        if holds(folder):
            missed.append(name)
        shutil.rmtree(folder)
    assert set(missed) <= RESTS_ON_NOTHING
    # and a change of nothing is not found
    forge(made, lambda content: None)
    assert holds(made)


def test_thresholds_that_training_did_not_fix_are_found(made):
    def change(content):
        content["settings"]["grid"] = [3.0, 1.0]

    forge(made, change)
    found = verify_path(made)
    assert any("not fixed on the bundle" in line for line in found.certificates[0].differences)


def test_a_file_that_the_sums_do_not_name_is_found(made):
    sums = made / SUMS
    lines = sums.read_text().splitlines(keepends=True)
    for place, line in enumerate(lines):
        sums.write_text("".join(lines[:place] + lines[place + 1 :]))
        assert verify_path(made).differences == (f"{line.split()[1]} is not named in {SUMS}.",)


def test_a_certificate_that_no_level_names_is_found(made, data):
    first = sorted((made / "certificates").glob("risk-*.json"))[0]
    shutil.copy(first, first.with_name("risk-0.05-all-00000000.json"))
    assert any("of no level" in line for line in verify_path(made).differences)
    # then certifying again, as the error says, leaves it out
    loaded = Bundle.load(made)
    install(loaded, calibrate_bundle(loaded, data, CalibrationOptions(risks=[0.1], by="family")))
    assert holds(made)


def test_a_bundle_that_another_takes_the_place_of_leaves_no_certificate(made, data):
    # given a certified bundle, and a new one in its folder
    old = Bundle.load(made)
    policy = old.policy.model_copy(update={"levels": (), "default_risk": None})
    new = write_bundle(made, policy, old.probe, old.training_scores(), old.training())
    assert not list((made / "certificates").iterdir())
    # then what is certified there is the whole of it
    install(new, calibrate_bundle(new, data, CalibrationOptions(risks=[0.1])))
    assert holds(made)


def test_evidence_on_training_problems_is_found(made):
    # given evidence one of whose problems the bundle was trained on, and everything made to fit
    training = made / "scores.safetensors"
    tensors = load(training.read_bytes())
    names = ["p00001", "t1"]
    tensors["problems"] = np.frombuffer("\n".join(names).encode(), dtype=np.uint8)
    training.write_bytes(save(tensors))
    policy = json.loads((made / "policy.json").read_text())
    policy["files"]["scores.safetensors"] = hashlib.sha256(training.read_bytes()).hexdigest()
    (made / "policy.json").write_text(json.dumps(seal(policy)))
    write_bundle_sums(made)
    found = verify_path(made)
    assert any("training and in calibration" in line for line in found.certificates[0].differences)
    assert any("training problems" in line for line in found.differences)


def test_sums_are_those_of_sha256sum(made):
    lines = (made / SUMS).read_text().splitlines()
    assert all(len(line.split("  ")[0]) == 64 for line in lines)
    assert {line.split("  ")[1] for line in lines} >= {"policy.json", "README.md", "training.json"}
