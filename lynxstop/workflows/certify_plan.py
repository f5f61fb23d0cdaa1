"""What a certification takes, and what so many problems can certify: said before anything is generated."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from lynxstop.artifacts import atomic
from lynxstop.calibration.certificate import share
from lynxstop.calibration.plan import chance, likely_losses, smallest_size, strictest
from lynxstop.errors import DataError
from lynxstop.recordings.problems import Problem
from lynxstop.recordings.prompts import content_id, prompt_digest
from lynxstop.recordings.storage import Recording

SHARES = {"train": 0.40, "calibration": 0.45, "test": 0.15}
"""Share of the problems that train the probe, certify its thresholds, and test the result."""
LEAST_TRAINING = 20
"""Problems below which nothing is trained."""


def split_problems(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Part problems by their prompts, each prompt once, however it is spelt.

    The part of a prompt depends on its text alone, so that it stays where it is when problems are added
    after it, and no prompt is in two parts under two ids or spellings.
    """
    parts: dict[str, list[Problem]] = {name: [] for name in SHARES}
    seen = set()
    for problem in problems:
        same = prompt_digest(problem.prompt, problem.tools)
        if same not in seen:
            digest = content_id(problem.prompt, problem.tools)
            parts[_part(int(digest, 16) / 16 ** len(digest))].append(problem)
            seen.add(same)
    return parts


def _part(place: float) -> str:
    for name, width in SHARES.items():
        place -= width
        if place < 0:
            return name
    return name


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a number of calibration problems can certify.

    Attributes
    ----------
    problems : int
        That calibrate.
    confidence : float
    risks : tuple of float
        Levels that they can certify, ascending.
    dropped : tuple of float
        Levels that no threshold reaches with so few, not even one without a loss.
    strictest : float
        The lowest risk that they could certify alone, without a loss.
    chances : dict
        Of each level: true risk of a threshold to the probability that it is certified.
    """

    problems: int
    confidence: float
    risks: tuple[float, ...]
    dropped: tuple[float, ...]
    strictest: float
    chances: Mapping[float, Mapping[float, float]] = field(default_factory=dict)

    def _with(self, risk: float) -> list[float]:
        """Levels that share the error when this one is in reach."""
        return [other for other in (*self.dropped, *self.risks) if other >= risk]

    def sentences(self) -> list[str]:
        """What a reader should know."""
        said = [
            f"{self.problems:,} problems certify a risk of {100 * risk:g}% with a probability of "
            + ", ".join(
                f"{p:.0%} if the threshold truly loses {100 * loss:g}%" for loss, p in chances.items()
            )
            + "."
            for risk, chances in self.chances.items()
        ]
        said += [
            f"They are too few for a risk of {100 * risk:g}%, which is left out: it takes "
            f"{floor(risk, self._with(risk), self.confidence):,} of them without a single loss."
            for risk in self.dropped
        ]
        return said


def floor(risk: float, levels: Sequence[float], confidence: float) -> int:
    """Return how many problems a level takes at least, without a loss, when these levels share the error."""
    return smallest_size(0, risk, (1.0 - confidence) * share(risk, levels))


def outlook(problems: int, risks: Sequence[float], confidence: float) -> Outlook:
    """Say what so many calibration problems can certify; levels out of reach leave their error to the others.

    Which levels are kept depends on the number of problems alone, so choosing them costs nothing.
    """
    kept = sorted(risks)
    while kept and floor(kept[0], kept, confidence) > problems:
        kept.pop(0)
    chances = {
        risk: {
            loss: chance(problems, risk, 1.0 - (1.0 - confidence) * share(risk, kept), expected_loss=loss)
            for loss in likely_losses(risk)
        }
        for risk in kept
    }
    return Outlook(
        problems=problems,
        confidence=confidence,
        risks=tuple(kept),
        dropped=tuple(sorted(set(risks) - set(kept))),
        strictest=strictest(problems, confidence),
        chances=chances,
    )


def require_enough(parts: Mapping[str, Sequence[Problem]], found: Outlook) -> None:
    """Refuse problems that cannot certify any of the levels, or train nothing.

    Raises
    ------
    DataError
        Says what so many problems can certify, and how many it takes.
    """
    given, training = sum(map(len, parts.values())), len(parts["train"])
    needed = 0
    if not found.risks:
        lenient = max(found.dropped)
        needed = floor(lenient, (lenient,), found.confidence)
        why = (
            f"{found.problems} of them certify: at {100 * found.confidence:g}% confidence that is enough for "
            f"no risk below {found.strictest:.1%}, even without a single loss."
        )
        another = found.strictest < 0.5 and training >= LEAST_TRAINING
        other = f", or --risk {math.ceil(100 * found.strictest)}%" if another else ""
    elif training < LEAST_TRAINING:
        why, other = f"{training} of them train the probe, and {LEAST_TRAINING} are the least.", ""
    else:
        return
    wanted = max(_all_for(needed, "calibration"), _all_for(LEAST_TRAINING, "train"))
    raise DataError(
        f"{given} problems are too few. {why}", hint=f"Give about {max(wanted, given + 10)} problems{other}."
    )


def _all_for(count: int, part: str) -> int:
    """How many problems to give so that a part of them very likely has this size."""
    return math.ceil((count + 2 * math.sqrt(count)) / SHARES[part])


@dataclass(frozen=True, slots=True)
class Estimate:
    """What recording some traces takes.

    Attributes
    ----------
    traces, forced : int
        Full traces, and answers forced at their cues.
    tokens : int
        Of both.
    bytes : int
        Of the recorded hidden states.
    seconds : float
    """

    traces: int
    forced: int
    tokens: int
    bytes: int
    seconds: float

    @classmethod
    def measured(cls, data: Recording, seconds: float) -> Self:
        """Return what a finished collection took."""
        traces = data.traces(["thinking_tokens", "answer_tokens"])
        forced = data.cues(["trial_tokens"])["trial_tokens"].to_numpy()
        tokens = sum(int(traces[name].to_numpy().sum()) for name in traces.column_names) + int(forced.sum())
        return cls(traces.num_rows, len(forced), tokens, 4 * data.meta.width * len(forced), seconds)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read one that was saved; None when there is none."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, path: Path) -> None:
        """Keep it for a later call."""
        atomic.write_text(path, json.dumps(asdict(self)) + "\n")

    def of(self, traces: int) -> Estimate:
        """Scale to another number of traces, at the same speed: in larger batches they take less."""
        per = traces / max(self.traces, 1)
        counts = (round(self.forced * per), round(self.tokens * per), round(self.bytes * per))
        return Estimate(traces, *counts, self.seconds * per)

    def sentence(self) -> str:
        """All of it."""
        return (
            f"{self.traces:,} traces are left to record, with about {self.forced:,} forced answers, "
            f"{self.tokens:,} tokens and {self.bytes / 2**20:,.0f} MiB of hidden states: "
            f"{timedelta(seconds=round(self.seconds))} at the speed of the first ones, less "
            "in larger batches."
        )


def sizes(parts: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Return the number of problems of each part."""
    return {name: len(part) for name, part in parts.items()}
