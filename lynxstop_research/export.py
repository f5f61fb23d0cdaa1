"""Recorded exits as serial groups: one thought cut at several places, an answer at each, a decaying reward.

S-GRPO (arXiv 2505.07686) trains a model on such groups to end its thinking at the first place where its
answer is right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lynxstop.errors import ConfigError, DataError
from lynxstop.recordings.prompts import Prompt, messages
from lynxstop.recordings.storage import Recording

Decode = Callable[..., str]


def serial_groups(
    data: Recording, prompts: Mapping[str, Prompt], decode: Decode, *, decay: float = 0.5
) -> list[dict[str, Any]]:
    """Return one row per recorded exit, and one for the end of every trace, in serial order.

    Parameters
    ----------
    data : Recording
    prompts : mapping
        Problem ids to prompts.
    decode : callable
        The tokenizer's ``decode(ids, skip_special_tokens=False)``.
    decay : float
        The k-th right exit of a trace gets the reward decay ** (k - 1), a wrong one 0; in (0, 1].

    Returns
    -------
    list of dict
        `prompt` and `completion` (conversations), `label` (right), `reward`, `answer`, `position` (thinking
        tokens), `group` (trace) and `serial` (place in the group). Exits without a verdict are left out.

    Raises
    ------
    ConfigError
        On a decay outside (0, 1].
    DataError
        When a prompt is missing, or nothing has a verdict.
    """
    if not 0.0 < decay <= 1.0:
        raise ConfigError(f"A decay lies in (0, 1], not at {decay!r}.")
    cues, start, rows = data.cues().to_pylist(), 0, []
    for trace, tokens in zip(data.traces().to_pylist(), data.tokens(), strict=True):
        if (prompt := prompts.get(trace["problem_id"])) is None:
            raise DataError(
                f"There is no prompt for the problem {trace['problem_id']!r}.",
                hint="Give the problems that the data were recorded from.",
            )
        exits = [
            (
                cue["right"],
                cue["thinking_at_exit"],
                cue["trial_answer"],
                decode(tokens.ids[: cue["seen_at"] + 1].tolist(), skip_special_tokens=False)
                + cue["trial_text"],
            )
            for cue in cues[start : start + trace["cues"]]
        ]
        exits.append((trace["full_right"], trace["thinking_tokens"], trace["full_answer"], trace["text"]))
        rows += _group(trace["trace_id"], prompt, exits, decay)
        start += trace["cues"]
    if not rows:
        raise DataError(
            "No recorded exit has a verdict.", hint="Collect problems with answers: rewards need them."
        )
    return rows


def to_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _group(
    name: str, prompt: Prompt, exits: Sequence[tuple[bool | None, int, str, str]], decay: float
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    reward = 1.0
    for right, position, answer, text in exits:
        if right is None:
            continue
        rows.append(
            {
                "prompt": messages(prompt),
                "completion": [{"role": "assistant", "content": text}],
                "label": right,
                "reward": reward if right else 0.0,
                "answer": answer,
                "position": position,
                "group": name,
                "serial": len(rows),
            }
        )
        reward *= decay if right else 1.0
    return rows
