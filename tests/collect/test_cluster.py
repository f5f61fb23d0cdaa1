"""Collection on Ray: the same rows as one process, whatever dies on the way."""

import threading
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.support.scripted import SAMPLING, ScriptedSource, problems, scripted

pytest.importorskip("ray.data")

import ray
from ray.cluster_utils import Cluster as Machines

from lynxstop import shipped
from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.begin import begin, describe
from lynxstop.collect.cluster import _Recorder, collect_on_ray
from lynxstop.collect.options import Cluster, CollectOptions
from lynxstop.collect.recording import record
from lynxstop.collect.runner import collect
from lynxstop.collect.work import Order
from lynxstop.errors import ConfigError
from lynxstop.recordings import shards
from lynxstop.recordings.problems import load_problems
from lynxstop.recordings.storage import Recording
from lynxstop.recordings.store import store_at

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
STORE = 100_000_000
COUNT, SIZE = 60, 4


@pytest.fixture(scope="module")
def machines():
    """A machine without room for actors, and two with room for two each."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    cluster = Machines(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=2, object_store_memory=STORE)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    monkeypatch.undo()


@pytest.fixture
def alone(tmp_path):
    """What one process records."""
    return collect(
        ScriptedSource(), problems(COUNT), tmp_path / "alone", SAMPLING, CollectOptions(shard_size=SIZE)
    )


def on_ray(load, out, actors=2, **options):
    cluster = Cluster(actors=actors, cpus_per_actor=1)
    given = CollectOptions(cluster=cluster, shard_size=SIZE, **options)
    return collect_on_ray(load, problems(COUNT), out, SAMPLING, given)


def assert_same(found, expected):
    assert found.digest == expected.digest
    assert found.traces() == expected.traces()
    assert str(found.cues().to_pylist()) == str(expected.cues().to_pylist())
    np.testing.assert_array_equal(found.features(), expected.features())


def test_an_actor_records_a_shard_once_and_refuses_another_model(tmp_path):
    # given work that was begun
    order = Order(tuple(problems(6)), SAMPLING, CollectOptions(shard_size=4))
    store = store_at(tmp_path / "d")
    with pytest.raises(ConfigError, match="not the same place on all machines"):
        _Recorder(ScriptedSource, cast(Any, None), str(tmp_path / "d"))({"shard": np.array([0])})
    _, work = begin(store, describe(ScriptedSource(), order), order)
    # when an actor is given its shards, and one of them again
    actor = _Recorder(ScriptedSource, work, str(store))
    counts = [actor({"shard": np.array([number])}) for number in (1, 0, 1)]
    # then it counts all and records each once
    assert [count["traces"].tolist() for count in counts] == [[2], [4], [2]]
    assert counts[0] == counts[2]
    assert sorted(cast(Any, actor._source.engine).generated) == [f"p{i}#0" for i in range(6)]
    # and a machine with other weights is refused
    other = Fingerprint(config="c", weights="other", tokenizer="t", template="p")
    with pytest.raises(ConfigError, match="same on all machines: fingerprint"):
        _Recorder(lambda: ScriptedSource(fingerprint=other), work, str(store))({"shard": np.array([0])})


@pytest.mark.parametrize("wrong", [{"actors": 0}, {"cpus_per_actor": -1}, {"cpus_per_actor": 0}])
def test_impossible_clusters_are_refused(wrong):
    with pytest.raises(ConfigError):
        Cluster(**wrong)


@pytest.mark.slow
def test_a_killed_actor_loses_nothing(machines, alone, tmp_path):
    # when the process of an actor is killed in the middle of a shard
    killed = tmp_path / "killed"
    load = scripted("Mortal", at="p30#0", killed=str(killed), pause=0.02)
    data = on_ray(load, tmp_path / "ray")
    # then the rows are those of one process
    assert killed.exists()
    assert_same(data, alone)


@pytest.mark.slow
@pytest.mark.parametrize("spare", [True, False])
def test_a_killed_machine_loses_nothing(machines, alone, tmp_path, spare):
    # given actors on every place of two machines, and a third machine to move to, or none
    out, at_death = tmp_path / "ray", []
    hosts = list(machines.worker_nodes)
    if spare:
        machines.add_node(num_cpus=2, object_store_memory=STORE)

    def kill():
        while not (finished := len(list(out.glob("traces-*")))):
            time.sleep(0.01)
        at_death.append(finished)
        busy = {actor["Address"]["NodeID"] for actor in ray._private.state.actors().values()}
        machines.remove_node(next(host for host in hosts if host.node_id in busy), allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    # when a machine with actors on it dies in the middle
    data = on_ray(scripted(pause=0.1), out, actors=2 * len(hosts))
    killer.join()
    # then the rows are those of one process
    assert at_death[0] < COUNT // SIZE
    assert_same(data, alone)


@pytest.mark.slow
def test_an_object_store_by_fsspec_and_a_resumed_append(machines, tmp_path, monkeypatch):
    # given a place that only fsspec reaches, and half of the problems
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = f"local://{tmp_path}/bucket/data"
    half = problems(COUNT)[: COUNT // 2]
    collect_on_ray(
        scripted(), half, out, SAMPLING, CollectOptions(shard_size=SIZE, cluster=Cluster(actors=2))
    )
    # when the other half is appended
    data = on_ray(scripted(), out, append=True)
    # then one process that appends writes the same
    for given, append in ((half, False), (problems(COUNT), True)):
        options = CollectOptions(shard_size=SIZE, append=append)
        other = collect(ScriptedSource(), given, tmp_path / "one", SAMPLING, options)
    assert_same(data, other)
    assert_same(Recording.open(out), other)


@pytest.mark.slow
def test_errors_of_actors_arrive_as_themselves(machines, tmp_path):
    def fail():
        raise ConfigError("This model is not for you.", hint="Take another.")

    with pytest.raises(ConfigError, match=r"not for you\. Take another"):
        on_ray(fail, tmp_path / "ray")
    assert not shards.complete(store_at(tmp_path / "ray"), range(COUNT))


@pytest.mark.slow
def test_a_machine_with_other_weights_ends_the_run(machines, tmp_path):
    first = tmp_path / "first"

    def load():
        from tests.support.scripted import ScriptedSource

        weights = "other" if first.exists() else "w"
        first.touch()
        return ScriptedSource(
            fingerprint=Fingerprint(config="c", weights=weights, tokenizer="t", template="p")
        )

    with pytest.raises(ConfigError, match="same on all machines: fingerprint"):
        on_ray(load, tmp_path / "ray")


@pytest.mark.slow
def test_the_shipped_model_records_the_same_bytes(machines, tmp_path):
    # given one thread here and one in every actor: sums of floats depend on their number
    torch = pytest.importorskip("torch")
    recipe = Recipe.load(shipped.BUNDLE / "recipe.toml")
    sampling = recipe.sampling.model_copy(update={"max_tokens": 400})
    recipe = recipe.model_copy(
        update={"sampling": sampling, "guards": recipe.guards.model_copy(update={"budget": 300})}
    )
    given = load_problems(shipped.PROBLEMS / "train.jsonl")[:8]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        record(shipped.MODEL, given, tmp_path / "one", recipe, CollectOptions(shard_size=2))
    finally:
        torch.set_num_threads(threads)
    # when two actors record the same shards
    record(
        shipped.MODEL,
        given,
        tmp_path / "ray",
        recipe,
        CollectOptions(shard_size=2, cluster=Cluster(actors=2)),
    )
    # then every file but meta.json is the same
    assert_same(Recording.open(tmp_path / "ray"), Recording.open(tmp_path / "one"))
