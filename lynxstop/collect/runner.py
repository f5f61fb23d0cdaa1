"""The collection: full traces, the forced exit of every cue, grades, shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from lynxstop.collect import partial
from lynxstop.collect.begin import begin, check_order, describe
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.progress import Meter
from lynxstop.collect.source import Source
from lynxstop.collect.work import Counts, Order, Work, record_shard
from lynxstop.core.types import Sampling
from lynxstop.extras import need
from lynxstop.grading.grading import grade
from lynxstop.grading.verify_math import require_sympy
from lynxstop.recordings import shards
from lynxstop.recordings.content import check_shard
from lynxstop.recordings.meta_file import seal
from lynxstop.recordings.problems import Problem
from lynxstop.recordings.schema import Meta
from lynxstop.recordings.storage import Recording
from lynxstop.recordings.store import Store, store_at

Fill = Callable[[Work, list[int], Store, Meter], Iterable[Counts]]
"""Records the shards of these numbers and says of each what came of it."""


def collect(
    source: Source,
    problems: Sequence[Problem],
    out: str | Path,
    sampling: Sampling,
    options: CollectOptions | None = None,
    *,
    console: Console | None = None,
) -> Recording:
    """Record full traces and the answer forced at every cue.

    Parameters
    ----------
    source : Source
        A loaded model; see `lynxstop.collect.sources.load_source`. Its policy should hold a budget that
        leaves room for an answer, so that a trace cut short answers too.
    problems : sequence of Problem
    out : path or URL
        Folder of the data set, or a place that fsspec reaches, such as ``s3://bucket/data``.
    sampling : Sampling
    options : CollectOptions, optional
    console : Console, optional
        Where to show progress, and to say what an interruption leaves.

    Returns
    -------
    Recording
        The finished data set. Its content depends on the settings only; after an interruption its numbers may
        differ in their last bits, where the engine's depend on the size of a batch.

    Raises
    ------
    ConfigError
        When `out` holds a recording of other settings, which are named, cannot be written, and while another
        process collects into it.
    MissingExtraError
        When pyarrow or sympy is not installed: at once, not at the first answer that needs it.
    StepError
        When there is nothing finished to append to.
    DataError
        When there are no problems, the disk is full, a finished shard is damaged, or an append would change a
        problem. What is finished is kept.
    """
    order = Order(tuple(problems), sampling, options or CollectOptions())

    def fill(work: Work, numbers: list[int], store: Store, meter: Meter) -> Iterable[Counts]:
        return (record_shard(source, work, number, store, meter.generated) for number in numbers)

    return carry_out(order, out, lambda: describe(source, order), fill, console=console)


def carry_out(
    order: Order,
    out: str | Path,
    describing: Callable[[], Meta],
    fill: Fill,
    *,
    console: Console | None = None,
) -> Recording:
    """Settle what there is to record, let `fill` record the shards that are missing, and seal the data set.

    Parameters
    ----------
    order : Order
    out : path or URL
    describing : callable
        Gives the description of the collection; called once the order is known to be sound.
    fill : callable
    console : Console, optional

    Raises
    ------
    LynxstopError
        As `collect` does.
    """
    check_order(order)
    need("pyarrow.parquet", "calibrate")
    if order.options.grade is grade:
        require_sympy()
    store = store_at(out)
    with store.alone():
        meta, work = begin(store, describing(), order)
        if meta.finished:
            return Recording.open(out)
        done = shards.complete(store, work.numbers)
        for number in done:
            check_shard(store, meta, number, meta.instalments[-1], verify=store.near)
        _remove(store, partial.files(store, done))
        missing = [number for number in work.numbers if number not in done]
        recorded = sum(len(work.part(number)) for number in done)
        try:
            with Meter(len(work.jobs), recorded, console, str(store)) as meter:
                for counts in fill(work, missing, store, meter):
                    meter.recorded(*counts)
        except (KeyboardInterrupt, SystemExit):
            if console is not None:
                _say_what_is_kept(console, store, meta)
            raise
        store.clear()
        _remove(store, partial.files(store, work.numbers))
        seal(store, meta)
        return Recording.open(out, verify=False)


def _remove(store: Store, names: Iterable[str]) -> None:
    for name in names:
        store.remove(name)


def _say_what_is_kept(console: Console, store: Store, meta: Meta) -> None:
    last = meta.instalments[-1]
    traces = partial.count_kept(store, last, meta.shard_size)
    console.print(
        f"Interrupted: {traces} of {last.traces} traces are kept in {store}; run the same command to go on.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
