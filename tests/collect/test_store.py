"""Places: what fsspec reaches holds the same data set as a folder."""

import shutil
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lynxstop.artifacts import atomic
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from lynxstop.errors import ConfigError, DataError, StepError
from lynxstop.recordings.shards import names
from lynxstop.recordings.storage import Recording
from lynxstop.recordings.store import Folder, Remote, store_at
from tests.support.scripted import SAMPLING, ScriptedEngine, ScriptedSource, problems

URL = "memory://bucket/data"


class Listed(MemoryFileSystem):  # type: ignore[misc]
    """Remembers its listings, as the clients of object stores do."""

    protocol = "listed"
    seen: ClassVar[dict[str, list]] = {}

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("listed://", "memory://"))

    def ls(self, path, detail=True, **more):
        if path not in self.seen:
            self.seen[path] = super().ls(path, detail=detail, **more)
        return self.seen[path]

    def invalidate_cache(self, path=None):
        self.seen.clear()


@pytest.fixture(autouse=True)
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


def record(out, source=None):
    return collect(source or ScriptedSource(), problems(10), out, SAMPLING, CollectOptions(shard_size=4))


def test_an_object_store_holds_what_a_folder_would(recorded, bucket):
    data = record(URL)
    stored = {
        name.rsplit("/", 1)[-1]: bucket.cat_file(name) for name in bucket.ls("/bucket/data", detail=False)
    }
    there = {file.name: file.read_bytes() for file in recorded.path.iterdir()}
    assert stored.keys() == there.keys()
    assert all(stored[name] == there[name] for name in there if name != "meta.json")
    # and it is opened by its URL
    again = Recording.open(URL)
    assert again.path == data.path == URL
    assert again.digest == recorded.digest
    assert again.traces() == recorded.traces()
    assert again.features().tolist() == recorded.features().tolist()
    assert [t.ids.tolist() for t in again.tokens()] == [t.ids.tolist() for t in recorded.tokens()]


def test_features_are_not_fetched_before_they_are_asked_for(tmp_path):
    def fetched():
        return sum(file.stat().st_size > 100 for file in (tmp_path / "cache").rglob("*") if file.is_file())

    data = record(URL)
    data.traces(), data.cues()
    before = fetched()
    data.features()
    assert fetched() == before + 3


def test_resuming_and_appending_by_url(recorded):
    # given a collection into an object store that ended after two shards
    class Interrupted(ScriptedEngine):
        def _think(self, request, sampling):
            if request.id == "p9#0":
                raise KeyboardInterrupt
            return super()._think(request, sampling)

    with pytest.raises(KeyboardInterrupt):
        record(URL, ScriptedSource(type("ScriptedEngine", (Interrupted,), {})()))
    with pytest.raises(StepError, match="2 of 3"):
        Recording.open(URL)
    # when it goes on and two problems are added
    source = ScriptedSource()
    record(URL, source)
    assert sorted(source.engine.generated) == ["p8#0", "p9#0"]
    data = collect(source, problems(12)[10:], URL, SAMPLING, CollectOptions(shard_size=4, append=True))
    # then all is there
    assert data.traces().slice(0, 10).to_pylist() == recorded.traces().to_pylist()
    assert len(data.traces()) == 12


def test_damage_in_an_object_store_is_found_even_behind_the_cache(bucket):
    record(URL)
    Recording.open(URL)
    name = "/bucket/data/features-00001.safetensors"
    content = bytearray(bucket.cat_file(name))
    content[-1] ^= 1
    bucket.pipe_file(name, bytes(content))
    with pytest.raises(DataError, match=r"memory://bucket/data/features-00001\.safetensors was changed"):
        Recording.open(URL)
    bucket.rm_file(name)
    with pytest.raises(DataError, match=r"features-00001\.safetensors is missing"):
        Recording.open(URL)


def test_what_others_have_written_is_seen(bucket):
    fsspec.register_implementation("listed", Listed, clobber=True)
    store = store_at("listed://bucket/data")
    assert store.names() == set()
    store.write("one", b"1")
    assert store.names() == {"one"}
    # when another process writes, then a listing that is remembered does not hide it
    bucket.pipe_file("/bucket/data/two", b"2")
    assert store.names() == {"one", "two"}


def test_what_writes_left_is_cleared_and_nothing_else(tmp_path):
    # given what killed writes of every kind of file leave, and hidden files of others
    store = Folder(tmp_path)
    for name in ("meta.json", *names(3)):
        with atomic.replacing(tmp_path / name) as temporary:
            shutil.copy(temporary, tmp_path / f"{temporary.name}x")
        (tmp_path / name).unlink()
    others = {".DS_Store", ".traces-00003.parquet", ".meta.json.a1b2.bak", ".notes.txt.a1b2"}
    for name in others:
        (tmp_path / name).touch()
    assert len(store.names() - others) == 5
    store.clear()
    assert store.names() == others


def test_places(tmp_path):
    assert isinstance(store_at("data/train"), Folder)
    assert store_at(f"file://{tmp_path}/a%20b").local("x") == tmp_path / "a b" / "x"
    assert isinstance(store_at(URL + "/"), Remote)
    assert str(store_at(URL + "/")) == URL
    with pytest.raises(ConfigError, match="not a place that fsspec knows"):
        store_at("nowhere://data")
