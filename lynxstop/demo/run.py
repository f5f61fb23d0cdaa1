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
from lynxstop.collect.texts import Texts
from lynxstop.core.session import Reason
from lynxstop.core.types import Generation, Request, Sampling
from lynxstop.engines.transformers.loading import LoadedModel
from lynxstop.grading.grading import Grade, agrees, grade
from lynxstop.recordings.problems import Problem
from lynxstop.replay.outcome import Outcome

Progress = Callable[[str, int], None]
"""Called with the name of the pass and the number of requests finished."""


@dataclass(frozen=True, slots=True)
class CueAnswers:
    """What every cue of one full trace would have answered; arrays of shape (cues,)."""

    scores: NDArray[np.float32]
    thinking_at_exit: NDArray[np.int64]
    eligible: NDArray[np.bool_]
    agrees: NDArray[np.bool_]
    right: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """Everything the demo saw."""

    problems: Sequence[Problem]
    full: Sequence[Generation]
    early: Sequence[Generation]
    outcomes: Sequence[Outcome]
    cues: Sequence[CueAnswers]
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
    cues = _every_cue(loaded, texts, problems, requests, sampling, progress)

    def graded(problem: Problem, generation: Generation) -> Grade:
        return grade(texts.after_thinking(texts.decode(generation.output_ids)), problem.answer)

    grades = [(graded(p, full[i]), graded(p, early[i])) for i, p in enumerate(problems)]
    outcomes = [
        _outcome(problem, full[i], early[i], grades[i], cues[i]) for i, problem in enumerate(problems)
    ]
    return Demonstration(problems, full, early, outcomes, cues, seconds_full, seconds_early)


def _every_cue(
    loaded: LoadedModel,
    texts: Texts,
    problems: Sequence[Problem],
    requests: Sequence[Request],
    sampling: Sampling,
    progress: Progress,
) -> list[CueAnswers]:
    """Think every request to the end once more, and force an exit at each of its cues."""
    engine = loaded.engine
    done = {}
    for generation in engine.generate(requests, sampling, record=True):
        done[generation.request.id] = generation
        progress("every cue", len(done))
    traces = [done[request.id] for request in requests]
    answers = engine.force_exits(traces, sampling)
    found = []
    for problem, trace, forced in zip(problems, traces, answers, strict=True):
        full = grade(texts.after_thinking(texts.decode(trace.output_ids)), problem.answer)
        trials = [
            grade(texts.after_thinking(texts.decode([*engine.policy.exit_ids, *answer.ids])), problem.answer)
            for answer in forced
        ]
        found.append(
            CueAnswers(
                scores=np.array([event.score for event in trace.events], np.float32),
                thinking_at_exit=np.array([e.position + e.seen_at - e.index for e in trace.events], np.int64),
                eligible=np.array([event.eligible for event in trace.events], bool),
                agrees=np.array([agrees(trial, full.answer, full.status) for trial in trials], bool),
                right=np.array([trial.right is True for trial in trials], bool),
            )
        )
    return found


def _outcome(
    problem: Problem, full: Generation, early: Generation, grades: tuple[Grade, Grade], cues: CueAnswers
) -> Outcome:
    exited = early.exit is not None and early.exit.reason is Reason.SCORE
    of_full, of_early = grades
    ceiling = np.flatnonzero(cues.agrees & cues.eligible)
    return Outcome(
        problem_id=problem.id,
        right_full=of_full.right,
        right_early=of_early.right,
        disagree=exited and not agrees(of_early, of_full.answer, of_full.status),
        exited=exited,
        tokens_full=full.thinking_tokens,
        tokens_early=early.thinking_tokens,
        oracle_tokens=int(cues.thinking_at_exit[ceiling[0]]) if len(ceiling) else full.thinking_tokens,
    )
