"""The rows of the two tables, from what an engine gives back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from lynxstop.collect.texts import Texts
from lynxstop.core.exits import CueEvent
from lynxstop.core.points import CUE
from lynxstop.core.statistics import unknown
from lynxstop.core.types import (
    SKIPPED_CUE,
    SKIPPED_MARK,
    SKIPPED_PENDING,
    Answer,
    Generation,
    Tokens,
)
from lynxstop.grading.graders import same_of
from lynxstop.grading.grading import Grader, agrees
from lynxstop.recordings.problems import Problem
from lynxstop.recordings.prompts import prompt_digest

Row = dict[str, Any]
_COLUMNS = ("family", "difficulty", "split")


def trace_row(
    generation: Generation, problem: Problem, sample: int, seed: int, texts: Texts, grader: Grader
) -> Row:
    """The row of a full trace; its answer is what follows the thinking."""
    text, prompt = texts.decode(generation.output_ids), generation.prompt_tokens
    full = grader(texts.after_thinking(text), problem.answer)
    own = {name: _plain(problem.metadata.get(name)) for name in _COLUMNS}
    rest = {name: value for name, value in problem.metadata.items() if name not in _COLUMNS}
    return {
        "trace_id": generation.request.id,
        "problem_id": problem.id,
        "sample": sample,
        **own,
        "metadata": json.dumps(rest, sort_keys=True, default=str),
        "seed": seed,
        "prompt_tokens": len(generation.request.prompt_ids) if prompt is None else prompt,
        "thinking_tokens": generation.thinking_tokens,
        "answer_tokens": len(generation.output_ids) - generation.thinking_tokens,
        "finish": generation.finish,
        "exit_reason": None if generation.exit is None else str(generation.exit.reason),
        "text": text,
        "full_answer": full.answer,
        "full_status": full.status,
        "gold": problem.answer,
        "full_right": full.right,
        "events": len(kept(generation.events)),
        "cues": 0,
        "prompt_sha256": prompt_digest(problem.prompt, problem.tools),
    }


def cue_rows(
    generation: Generation,
    trace: Mapping[str, Any],
    chosen: Sequence[int],
    answers: Sequence[Answer],
    exit_ids: Sequence[int],
    texts: Texts,
    grader: Grader,
) -> list[Row]:
    """The rows of the cues `chosen` of a trace, with the answers forced there."""
    assert generation.signals is not None
    rows = []
    for ordinal, answer in zip(chosen, answers, strict=True):
        event, signals = generation.events[ordinal], generation.signals[ordinal]
        at_exit = event.position + event.seen_at - event.index
        if generation.exit_positions is not None:
            at_exit = generation.exit_positions[ordinal]
        trial_text = texts.decode([*exit_ids, *answer.ids])
        trial = grader(texts.after_thinking(trial_text), trace["gold"])
        rows.append(
            {
                "trace_id": trace["trace_id"],
                "cue": ordinal,
                "kind": event.kind,
                "index": event.index,
                "seen_at": event.seen_at,
                "position": event.position,
                "thinking_at_exit": at_exit,
                "word": texts.cue_word(generation.output_ids, event.index),
                **asdict(signals),
                "trial_text": trial_text,
                "trial_answer": trial.answer,
                "trial_status": trial.status,
                "trial_tokens": len(answer.ids),
                "trial_confidence": answer.confidence,
                "trial_mean_prob": answer.mean_prob,
                "trial_min_prob": answer.min_prob,
                "trial_first_entropy": answer.first_entropy,
                "right": trial.right,
                "agrees": agrees(trial, trace["full_answer"], trace["full_status"], same_of(grader)),
            }
        )
    return rows


def tokens_of(generation: Generation) -> Tokens:
    """The recorded tokens; an engine that gives no statistics leaves them unknown."""
    count = len(generation.output_ids)
    tokens = generation.tokens
    if tokens is None:
        thinking = np.arange(count) < generation.thinking_tokens
        tokens = Tokens(np.array(generation.output_ids, np.int32), thinking, unknown(count))
    left_out = [event for event in generation.events if not event.eligible]
    if not left_out:
        return tokens
    skipped = np.zeros(count, np.uint8)
    for event in left_out:
        skipped[event.index] |= _skipped(event)
    return replace(tokens, skipped=skipped)


def _skipped(event: CueEvent) -> int:
    if not event.kind & CUE:
        return SKIPPED_MARK
    settled = SKIPPED_CUE if event.seen_at == event.index else SKIPPED_PENDING
    return settled | SKIPPED_MARK if event.kind != CUE else settled


def kept(events: Sequence[CueEvent], most: int | None = None) -> list[int]:
    """Ordinals of the events where exits are forced: those that the guards let exit, at most so many."""
    eligible = [ordinal for ordinal, event in enumerate(events) if event.eligible]
    return [eligible[place] for place in spread(len(eligible), most)]


def spread(events: int, most: int | None) -> list[int]:
    """Ordinals of at most `most` of the events, spread evenly over the trace; all when None."""
    if most is None or events <= most:
        return list(range(events))
    return [(2 * number + 1) * events // (2 * most) for number in range(most)]


def _plain(value: Any) -> str | None:
    return None if value is None else str(value)
