"""The unit of work: one shard, recorded whole by whoever takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lynxstop.collect.options import CollectOptions
from lynxstop.collect.partial import PartialShard, TraceRows
from lynxstop.collect.rows import cue_rows, kept, tokens_of, trace_row
from lynxstop.collect.source import Source
from lynxstop.collect.texts import Texts
from lynxstop.core.types import Generation, Request, Sampling
from lynxstop.recordings import shards
from lynxstop.recordings.problems import Problem
from lynxstop.recordings.store import Store


class Job(NamedTuple):
    """One trace to record."""

    problem: Problem
    sample: int

    @property
    def trace_id(self) -> str:
        """Keys its random numbers."""
        return f"{self.problem.id}#{self.sample}"


class Counts(NamedTuple):
    """What came of a shard."""

    traces: int
    cues: int


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of a collection, whoever carries it out.

    Parameters
    ----------
    problems : tuple of Problem
    sampling : Sampling
    options : CollectOptions
    """

    problems: tuple[Problem, ...]
    sampling: Sampling
    options: CollectOptions

    def jobs(self) -> tuple[Job, ...]:
        """All traces asked for."""
        return tuple(
            Job(problem, sample) for problem in self.problems for sample in range(self.options.samples)
        )


@dataclass(frozen=True, slots=True)
class Work:
    """The shards of one instalment: what each holds, and the key it is written under.

    Parameters
    ----------
    order : Order
    jobs : tuple of Job
        Traces of the instalment.
    numbers : range
        Of its shards.
    key : str
    """

    order: Order
    jobs: tuple[Job, ...]
    numbers: range
    key: str

    def part(self, number: int) -> Sequence[Job]:
        """Traces of a shard."""
        start = (number - self.numbers.start) * self.order.options.shard_size
        return self.jobs[start : start + self.order.options.shard_size]


def record_shard(
    source: Source,
    work: Work,
    number: int,
    store: Store,
    progress: Callable[[int, int], None] | None = None,
) -> Counts:
    """Generate, force the exits, grade and write one shard; go on with what an interruption left of it.

    Parameters
    ----------
    source : Source
    work : Work
    number : int
    store : Store
    progress : callable, optional
        Called with the number of traces of the shard that are generated, and how many of them were so before.
    """
    texts = Texts(source.tokenizer, source.setup.delimiters, source.setup.cues)
    jobs = {job.trace_id: job for job in work.part(number)}
    requests = {
        name: Request(name, texts.prompt_ids(job.problem.prompt, job.problem.tools))
        for name, job in jobs.items()
    }
    with PartialShard(store, number, work.key, requests, work.order.options.keep_every) as partial:
        before = len(partial)

        def record(generations: Sequence[Generation]) -> None:
            partial.add_recorded(list(_force(source, jobs, work.order, texts, generations)))

        missing = [
            request
            for name, request in requests.items()
            if name not in partial.generated and name not in partial.recorded
        ]
        if missing:
            for generation in source.engine.generate(missing, work.order.sampling, record=True):
                if source.engine.exits_at_once is None:
                    record([generation])
                else:
                    partial.add_generated(generation)
                if progress is not None:
                    progress(len(partial), before)
        for names in _groups(partial, jobs, work.order.options.max_cues, source.engine.exits_at_once):
            record([partial.generated[name] for name in names if name in partial.generated])
        done = [partial.recorded[name] for name in jobs]
        traces, cues = [one.trace for one in done], [row for one in done for row in one.cues]
        features = np.concatenate(
            [np.empty((0, source.engine.width), np.float32), *(r.features for r in done)]
        )
        shards.write_shard(store, number, work.key, traces, cues, features, [one.tokens for one in done])
    partial.remove()
    return Counts(len(traces), len(cues))


def _groups(
    partial: PartialShard, jobs: Iterable[str], max_cues: int | None, exits_at_once: int | None
) -> Iterator[list[str]]:
    """Traces whose exits are forced together: of similar length, and the same after any interruption."""

    def size(name: str) -> tuple[int, int]:
        if name in partial.recorded:
            trace = partial.recorded[name].trace
            return trace["thinking_tokens"] + trace["answer_tokens"], trace["cues"]
        generation = partial.generated[name]
        return len(generation.output_ids), len(kept(generation.events, max_cues))

    sizes = {name: size(name) for name in jobs}
    group: list[str] = []
    exits = 0
    for name in sorted(sizes, key=lambda name: sizes[name][0]):
        group.append(name)
        exits += sizes[name][1]
        if exits >= (exits_at_once or 1):
            yield group
            group, exits = [], 0
    yield group


def _force(
    source: Source, jobs: Mapping[str, Job], order: Order, texts: Texts, generations: Sequence[Generation]
) -> Iterator[TraceRows]:
    """Force the exits of traces, and grade."""
    engine, sampling, grader = source.engine, order.sampling, order.options.grade
    if not generations:
        return
    chosen = [kept(generation.events, order.options.max_cues) for generation in generations]
    cuts = [
        [generation.events[ordinal].seen_at for ordinal in ordinals]
        for generation, ordinals in zip(generations, chosen, strict=True)
    ]
    answers = engine.force_exits(generations, sampling, cuts)
    for generation, ordinals, forced in zip(generations, chosen, answers, strict=True):
        job = jobs[generation.request.id]
        trace = trace_row(generation, job.problem, job.sample, sampling.seed, texts, grader)
        cues = cue_rows(generation, trace, ordinals, forced, engine.policy.exit_ids, texts, grader)
        trace["cues"] = len(cues)
        features = np.empty((0, engine.width), np.float32)
        if ordinals:
            assert generation.features is not None
            features = generation.features[ordinals]
        yield TraceRows(trace, cues, features, tokens_of(generation))
