"""Run the same requests three ways: full thinking and early exit against the clock, then every cue for the ceiling."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.bundle import Bundle
from lynxstop.collect.grading import answers_agree, grade
from lynxstop.collect.problems import Problem
from lynxstop.collect.runner import final_answer, prompt_ids
from lynxstop.engines.transformers.loading import Loaded
from lynxstop.engines.types import Generation, Request, Sampling
from lynxstop.evaluate.outcome import Outcome

Progress = Callable[[str, int], None]
"""Called with the name of the pass and the number of requests finished."""


@dataclass(frozen=True, slots=True)
class CueAnswers:
    """What every cue of one full trace would have answered; arrays of shape (cues,)."""

    scores: NDArray[np.float32]
    thinking_at_exit: NDArray[np.int64]
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
    loaded: Loaded, bundle: Bundle, problems: Sequence[Problem], risk: float, seed: int, progress: Progress
) -> Demonstration:
    """Run all problems with full thinking and with early exit at a certified risk.

    Both passes are timed with nothing but generation in them. A third, untimed pass over the full traces forces an
    exit at every cue, for the oracle's savings and the curve of accuracy against tokens.

    Raises
    ------
    ConfigError
        When `risk` is not certified.
    """
    bundle.policy.stop_policy().level(risk)
    engine = loaded.engine
    served = bundle.policy.sampling
    sampling = Sampling(**served.model_dump(), seed=seed)
    thinking = [
        Request(id=problem.id, prompt_ids=prompt_ids(loaded.tokenizer, problem)) for problem in problems
    ]

    def timed(name: str, requests: list[Request]) -> tuple[list[Generation], float]:
        start = time.perf_counter()
        done = []
        for generation in engine.generate(requests, sampling):
            done.append(generation)
            progress(name, len(done))
        seconds = time.perf_counter() - start
        order = {generation.request.id: generation for generation in done}
        return [order[request.id] for request in requests], seconds

    full, seconds_full = timed("full thinking", thinking)
    early, seconds_early = timed("early exit", [replace(request, risk=risk) for request in thinking])
    cues = _every_cue(loaded, problems, thinking, full, sampling, progress)
    outcomes = [
        _outcome(loaded, problem, *rows) for problem, *rows in zip(problems, full, early, cues, strict=True)
    ]
    return Demonstration(problems, full, early, outcomes, cues, seconds_full, seconds_early)
