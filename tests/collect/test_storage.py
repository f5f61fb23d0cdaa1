"""Recorded data: what was written is read, and nothing else is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from lynxstop.errors import DataError, StepError
from lynxstop.recordings.schema import CUES, TRACES
from lynxstop.recordings.storage import Recording
from lynxstop.recordings.store import Folder
from tests.support.scripted import HIDDEN, LAYERS, SAMPLING, ScriptedSource, problems


def test_the_tables_have_the_documented_columns_and_belong_together(recorded):
    # given a data set of three shards, opened again
    data = Recording.open(recorded.path)
    traces, cues = data.traces(), data.cues()
    # then columns, order and counts are as documented
    assert traces.column_names == list(TRACES)
    assert cues.column_names == list(CUES)
    owners = [name for row in traces.to_pylist() for name in [row["trace_id"]] * row["cues"]]
    assert cues["trace_id"].to_pylist() == owners
    assert data.features().shape == (len(cues), len(LAYERS) * HIDDEN)
    assert data.features().dtype == np.float32
    assert data.problem_ids == tuple(f"p{i}" for i in range(10))
    assert data.whole


def test_what_belongs_to_another_user_is_not_called_damaged(recorded, monkeypatch):
    def denied(store, name):
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(Folder, "local", denied)
    with pytest.raises(DataError, match="cannot be read: Permission denied") as caught:
        Recording.open(recorded.path, verify=False)
    assert "Delete" not in str(caught.value.hint)


def test_layers_and_rows_select_features(recorded):
    everything = recorded.features()
    rows = np.arange(len(everything)) % 2 == 0
    np.testing.assert_array_equal(recorded.features([3]), everything[:, HIDDEN:])
    np.testing.assert_array_equal(recorded.features([1], rows), everything[rows, :HIDDEN])
    with pytest.raises(DataError, match=r"\[2\] were not recorded"):
        recorded.features([2])


@pytest.mark.parametrize("name", ["traces-00001.parquet", "cues-00000.parquet", "features-00002.safetensors"])
@pytest.mark.parametrize("fault", ["flip", "cut", "remove"])
def test_damaged_shards_are_refused(recorded, name, fault):
    file = recorded.path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    if fault == "remove":
        file.unlink()
    else:
        file.write_bytes(content if fault == "flip" else content[: len(content) // 2])
    with pytest.raises(DataError, match=name):
        Recording.open(recorded.path)


def test_shards_of_another_recording_are_refused(recorded, tmp_path):
    # given a recording that differs in its seed alone
    other = SAMPLING.__class__(temperature=1.0, max_tokens=600, answer_tokens=8, seed=6)
    collect(ScriptedSource(), problems(10), tmp_path / "other", other, CollectOptions(shard_size=4))
    # when one of its shards takes the place of ours, or stands beside them
    for name in ("traces-00001.parquet", "cues-00001.parquet", "features-00001.safetensors"):
        kept = (recorded.path / name).read_bytes()
        shutil.copy(tmp_path / "other" / name, recorded.path / name)
        with pytest.raises(DataError, match="another recording"):
            Recording.open(recorded.path, verify=False)
        (recorded.path / name).write_bytes(kept)
    shutil.copy(tmp_path / "other" / "cues-00001.parquet", recorded.path / "cues-00007.parquet")
    with pytest.raises(DataError, match="does not belong"):
        Recording.open(recorded.path)


def swapped(data, *kinds):
    """Put the files of the last shard, of these kinds, in the place of the second's."""
    for kind in kinds:
        (file,) = data.path.glob(f"{kind}-00002.*")
        shutil.copy(file, data.path / file.name.replace("00002", "00001"))
    return Recording.open(data.path, verify=False)


def test_files_of_other_shards_are_refused_even_unverified(recorded):
    tokens = swapped(recorded, "tokens")
    with pytest.raises(DataError, match="does not hold"):
        list(tokens.tokens())
    with pytest.raises(DataError, match="do not belong to the traces"):
        swapped(recorded, "cues", "features")
    with pytest.raises(DataError, match="A trace occurs twice"):
        swapped(recorded, "traces")


def test_tokens_of_another_recording_are_refused(recorded, tmp_path):
    # given the same traces, recorded with another limit of cues
    options = CollectOptions(shard_size=4, max_cues=9)
    other = collect(ScriptedSource(), problems(10), tmp_path / "other", SAMPLING, options)
    shutil.copy(Path(other.path) / "tokens-00001.safetensors", recorded.path)
    with pytest.raises(DataError, match=r"tokens-00001\.safetensors belongs to another recording"):
        list(Recording.open(recorded.path, verify=False).tokens())


def test_an_unfinished_collection_is_a_missing_step(recorded, tmp_path):
    meta = json.loads((recorded.path / "meta.json").read_text())
    (recorded.path / "meta.json").write_text(json.dumps(meta | {"digests": None}))
    (recorded.path / "traces-00002.parquet").unlink()
    with pytest.raises(StepError, match="2 of 3 shards"):
        Recording.open(recorded.path)
    assert len(Recording.open(recorded.path, partial=True).traces()) == 8
    with pytest.raises(StepError, match="no recorded data"):
        Recording.open(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"schema_version": 99}', "99"),
        ('{"schema_version": 1}', "damaged"),
    ],
)
def test_a_foreign_meta_file_is_refused(recorded, content, complaint):
    (recorded.path / "meta.json").write_text(content)
    with pytest.raises(DataError, match=complaint):
        Recording.open(recorded.path)


def test_the_digest_is_that_of_the_content(recorded, tmp_path):
    again = collect(
        ScriptedSource(), problems(10), tmp_path / "again", SAMPLING, CollectOptions(shard_size=4)
    )
    fewer = collect(ScriptedSource(), problems(9), tmp_path / "fewer", SAMPLING, CollectOptions(shard_size=4))
    assert recorded.digest == again.digest != fewer.digest
