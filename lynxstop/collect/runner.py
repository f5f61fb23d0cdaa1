"""The collection: full traces, the forced exit of every cue, grades, shards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from lynxstop.artifacts.provenance import provenance
from lynxstop.collect import shards
from lynxstop.collect.grading import Grader, grade
from lynxstop.collect.lock import alone_in
from lynxstop.collect.problems import Problem, digest_problems
from lynxstop.collect.progress import Meter
from lynxstop.collect.rows import Row, cue_rows, spread, tokens_of, trace_row
from lynxstop.collect.schema import Meta
from lynxstop.collect.source import Source
from lynxstop.collect.storage import META, DataSet, read_meta, read_shard, seal, write_meta
from lynxstop.collect.texts import Texts
from lynxstop.collect.verify_math import require_math_verify
from lynxstop.engines.types import Generation, Request, Sampling, Tokens
from lynxstop.errors import ConfigError, DataError
from lynxstop.extras import need

_TEMPORARY = re.compile(r"\.(?:meta\.json|(?:traces|cues|features|tokens)-\d+\.\w+)\.\w+")


class _Job(NamedTuple):
    problem: Problem
    sample: int

    @property
    def trace_id(self) -> str:
        return f"{self.problem.id}#{self.sample}"


def collect(
    source: Source,
    problems: Sequence[Problem],
    out: str | Path,
    *,
    sampling: Sampling,
    samples: int = 1,
    max_cues: int | None = None,
    shard_size: int = 256,
    resume: bool = True,
    console: Console | None = None,
    grader: Grader = grade,
) -> DataSet:
    """Record full traces and the answer forced at every cue.

    Parameters
    ----------
    source : Source
        A loaded model; see `lynxstop.engines.transformers.loading.load_engine`. Its policy should hold a
        budget that leaves room for an answer, so that a trace cut short answers too.
    problems : sequence of Problem
    out : path
        Folder of the data set.
    sampling : Sampling
    samples : int
        Traces per problem.
    max_cues : int, optional
        Force exits at no more than this many cues of a trace, spread evenly: cheaper training data. For
        calibration every cue is needed.
    shard_size : int
        Traces per shard: what an interruption can cost.
    resume : bool
        Go on with an unfinished collection of the same settings instead of refusing it.
    console : Console, optional
        Where to show progress, if it is a terminal, and to say what an interruption leaves.
    grader : callable
        Replaces `lynxstop.collect.grading.grade` for answers that need another check.

    Returns
    -------
    DataSet
        The finished data set. Its content depends on the settings only, not on the number of interruptions.

    Raises
    ------
    ConfigError
        On impossible counts, when `out` holds a recording of other settings, which are named, and while
        another process collects into it.
    MissingExtraError
        When pyarrow or math-verify is not installed: at once, not at the first answer that needs it.
    DataError
        When there are no problems, the disk is full, or a finished shard is damaged. Finished shards are
        kept.
    """
    out = Path(out)
    if samples < 1 or shard_size < 1 or (max_cues is not None and max_cues < 1):
        raise ConfigError("samples, max_cues and shard_size are at least 1.")
    if not problems:
        raise DataError("There are no problems to collect traces for.")
    need("pyarrow.parquet", "calibrate")
    if grader is grade:
        require_math_verify()
    asked = _describe(source, problems, sampling, samples, max_cues, shard_size)
    with alone_in(out):
        meta = _begin(out, asked, resume)
        if meta.digests is not None:
            return DataSet.open(out)
        try:
            _fill(source, problems, out, meta, sampling, grader, console)
        except KeyboardInterrupt:
            if console is not None:
                kept = sum(shards.is_complete(out, number) for number in range(meta.shards))
                console.print(
                    f"Interrupted: {kept} of {meta.shards} shards are kept; run the same command to go on."
                )
            raise
        seal(out, meta)
        return DataSet.open(out, verify=False)


def _fill(
    source: Source,
    problems: Sequence[Problem],
    out: Path,
    meta: Meta,
    sampling: Sampling,
    grader: Grader,
    console: Console | None,
) -> None:
    """Write the shards that are not there yet."""
    jobs = [_Job(problem, sample) for problem in problems for sample in range(meta.samples)]
    parts = [jobs[start : start + meta.shard_size] for start in range(0, len(jobs), meta.shard_size)]
    done = {number for number in range(len(parts)) if shards.is_complete(out, number)}
    for number in done:
        read_shard(out, meta, number)
    texts = Texts(source.tokenizer, source.setup.delimiters, source.setup.cues)
    with Meter(len(jobs), sum(len(parts[number]) for number in done), console) as meter:
        for number, part in enumerate(parts):
            if number in done:
                continue
            traces, cues, features, tokens = _record(
                source, part, sampling, meta.max_cues, texts, grader, meter
            )
            shards.write_shard(out, number, meta.key, traces, cues, features, tokens)
            meter.recorded(len(traces), len(cues))


def _record(
    source: Source,
    jobs: Sequence[_Job],
    sampling: Sampling,
    max_cues: int | None,
    texts: Texts,
    grader: Grader,
    meter: Meter,
) -> tuple[list[Row], list[Row], NDArray[np.float32], list[Tokens]]:
    engine = source.engine
    requests = [Request(job.trace_id, texts.prompt_ids(job.problem.prompt)) for job in jobs]
    found: dict[str, Generation] = {}
    for generation in engine.generate(requests, sampling, record=True):
        found[generation.request.id] = generation
        meter.generated(len(found))
    generations = [found[job.trace_id] for job in jobs]
    chosen = [spread(len(generation.events), max_cues) for generation in generations]
    cuts = [
        [generation.events[ordinal].seen_at for ordinal in ordinals]
        for generation, ordinals in zip(generations, chosen, strict=True)
    ]
    answers = engine.force_exits(generations, sampling, cuts)
    traces: list[Row] = []
    cues: list[Row] = []
    features = [np.empty((0, engine.width), np.float32)]
    for job, generation, ordinals, forced in zip(jobs, generations, chosen, answers, strict=True):
        trace = trace_row(generation, job.problem, job.sample, sampling.seed, texts, grader)
        rows = cue_rows(generation, trace, ordinals, forced, engine.policy.exit_ids, texts, grader)
        trace["cues"] = len(rows)
        traces.append(trace)
        cues.extend(rows)
        if ordinals:
            assert generation.features is not None
            features.append(generation.features[ordinals])
    return traces, cues, np.concatenate(features), [tokens_of(generation) for generation in generations]


def _describe(
    source: Source,
    problems: Sequence[Problem],
    sampling: Sampling,
    samples: int,
    max_cues: int | None,
    shard_size: int,
) -> Meta:
    engine, setup = source.engine, source.setup
    if not engine.layers:
        raise ConfigError(
            "The engine records no layers.", hint="Name layers in the recipe's [probe] section."
        )
    if len({problem.id for problem in problems}) < len(problems):
        raise DataError("A problem id occurs twice.", hint="Every problem needs an id of its own.")
    return Meta(
        fingerprint=source.fingerprint,
        engine=type(engine).__name__,
        dtype=source.dtype,
        cue_words=setup.cues.words,
        cue_paragraph=setup.cues.paragraph,
        think_open=setup.delimiters.open,
        think_close=setup.delimiters.close,
        exit_text=setup.exit_text,
        exit_ids=engine.policy.exit_ids,
        layers=engine.layers,
        hidden=engine.width // len(engine.layers),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        answer_tokens=sampling.answer_tokens,
        seed=sampling.seed,
        points=engine.policy.points,
        every=engine.policy.every,
        budget=engine.policy.budget,
        samples=samples,
        max_cues=max_cues,
        shard_size=shard_size,
        problems=len(problems),
        problems_sha256=digest_problems(problems),
        provenance=provenance(),
    )


def _begin(out: Path, meta: Meta, resume: bool) -> Meta:
    """Start a data set, or take up one of the same settings; clear what an interruption left half-written."""
    if not (out / META).exists():
        if out.is_dir() and any(shards.is_complete(out, number) for number in range(meta.shards)):
            raise DataError(f"{out} holds shards without {META}.", hint="Collect into a new folder.")
        write_meta(out, meta)
        return meta
    before = read_meta(out)
    if not resume:
        raise ConfigError(
            f"{out} holds a recording already.", hint="Resume it, or collect into a new folder."
        )
    if different := before.differences(meta):
        raise ConfigError(
            f"{out} was recorded with other settings: {', '.join(different)}.",
            hint="Give the same settings to finish it, or collect into a new folder.",
        )
    for file in out.glob(".*"):
        if _TEMPORARY.fullmatch(file.name):
            with suppress(FileNotFoundError):
                file.unlink()
    return before
