"""What a rule would have decided on recorded greedy traces of the shipped model: what live tests expect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Recipe
from lynxstop.calibration.losses import LOSSES
from lynxstop.collect.recording import record
from lynxstop.collect.texts import Texts
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.demo import held_out
from lynxstop.recordings.storage import Recording
from lynxstop.replay.exits import ExitTable
from lynxstop.replay.points import read_points, score_points, training_of
from lynxstop.rules import Training
from lynxstop.rules.served import serve
from lynxstop.rules.table import rule_named

PROBLEMS = 8
TOKENS, BUDGET = 260, 220
CASES = [
    ("rpdi-short", BOUNDARY),
    ("thinkbrake", CUE),
    ("redundancy", CUE | BOUNDARY),
    ("loop", INTERVAL),
    ("logprob-probe", BOUNDARY | INTERVAL),
    ("run-probe", CUE),
    ("combined", CUE | BOUNDARY),
    ("combined|lower", CUE | BOUNDARY | INTERVAL),
]
"""Rules, and the kinds of decision points they are tried at."""


class Decided(NamedTuple):
    """The first exit of a trace: thinking tokens at it, and the score."""

    thinking_tokens: int
    score: float


def record_greedy(out: Path) -> Recording:
    """Record greedy traces with decision points of all kinds."""
    base = Recipe.load(shipped.BUNDLE / "recipe.toml").model_dump()
    base["sampling"] |= {"temperature": 0.0, "max_tokens": TOKENS, "answer_tokens": 4}
    base["guards"] |= {"budget": BUDGET}
    base["points"] = {"boundaries": True, "every": 40}
    record(shipped.MODEL, held_out.problems(PROBLEMS, 9), out, Recipe.model_validate(base))
    return Recording.open(out)


def prepared(
    recorded: Recording, bundle: Bundle, name: str, points: int
) -> tuple[StopPolicy, ExitTable, list[Decided | None]]:
    """A policy that serves the rule at a threshold that some points pass, and what replay decides."""
    every = 40 if points & INTERVAL else 0
    guards = StopPolicy(bundle.policy.exit_ids, min_tokens=30, cooldown=5, points=points, every=every)
    rule = rule_named(name)
    assert bundle.probe is not None
    logits = bundle.probe.score(recorded.features(bundle.probe.layers))
    table = read_points(recorded, rule.signals, logits, guards)
    fitted = rule.fit(_training(table))
    if "scales" in fitted.constants():
        table = read_points(recorded, fitted.signals, logits, guards)
    known, _ = score_points(fitted, table)
    # halfway between two scores, so that the last bits of other batches decide nothing
    ladder = np.unique(known[np.isfinite(known)].round(3))
    place = int(0.7 * (len(ladder) - 1))
    threshold = float(ladder[place : place + 2].mean())
    policy = replace(guards, levels=(Level(0.05, threshold),), budget=BUDGET, rule=serve(fitted))
    expected: list[Decided | None] = [None] * len(table.trace_ids)
    for owner, tokens, score in reversed(list(zip(table.owners, table.tokens, known, strict=True))):
        if score > threshold:
            expected[owner] = Decided(int(tokens), float(score))
    return policy, table, expected


def prompts(texts: Texts) -> list[tuple[int, ...]]:
    """Return the prompts of the recorded traces, in their order."""
    return [texts.prompt_ids(problem.prompt) for problem in held_out.problems(PROBLEMS, 9)]


def _training(table: ExitTable) -> Training:
    """Labels that alternate: so few greedy traces are all right, and nothing could be learnt."""
    made = training_of(table, BUDGET, LOSSES["disagree"])
    return replace(made, losses=[(np.arange(len(own)) % 2).astype(np.float64) for own in made.losses])
