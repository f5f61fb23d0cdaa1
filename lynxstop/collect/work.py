"""The unit of work: one shard, recorded whole by whoever takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lynxstop.collect.rows import Row, cue_rows, spread, tokens_of, trace_row
from lynxstop.collect.source import Source
from lynxstop.collect.texts import Texts
from lynxstop.core.types import Generation, Request, Sampling, Tokens
from lynxstop.grading.grading import Grader, grade
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
    samples : int
        Traces per problem.
    max_cues : int, optional
        Most exits forced in a trace.
    shard_size : int
        Traces per shard.
    grader : callable
        Must be importable where it runs.
    """

    problems: tuple[Problem, ...]
    sampling: Sampling
    samples: int = 1
    max_cues: int | None = None
    shard_size: int = 256
    grader: Grader = grade

    def jobs(self) -> tuple[Job, ...]:
        """All traces asked for."""
        return tuple(Job(problem, sample) for problem in self.problems for sample in range(self.samples))


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
        start = (number - self.numbers.start) * self.order.shard_size
        return self.jobs[start : start + self.order.shard_size]


def record_shard(
    source: Source,
    work: Work,
    number: int,
    store: Store,
    progress: Callable[[int], None] | None = None,
) -> Counts:
    """Generate, force the exits, grade and write one shard.

    Its content depends on the work and the model alone: not on the process, nor on what was recorded before.

    Parameters
    ----------
    source : Source
    work : Work
    number : int
    store : Store
    progress : callable, optional
        Told how many traces of the shard are thought to their end.
    """
    texts = Texts(source.tokenizer, source.setup.delimiters, source.setup.cues)
    traces, cues, features, tokens = _record(source, work.part(number), work.order, texts, progress)
    shards.write_shard(store, number, work.key, traces, cues, features, tokens)
    return Counts(len(traces), len(cues))


def _record(
    source: Source,
    jobs: Sequence[Job],
    order: Order,
    texts: Texts,
    progress: Callable[[int], None] | None,
) -> tuple[list[Row], list[Row], NDArray[np.float32], list[Tokens]]:
    engine, sampling = source.engine, order.sampling
    requests = [Request(job.trace_id, texts.prompt_ids(job.problem.prompt)) for job in jobs]
    found: dict[str, Generation] = {}
    for generation in engine.generate(requests, sampling, record=True):
        found[generation.request.id] = generation
        if progress is not None:
            progress(len(found))
    generations = [found[job.trace_id] for job in jobs]
    chosen = [spread(len(generation.events), order.max_cues) for generation in generations]
    cuts = [
        [generation.events[ordinal].seen_at for ordinal in ordinals]
        for generation, ordinals in zip(generations, chosen, strict=True)
    ]
    answers = engine.force_exits(generations, sampling, cuts)
    traces: list[Row] = []
    cues: list[Row] = []
    features = [np.empty((0, engine.width), np.float32)]
    for job, generation, ordinals, forced in zip(jobs, generations, chosen, answers, strict=True):
        trace = trace_row(generation, job.problem, job.sample, sampling.seed, texts, order.grader)
        rows = cue_rows(generation, trace, ordinals, forced, engine.policy.exit_ids, texts, order.grader)
        trace["cues"] = len(rows)
        traces.append(trace)
        cues.extend(rows)
        if ordinals:
            assert generation.features is not None
            features.append(generation.features[ordinals])
    return traces, cues, np.concatenate(features), [tokens_of(generation) for generation in generations]
