"""Worlds whose risk is known exactly.

A world is a finite population of problems; a calibration set is drawn from it with replacement, so its
problems are independent and the true risk of a threshold is a plain mean over the population. The mean is
taken by brute force over a matrix, not by the code under test.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.stats import binomtest

from lynxstop.calibration.traces import TraceTable

SIZE = 3000


@dataclass(frozen=True, eq=False)
class World:
    """A population of problems, each with the same number of samples."""

    name: str
    table: TraceTable
    samples: int = 1
    weights: np.ndarray | None = None
    """Likelihood ratio of each trace under another mix of prompts."""

    def draw(self, n: int, seed: int, *, start: str = "p") -> TraceTable:
        """Draw n problems; every draw is a new problem."""
        rows = self.rows(n, seed)
        problem = [f"{start}{i // self.samples:06d}" for i in range(len(rows))]
        trace = [f"{start}{i:07d}" for i in range(len(rows))]
        return replace(self.table.select(rows), trace_ids=np.array(trace), problem_ids=np.array(problem))

    def rows(self, n, seed):
        """Rows of the population that `draw` takes."""
        problems = np.random.default_rng(seed).integers(0, self.table.traces // self.samples, n)
        return (problems[:, None] * self.samples + np.arange(self.samples)).ravel()

    def exits(self, threshold):
        """Loss at the first exit of every trace of the population, NaN without an exit."""
        scores, losses = _padded(self)
        hit = scores > np.float32(threshold)
        first = hit.argmax(axis=1)
        return np.where(hit.any(axis=1), losses[np.arange(len(first)), first], np.nan)

    def risk(self, threshold, *, weighted=False):
        """True risk per request."""
        return float(
            np.average(np.nan_to_num(self.exits(threshold)), weights=self.weights if weighted else None)
        )

    def selective_risk(self, threshold):
        """True risk among the requests that exit, 0 when none does."""
        losses = self.exits(threshold)
        losses = losses[~np.isnan(losses)]
        return float(losses.mean()) if len(losses) else 0.0

    def cue_risk(self, threshold):
        """Share of the bad cues that are above the threshold."""
        bad = self.table.losses > 0
        return float((self.table.scores[bad] > np.float32(threshold)).mean())


@cache
def _padded(world):
    table, width = world.table, int(world.table.lengths.max())
    inside = np.arange(width) < table.lengths[:, None]
    scores, losses = np.full(inside.shape, -np.inf, np.float32), np.zeros(inside.shape)
    scores[inside], losses[inside] = table.scores, table.losses
    return scores, losses


def _table(lengths, scores, losses, samples=1):
    count = len(lengths)
    ids = [f"{i:07d}" for i in range(count)]
    position = np.arange(len(scores)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
    return TraceTable.from_arrays(
        trace_ids=ids,
        problem_ids=[ids[i // samples] for i in range(count)],
        lengths=lengths,
        scores=scores,
        losses=losses,
        tokens=position * 10,
        full_tokens=np.asarray(lengths) * 10 + 10,
    )


@cache
def sticky():
    """Up to 24 cues that depend on each other through the trace; an answer once right stays right."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 25, SIZE)
    owner = np.repeat(np.arange(SIZE), lengths)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    solved_at = rng.geometric(0.2, SIZE) - 1
    wrong = position < solved_at[owner]
    scores = rng.normal(0, 1, SIZE)[owner] + rng.normal(0, 1, len(owner)) + np.where(wrong, -1.2, 1.2)
    return World("sticky", _table(lengths, scores, wrong))


@cache
def turning():
    """Right answers turn wrong again while scores rise: a lenient threshold exits before the turn.

    The risk climbs to 17% and falls back to 0, so the loss is anything but monotone.
    """
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 10, SIZE)
    owner = np.repeat(np.arange(SIZE), lengths)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    turn = rng.integers(1, 6, SIZE)[owner]
    wrong = (position >= turn) & (rng.random(SIZE)[owner] < 0.5)
    scores = 0.3 * position + rng.normal(0, 1, len(owner))
    return World("turning", _table(lengths, scores, wrong))


@cache
def ties():
    """Few cues and six distinct scores: every threshold step is large."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 4, SIZE)
    scores = rng.integers(0, 6, lengths.sum())
    wrong = rng.random(len(scores)) < np.array([0.6, 0.4, 0.25, 0.1, 0.04, 0.005])[scores]
    return World("ties", _table(lengths, scores.astype(float), wrong))


@cache
def mixture():
    """Two groups: a route that is easy, and one whose scores say the opposite of the truth."""
    rng = np.random.default_rng(4)
    lengths = rng.integers(1, 8, SIZE)
    owner = np.repeat(np.arange(SIZE), lengths)
    hard = (rng.random(SIZE) < 0.2)[owner]
    wrong = rng.random(len(owner)) < np.where(hard, 0.5, 0.1)
    scores = np.where(wrong ^ hard, -1.0, 1.0) + rng.normal(0, 1.0, len(owner))
    return World("mixture", _table(lengths, scores, wrong))


@cache
def single():
    """One cue per trace: cue and request are the same, which leaves a bound no slack."""
    rng = np.random.default_rng(5)
    wrong = rng.random(SIZE) < 0.6
    scores = rng.normal(0, 1, SIZE) - 0.8 * wrong
    return World("single", _table(np.ones(SIZE, int), scores, wrong))


@cache
def repeated():
    """Eight samples of each problem that mostly share their fate."""
    rng = np.random.default_rng(6)
    problems, samples = SIZE // 2, 8
    count = problems * samples
    lengths = rng.integers(1, 5, count)
    owner = np.repeat(np.arange(count), lengths)
    hopeless = np.repeat(rng.random(problems) < 0.15, samples)[owner]
    wrong = rng.random(len(owner)) < np.where(hopeless, 0.9, 0.03)
    problem = np.repeat(rng.normal(0, 1, problems), samples)
    scores = problem[owner] + rng.normal(0, 0.5, len(owner)) - 1.0 * wrong
    return World("repeated", _table(lengths, scores, wrong, samples), samples=samples)


@cache
def shifted():
    """Serving sees twice as many hard prompts as calibration does."""
    rng = np.random.default_rng(7)
    lengths = rng.integers(1, 6, SIZE)
    owner = np.repeat(np.arange(SIZE), lengths)
    hard = rng.random(SIZE) < 0.3
    wrong = rng.random(len(owner)) < np.where(hard[owner], 0.5, 0.05)
    scores = rng.normal(1, 1, len(owner)) - 1.0 * wrong
    weights = np.where(hard, 0.6 / 0.3, 0.4 / 0.7)
    return World("shifted", _table(lengths, scores, wrong), weights=weights)


@cache
def plateau():
    """Forty thresholds with a risk just above 10%, each at other requests' cost."""
    rng = np.random.default_rng(8)
    lengths = np.full(SIZE, 40)
    wrong = rng.random((SIZE, 40)) < 0.11
    return World("plateau", _table(lengths, np.tile(np.arange(40.0), SIZE), wrong.ravel()))


WORLDS = {made.__name__: made for made in (sticky, turning, ties, mixture, single)}


def exceeds(violations, repeats, delta):
    """P-value of: violations come at a rate of at most delta."""
    return binomtest(violations, repeats, delta, alternative="greater").pvalue


def mean_exceeds(risks, alpha):
    """How many standard errors the mean risk lies above alpha."""
    risks = np.asarray(risks)
    return (risks.mean() - alpha) / max(risks.std(ddof=1) / np.sqrt(len(risks)), 1e-12)
