"""Collection on a Ray cluster: a pool of Ray Data actors with an engine each; one task is one shard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from lynxstop.artifacts.provenance import provenance
from lynxstop.collect.begin import describe, other_settings
from lynxstop.collect.options import Cluster, CollectOptions
from lynxstop.collect.progress import Meter
from lynxstop.collect.runner import carry_out
from lynxstop.collect.source import Source
from lynxstop.collect.work import Counts, Order, Work, record_shard
from lynxstop.core.types import Sampling
from lynxstop.errors import ConfigError, LynxstopError
from lynxstop.extras import need
from lynxstop.recordings import shards
from lynxstop.recordings.meta_file import META, read_meta
from lynxstop.recordings.problems import Problem
from lynxstop.recordings.schema import TRACES, Meta
from lynxstop.recordings.storage import Recording
from lynxstop.recordings.store import Store, store_at

_STARTS = 3

Batch = Mapping[str, NDArray[np.int64]]


def collect_on_ray(
    load: Callable[[], Source],
    problems: Sequence[Problem],
    out: str | Path,
    sampling: Sampling,
    options: CollectOptions,
    *,
    console: Console | None = None,
) -> Recording:
    """Record as `lynxstop.collect.runner.collect` does, with many engines on any number of machines.

    A lost actor is started again, a lost machine's shards are recorded by others; a shard that was finished
    is never recorded twice. Rows are those of a single process that uses the same engine.

    Parameters
    ----------
    load : callable
        Loads the model; called in every actor, and once to describe it.
    problems : sequence of Problem
    out : path or URL
        A folder that all machines share, or a place that fsspec reaches.
    sampling : Sampling
    options : CollectOptions
        Its `cluster` says where; a cluster of this machine alone by default.
    console : Console, optional

    Raises
    ------
    LynxstopError
        As `collect` does, from whichever machine; also when there is no such cluster, or `out` is not shared.
    """
    order = Order(tuple(problems), sampling, options)
    cluster = options.cluster or Cluster()
    place = store_at(out).resolved()
    with _connected(cluster) as ray:
        shares = {"num_cpus": cluster.cpus_per_actor, "num_gpus": cluster.gpus_per_actor}

        def describing() -> Meta:
            with _own_errors():
                meta: Meta = ray.get(ray.remote(**shares)(_describe).remote(load, order))
            return meta.model_copy(update={"provenance": provenance()})

        def fill(work: Work, numbers: list[int], store: Store, meter: Meter) -> Iterable[Counts]:
            if not numbers:
                return
            data = ray.data.from_items([{"shard": n} for n in numbers], override_num_blocks=len(numbers))
            size = min(len(numbers), cluster.actors or _room(ray, cluster))
            recorded = data.map_batches(
                _Recorder,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
                fn_constructor_args=(load, work, place),
                **shares,
            )
            with _own_errors():
                for row in recorded.iter_rows():
                    yield Counts(row["traces"], row["cues"])

        return carry_out(order, place, describing, fill, console=console)


class _Recorder:
    """An actor: one engine that records the shards it is given."""

    def __init__(self, load: Callable[[], Source], work: Work, place: str) -> None:
        self._work, self._store = work, store_at(place)
        self._refusal: LynxstopError | None = None
        try:
            self._start(load, place)
        except LynxstopError as error:  # Ray passes on the errors of a call, not those of a start
            self._refusal = error

    def _start(self, load: Callable[[], Source], place: str) -> None:
        if META not in self._store.names():
            raise ConfigError(
                f"{place} is not the same place on all machines.", hint="Use a shared folder or a URL."
            )
        self._source = load()
        if different := other_settings(
            read_meta(self._store), describe(self._source, self._work.order), True
        ):
            raise ConfigError(f"The model is not the same on all machines: {', '.join(different)}.")

    def __call__(self, batch: Batch) -> Batch:
        if self._refusal is not None:
            raise self._refusal
        counts = [self._record(int(number)) for number in batch["shard"]]
        return {
            "traces": np.array([count.traces for count in counts]),
            "cues": np.array([count.cues for count in counts]),
        }

    def _record(self, number: int) -> Counts:
        """Record a shard, unless an earlier attempt finished it and its reply was lost."""
        if not shards.complete(self._store, range(number, number + 1)):
            return record_shard(self._source, self._work, number, self._store)
        name = shards.names(number)[-1]
        cues = shards.read_table(self._store, name, TRACES, self._work.key, ["cues"])["cues"]
        return Counts(len(cues), sum(cues.to_pylist()))

    def __del__(self) -> None:
        if hasattr(self, "_source"):
            self._source.close()


def _describe(load: Callable[[], Source], order: Order) -> Meta:
    source = load()
    try:
        return describe(source, order)
    finally:
        source.close()


@contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """Join the cluster, quietly, and leave it again unless the caller was in it already."""
    ray = need("ray", "ray")
    context = need("ray.data", "ray").DataContext
    joined = not ray.is_initialized()
    if joined:
        try:
            ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"The Ray cluster {cluster.address} cannot be joined: {error}",
                hint="Start one with `ray start --head`.",
            ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet = context.get_current().copy()
    quiet.enable_progress_bars = quiet.print_on_execution_start = False
    quiet.raise_original_map_exception = True
    quiet.execution_no_progress_timeout_s = -1
    quiet.max_consecutive_actor_init_deaths = _STARTS
    try:
        with context.current(quiet):
            yield ray
    finally:
        if joined:
            ray.shutdown()


def _room(ray: Any, cluster: Cluster) -> int:
    """How many actors the cluster holds.

    Raises
    ------
    ConfigError
        When it holds none.
    """
    there = ray.cluster_resources()
    shares = {"CPU": cluster.cpus_per_actor, "GPU": cluster.gpus_per_actor}
    room = min(int(there.get(name, 0) / share) for name, share in shares.items() if share)
    if room < 1:
        raise ConfigError(
            f"The cluster has no room for an actor: {there.get('CPU', 0):g} CPUs and "
            f"{there.get('GPU', 0):g} GPUs.",
            hint="Ask for less per actor, or name --actors and let the cluster grow.",
        )
    return room


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise an actor's error on purpose as itself, not wrapped in Ray's."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, LynxstopError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        raise cause from None
