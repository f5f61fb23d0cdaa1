"""What was tried on which data: choosing the best of several results is part of a promise.

The ledger is a small JSON file beside the data. An attempt is known by the digest of its problems and of its
evidence, and by its options; repeating one exactly is not a further attempt. Problems are kept as the
smallest digests of their ids, which tell data that share problems from data that do not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lynxstop.artifacts import atomic
from lynxstop.artifacts.strict import Strict
from lynxstop.calibration.methods import METHODS
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import DataError

NAME = "tried.json"
_SKETCH = 64
_MAX_BYTES = 16 << 20


class Attempt(Strict):
    """One calibration: on what, and of what."""

    data: str
    """SHA-256 of the sorted ids of the problems."""
    problems: int
    sketch: tuple[str, ...]
    """The smallest digests of the ids, sorted."""
    evidence: str
    loss: str
    method: str
    risks: tuple[float, ...]
    confidence: float
    unit: str
    samples: str | None
    by: str | None
    unknown_loss: float
    seed: int
    created: datetime

    def same(self, other: Attempt) -> bool:
        """Whether the other is this one again."""
        dated = {"created"}
        return self.model_dump(exclude=dated) == other.model_dump(exclude=dated)

    def shares_data(self, other: Attempt) -> bool:
        """Whether the two were made on some of the same problems, as far as their sketches tell."""
        return self.data == other.data or bool(set(self.sketch) & set(other.sketch))

    def is_look(self, other: Attempt) -> bool:
        """Whether the two are looks at growing data under one promise that covers them all."""
        method = METHODS.get(self.method)  # a later version may have others
        growing = method is not None and method.grows and self.problems != other.problems
        dated = {"created", "data", "problems", "sketch", "evidence"}
        return growing and self.model_dump(exclude=dated) == other.model_dump(exclude=dated)


def attempt(table: TraceTable, options: CalibrationOptions) -> Attempt:
    """Describe a calibration of `table`."""
    names = sorted(set(table.problem_ids.tolist()))
    digests = sorted(hashlib.sha256(name.encode()).hexdigest()[:16] for name in names)
    return Attempt(
        data=hashlib.sha256("\n".join(names).encode()).hexdigest(),
        problems=len(names),
        sketch=tuple(digests[:_SKETCH]),
        evidence=replace(table, subgroups=None).digest(),
        loss=options.loss,
        method=options.certifier.name,
        risks=tuple(sorted(options.risks)),
        confidence=options.confidence,
        unit=options.unit,
        samples=options.samples,
        by=options.by,
        unknown_loss=options.unknown_loss,
        seed=options.seed,
        created=datetime.now(UTC).replace(microsecond=0),
    )


def read_ledger(path: Path) -> list[Attempt]:
    """Return the attempts of a ledger, none when there is no file.

    Raises
    ------
    DataError
        When it is damaged.
    """
    if not path.is_file():
        return []
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("too large")
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return [Attempt.model_validate(entry) for entry in content["attempts"]]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, ValidationError) as error:
        raise DataError(
            f"{path} is damaged, so what was tried on these data is not known.",
            hint="Restore it, or remove it and count the attempts yourself, by --tried.",
        ) from error


def record(path: Path, made: Attempt) -> int:
    """Add an attempt to the ledger; return how many were made on data like these, this one included.

    Looks at growing data by a method that allows for them count as one.

    Raises
    ------
    DataError
        As `read_ledger`, and when it cannot be written.
    """
    known = read_ledger(path)
    others = [old for old in known if old.shares_data(made)]
    if not any(old.same(made) for old in others):
        lines = [entry.model_dump(mode="json") for entry in (*known, made)]
        try:
            atomic.write_text(path, json.dumps({"attempts": lines}, indent=1) + "\n")
        except OSError as error:
            raise DataError(
                f"{path} cannot be written: {error.strerror}.",
                hint="Make the folder of the data writable, or count attempts yourself, by --tried.",
            ) from error
    return 1 + len([old for old in _distinct(others) if not old.same(made) and not old.is_look(made)])


def _distinct(attempts: Sequence[Attempt]) -> list[Attempt]:
    found: list[Attempt] = []
    for one in attempts:
        if not any(one.same(other) or one.is_look(other) for other in found):
            found.append(one)
    return found
