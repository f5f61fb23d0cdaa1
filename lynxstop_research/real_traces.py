"""Answers of a real model, forced along its thinking: rules certified and compared on such a recording.

The recording is a table of multiple-choice trajectories: every trace is cut at tenths of its length, and the
log-probability of each answer letter is recorded there. An exit at a cut answers with the likeliest letter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.losses import LOSSES, Loss
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.errors import DataError
from lynxstop.extras import need
from lynxstop.remote.tokens import StreamToken, Top, statistics_of_top_k
from lynxstop.replay.exits import ExitTable
from lynxstop.replay.outcomes import Outcomes, summarize
from lynxstop.replay.points import score_points, training_of
from lynxstop.rules import Point, Rule, Score, Trial
from lynxstop.rules.base import Use
from lynxstop.rules.learned import Learned
from lynxstop.rules.plain import Budget
from lynxstop.rules.table import rule_named

LETTERS = "ABCD"
COLUMNS = {
    "question_id": "string",
    "decile": "int64",
    "prefix_token_count": "int64",
    "trace_token_count": "int64",
    **{f"logprob_{letter}": "float64" for letter in LETTERS},
    "prediction": "string",
    "correct": "bool_",
}
"""The columns that are read, and their types."""
FULL = 100
"""The decile of the whole trace; its letter is taken for the full answer."""
FOLDS = 5


@dataclass(frozen=True)
class Share(Rule):
    """Probability of the answer letter among the letters: confidence that ignores everything else."""

    name = "letter-share"
    uses = frozenset({"trial"})

    def start(self) -> Score:
        """Begin a request."""
        return lambda point: point.trial().min_prob


@dataclass(frozen=True)
class LetterProbe(Learned):
    """Logistic regression on what the forced letter says, for how long it has said it, and the position."""

    name = "letter-probe"
    uses: ClassVar[frozenset[Use]] = frozenset({"trial"})
    keys = ("entropy", "top_gap", "log_tokens")


@dataclass(frozen=True)
class GenerousBudget(Budget):
    """A fixed budget that pays for no token beyond it, and still answers what the cut after it answers.

    The recording has no answer at the budget's own token, and a budget that waits for the next cut is charged
    up to a tenth of the trace too much. This one is charged too little.
    """

    name = "budget, generous"


RULES: tuple[Rule, ...] = (
    rule_named("deer"),
    Share(),
    rule_named("convergence"),
    rule_named("answer-entropy"),
    rule_named("eat"),
    LetterProbe(),
    rule_named("budget"),
    GenerousBudget(),
)
"""Confidence (twice), convergence, entropy (twice), a learned one, and a fixed budget (twice)."""


def read_letters(path: Path) -> ExitTable:
    """Read a recording as decision points at 10 to 90% of every trace.

    Parameters
    ----------
    path : Path
        A Parquet file with the columns `COLUMNS`: one row per trace and decile, 100 for the whole trace.

    Raises
    ------
    DataError
        When the file is no such table, or a trace lacks its whole form.
    """
    arrow, parquet = need("pyarrow", "calibrate"), need("pyarrow.parquet", "calibrate")
    try:
        read = parquet.read_table(path, columns=list(COLUMNS))
        read = read.select(list(COLUMNS))
        table = read.cast(arrow.schema([(name, getattr(arrow, kind)()) for name, kind in COLUMNS.items()]))
    except (OSError, KeyError, ValueError, arrow.ArrowException) as error:
        raise DataError(
            f"{path} is no table of forced answer letters: {str(error).splitlines()[0]}",
            hint=f"It needs the columns {', '.join(COLUMNS)}.",
        ) from error
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        rows.setdefault(row["question_id"], []).append(row)
    return _table([sorted(own, key=lambda row: row["decile"]) for _, own in sorted(rows.items())], path)


def _table(traces: Sequence[Sequence[Mapping[str, Any]]], path: Path) -> ExitTable:
    if not traces or any(own[-1]["decile"] != FULL for own in traces):
        raise DataError(f"{path} has a trace without its row of decile {FULL}.", hint="Record it again.")
    full = [own[-1] for own in traces]
    cuts = [[row for row in own if 0 < row["decile"] < FULL] for own in traces]
    rows = [row for own in cuts for row in own]
    owners = np.repeat(np.arange(len(traces)), [len(own) for own in cuts])
    names = np.array([row["question_id"] for row in full], dtype=np.str_)
    return ExitTable(
        trace_ids=names,
        problem_ids=names,
        full_tokens=np.array([row["trace_token_count"] for row in full], dtype=np.int64),
        full_right=np.array([row["correct"] for row in full], dtype=np.float64),
        full_parsed=np.ones(len(full), dtype=bool),
        owners=owners,
        tokens=np.array([row["prefix_token_count"] for row in rows], dtype=np.int64),
        agrees=np.array(
            [row["prediction"] == full[i]["prediction"] for row, i in zip(rows, owners, strict=True)],
            dtype=np.float64,
        ),
        right=np.array([row["correct"] for row in rows], dtype=np.float64),
        parsed=np.ones(len(rows), dtype=bool),
        cue=np.ones(len(rows), dtype=bool),
        rows=np.arange(len(rows)),
        points=[[_point(row) for row in own] for own in cuts],
    )


def letter_shares(row: Mapping[str, Any]) -> NDArray[np.float64]:
    """Probabilities of the letters among themselves, shape (4,)."""
    logprobs = np.array([row[f"logprob_{letter}"] for letter in LETTERS])
    shares = np.exp(logprobs - logprobs.max())
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _point(row: Mapping[str, Any]) -> Point:
    logprobs = [float(row[f"logprob_{letter}"]) for letter in LETTERS]
    seen = StreamToken(b"", top=Top(tuple(LETTERS), logprobs))
    (statistics,) = statistics_of_top_k([(seen, seen)], frozenset())
    probability = float(np.exp(max(logprobs)))
    position = int(row["prefix_token_count"])
    trial = Trial(
        answer=row["prediction"],
        text=row["prediction"],
        tokens=1,
        confidence=probability,
        mean_prob=probability,
        min_prob=float(letter_shares(row).max()),
        first_entropy=statistics.entropy,
    )
    signals = {
        "entropy": statistics.entropy,
        "top_gap": statistics.top_gap,
        "log_tokens": float(np.log1p(position)),
    }
    return Point(signals, float("nan"), position, trial)


@dataclass(frozen=True, eq=False)
class Found:
    """A rule at a level over the re-splits; arrays of shape (splits,).

    Attributes
    ----------
    saved, risk, exits : array
        Shares over the problems that were neither fitted nor certified on: of thinking tokens, of losses, of
        requests.
    accuracy : array
        Change against full thinking, early minus full.
    refused : array
        Share of the folds whose certificate never exits.
    """

    rule: str
    loss: str
    level: float
    saved: NDArray[np.float64]
    risk: NDArray[np.float64]
    exits: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    refused: NDArray[np.float64]


def study(
    table: ExitTable,
    *,
    rules: Sequence[Rule] = RULES,
    losses: Sequence[str] = ("disagree", "harm"),
    levels: Sequence[float] = (0.05, 0.1, 0.2),
    certify_on: int = 123,
    splits: int = 50,
    confidence: float = 0.95,
) -> list[Found]:
    """Certify and measure rules over many random splits of the problems.

    Each split certifies on `certify_on` problems. The others are measured in folds: for each fold, rules are
    fitted on the remaining folds and certified at every level, each level on its own. So no problem is
    measured by a rule or a threshold that has seen it, and no certificate rests on a rule fitted on its
    problems.

    Raises
    ------
    DataError
        When fewer than two problems per fold are left.
    """
    problems = len(table.trace_ids)
    if problems - certify_on < 2 * FOLDS:
        raise DataError(
            f"Of {problems} problems, {certify_on} are to be certified on: too few are left to measure.",
            hint="Certify on fewer.",
        )
    done: dict[tuple[str, str, float], list[tuple[float, ...]]] = {}
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(problems)
        folds = np.array_split(order[certify_on:], FOLDS)
        parts = list(_parts(table, order[:certify_on], folds))
        for name in losses:
            for rule in rules:
                for level, row in _measured(rule, parts, LOSSES[name], levels, confidence, seed):
                    done.setdefault((name, rule.name, level), []).append(row)
    return [
        Found(rule, loss, level, *np.array(rows, np.float64).T) for (loss, rule, level), rows in done.items()
    ]


class RealSplit(NamedTuple):
    """Traces to fit on, to certify on, and to measure."""

    train: ExitTable
    certified: ExitTable
    test: ExitTable


def _parts(
    table: ExitTable, certified: NDArray[np.int64], folds: Sequence[NDArray[np.int64]]
) -> Iterator[RealSplit]:
    every = np.arange(len(table.trace_ids))
    for fold in folds:
        train = np.setdiff1d(np.concatenate(folds), fold)
        yield RealSplit(*(table.select(np.isin(every, rows)) for rows in (train, certified, fold)))


def _measured(
    rule: Rule,
    parts: Sequence[RealSplit],
    loss: Loss,
    levels: Sequence[float],
    confidence: float,
    seed: int,
) -> Iterator[tuple[float, tuple[float, ...]]]:
    """What a rule saves, loses and how often it exits and is refused, by level, over all folds."""
    folds: dict[float, list[tuple[Outcomes, bool]]] = {level: [] for level in levels}
    for train, certified, test in parts:
        fitted = rule.fit(training_of(train, int(train.full_tokens.max()), loss))
        scores = score_points(fitted, test)[0]
        options = CalibrationOptions(
            risks=levels, confidence=confidence, loss=loss.name, together="none", seed=seed
        )
        made = calibrate(certified.scored(score_points(fitted, certified)[0], loss), options)
        for one in made.certificates:
            outcomes = test.at(scores, one.threshold)
            if isinstance(fitted, GenerousBudget):
                outcomes = _charged(outcomes, one.threshold)
            folds[one.risk].append((outcomes, one.refused))
    for level, own in folds.items():
        done = [summarize(outcomes) for outcomes, _ in own]
        requests = sum(one.n_problems for one in done)
        full = sum(one.thinking_tokens_full for one in done)
        yield (
            level,
            (
                1 - sum(one.thinking_tokens_early for one in done) / full,
                sum(getattr(one, loss.name) for one in done) / requests,
                sum(one.exits for one in done) / requests,
                sum(one.help - one.harm for one in done) / requests,
                float(np.mean([refused for _, refused in own])),
            ),
        )


def _charged(outcomes: Outcomes, budget: float) -> Outcomes:
    """Charge exits up to the first token beyond the budget."""
    spent = np.where(outcomes.exits, np.minimum(outcomes.gross, np.floor(budget) + 1), outcomes.gross)
    return replace(outcomes, gross=spent)


def oracle(table: ExitTable, loss: str) -> float:
    """Share of thinking tokens that an exit at the first cut without a loss would save."""
    free = 1.0 - LOSSES[loss].at_exit(table.verdicts)
    return summarize(table.at(free.astype(np.float32), 0.5)).saved


def at_cuts(table: ExitTable) -> list[dict[str, float]]:
    """For each cut of the traces, how often its letter disagrees, does harm and is right."""
    place = np.arange(len(table.owners)) - np.searchsorted(table.owners, table.owners)
    rows = []
    for cut in range(int(place.max(initial=-1)) + 1):
        here = place == cut
        seen = type(table.verdicts)(*(column[here] for column in table.verdicts))
        rows.append(
            {
                "cut": float(10 * (cut + 1)),
                "disagree": float(np.mean(LOSSES["disagree"].at_exit(seen))),
                "harm": float(np.mean(LOSSES["harm"].at_exit(seen))),
                "right": float(np.mean(seen.right)),
            }
        )
    return rows


class Ending(NamedTuple):
    """What the letters after whole traces are worth as answers to compare with."""

    redrawn: float
    """How often two draws from the letters after the same trace would differ: 1 minus the sum of squares."""
    mass: float
    """Median probability of all letters together."""


def ending(path: Path) -> Ending:
    """Measure the distributions after whole traces of a recording."""
    parquet = need("pyarrow.parquet", "calibrate")
    rows = [row for row in parquet.read_table(path).to_pylist() if row["decile"] == FULL]
    masses = [np.exp([row[f"logprob_{letter}"] for letter in LETTERS]).sum() for row in rows]
    return Ending(
        redrawn=float(np.mean([1 - (letter_shares(row) ** 2).sum() for row in rows])),
        mass=float(np.median(masses)),
    )
