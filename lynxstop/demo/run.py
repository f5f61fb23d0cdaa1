"""Run the same requests three ways: full thinking and early exit against the clock, then every cue for
the ceiling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.bundle import Bundle
from lynxstop.collect.rows import cue_rows, kept, trace_row
from lynxstop.collect.texts import Texts
from lynxstop.core.exits import Reason
from lynxstop.core.types import Generation, Request, Sampling
from lynxstop.engines.transformers.loading import LoadedModel
from lynxstop.grading.grading import Grade, agrees, grade
from lynxstop.recordings.problems import Problem
from lynxstop.recordings.schema import CUES, TRACES
from lynxstop.recordings.shards import table_of
from lynxstop.replay.exits import ExitTable, exits_at
from lynxstop.replay.outcomes import Outcomes

Progress = Callable[[str, int], None]
"""Called with the name of the pass and the number of requests finished."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """Everything the demo saw."""

    problems: Sequence[Problem]
    full: Sequence[Generation]
    early: Sequence[Generation]
    outcomes: Outcomes
    exits: ExitTable
    """Exits forced at every eligible cue of the full traces."""
    scores: NDArray[np.float32]
    """Of these cues, shape (points,)."""
    seconds_full: float
    seconds_early: float


def demonstrate(
    loaded: LoadedModel,
    bundle: Bundle,
    problems: Sequence[Problem],
    risk: float,
    seed: int,
    progress: Progress,
) -> Demonstration:
    """Run all problems with full thinking and with early exit at a certified risk.

    Both passes are timed with nothing but generation in them. A third, untimed pass over the full traces
    forces an exit at every cue, for the oracle's savings and the curve of accuracy against tokens.

    Raises
    ------
    ConfigError
        When `risk` is not certified.
    """
    bundle.policy.stop_policy().level(risk)
    texts = Texts(loaded.tokenizer, loaded.setup.delimiters, loaded.setup.cues)
    sampling = Sampling(**bundle.policy.sampling.model_dump(), seed=seed)
    requests = [Request(id=problem.id, prompt_ids=texts.prompt_ids(problem.prompt)) for problem in problems]

    def timed(name: str, asked: list[Request]) -> tuple[list[Generation], float]:
        start = time.perf_counter()
        done = {}
        for generation in loaded.engine.generate(asked, sampling):
            done[generation.request.id] = generation
            progress(name, len(done))
        seconds = time.perf_counter() - start
        return [done[request.id] for request in asked], seconds

    full, seconds_full = timed("full thinking", requests)
    early, seconds_early = timed("early exit", [replace(request, risk=risk) for request in requests])
    exits, scores = _every_cue(loaded, texts, problems, requests, sampling, progress)

    def graded(problem: Problem, generation: Generation) -> Grade:
        return grade(texts.after_thinking(texts.decode(generation.output_ids)), problem.answer)

    grades = [(graded(p, full[i]), graded(p, early[i])) for i, p in enumerate(problems)]
    exited = np.array([one.exit is not None and one.exit.reason is Reason.SCORE for one in early], bool)
    same = np.array([agrees(other, own.answer, own.status) for own, other in grades], bool)
    tokens = [np.array([one.thinking_tokens for one in runs], np.float64) for runs in (full, early)]
    outcomes = Outcomes(
        exits=exited,
        full=tokens[0],
        gross=tokens[1],
        net=tokens[1],
        oracle=exits.at(scores, np.inf).oracle,
        disagree=exited & ~same,
        right_full=_truth([own.right for own, _ in grades]),
        right_early=_truth([other.right for _, other in grades]),
        trials=np.zeros(len(full)),
    )
    return Demonstration(problems, full, early, outcomes, exits, scores, seconds_full, seconds_early)


def _every_cue(
    loaded: LoadedModel,
    texts: Texts,
    problems: Sequence[Problem],
    requests: Sequence[Request],
    sampling: Sampling,
    progress: Progress,
) -> tuple[ExitTable, NDArray[np.float32]]:
    """Think every request to the end once more, and force an exit at each of its cues; also their scores."""
    engine = loaded.engine
    done = {}
    for generation in engine.generate(requests, sampling, record=True):
        done[generation.request.id] = generation
        progress("every cue", len(done))
    full = [done[request.id] for request in requests]
    chosen = [kept(generation.events) for generation in full]
    places = [[one.events[i].seen_at for i in own] for one, own in zip(full, chosen, strict=True)]
    answers = engine.force_exits(full, sampling, places)
    traces, cues = [], []
    for generation, problem, own, forced in zip(full, problems, chosen, answers, strict=True):
        trace = trace_row(generation, problem, 0, sampling.seed, texts, grade)
        rows = cue_rows(generation, trace, own, forced, engine.policy.exit_ids, texts, grade)
        traces.append(trace | {"cues": len(rows)})
        cues += rows
    scores = [one.events[i].score for one, own in zip(full, chosen, strict=True) for i in own]
    exits = exits_at(table_of(traces, TRACES), table_of(cues, CUES), np.arange(len(cues)))
    return exits, np.array(scores, np.float32)


def _truth(values: Sequence[bool | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)
