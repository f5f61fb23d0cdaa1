"""How AUC and certified savings grow with the problems collected: whether more would help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.case import Case
from lynxstop.calibration.losses import UNKNOWN_LOSS
from lynxstop.calibration.methods import method_named
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.units import as_units
from lynxstop.errors import ConfigError, DataError
from lynxstop.probes.data import ProbeData, load
from lynxstop.probes.export import export_probe
from lynxstop.probes.search import area
from lynxstop.probes.target import LOSS_OF, Target
from lynxstop.probes.train import train
from lynxstop.probes.trainer import ProbeTrainer
from lynxstop.recordings.storage import Recording
from lynxstop.replay.recorded import from_recorded

TEST, TRAIN = 0.25, 0.5
"""Share of the problems that every draw tests on; of the others of a size, the share that trains."""
_LEAST = 20
_WORTH = 0.01


class Spread(NamedTuple):
    """Mean over the draws, and the range of their middle 90%."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Size:
    """One size of the curve.

    `problems` are those that train and calibrate together; `auc`, `saved` (share of thinking tokens at the
    certified threshold, 0 where none was certified) and `risk` are measured on problems that neither saw;
    `certified` is the share of draws in which a threshold was found; `gain` is what `saved` grew since the
    size before, draw by draw.
    """

    problems: int
    traces: int
    auc: Spread
    saved: Spread
    risk: Spread
    certified: float
    gain: Spread | None


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """What `learning_curve` returns."""

    sizes: tuple[Size, ...]
    layers: tuple[int, ...]
    C: float
    level: float
    confidence: float
    loss: str
    repeats: int
    test_problems: int

    @property
    def advice(self) -> str:
        """Whether to go on collecting, in a sentence or two."""
        last = self.sizes[-1]
        if last.certified < 0.5:
            return (
                f"At {last.problems:,} problems a threshold was certified in {last.certified:.0%} of the "
                "draws: collect more, or accept a higher risk. `lynxstop plan` says how many it takes."
            )
        if last.gain is None:
            return "One size says nothing about growth: collect more."
        grown = (
            f"From {self.sizes[-2].problems:,} to {last.problems:,} problems the certified savings changed "
            f"by {last.gain.mean:+.1%} (middle 90% of draws: {last.gain.low:+.1%} to {last.gain.high:+.1%})."
        )
        if last.gain.mean < _WORTH:
            return f"{grown} More problems of this kind are unlikely to bring much."
        return f"{grown} Collecting more is likely to help."

    def report(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            **{key: value for key, value in asdict(self).items() if key != "sizes"},
            "sizes": [
                {
                    name: value._asdict() if isinstance(value, Spread) else value
                    for name in ("problems", "traces", "auc", "saved", "risk", "certified", "gain")
                    for value in [getattr(size, name)]
                }
                for size in self.sizes
            ],
            "advice": self.advice,
        }


def learning_curve(
    data: Recording,
    *,
    risk: float = 0.05,
    confidence: float = 0.95,
    target: Target = "agrees",
    sizes: Sequence[int] | None = None,
    repeats: int = 20,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LearningCurve:
    """Train, certify and test on ever more of the recorded problems.

    In every draw a quarter of the problems is set aside for testing. Of the others, the first n of a random
    order are what would have been collected: half of them train the probe, half certify the risk. Sizes of a
    draw are nested. Draws share problems, so near the full size their spread understates that of new data.

    Parameters
    ----------
    data : Recording
        With the forced exit of every cue.
    risk, confidence : float
        The level to certify, with Learn then Test over all float32 thresholds.
    target : {"agrees", "right"}
        What the probe predicts; the certified loss is `disagree` or `wrong`.
    sizes : sequence of int, optional
        Numbers of problems; by default all, and halves of it, down to 20 or a sixteenth.
    repeats : int
        Draws.
    layers : sequence of int, optional
        By default chosen once, with the penalty, by cross-validation on all data: sizes differ by what is
        learnt, not by what is chosen.
    seed : int
    progress : callable, optional
        Called with the numbers of finished and of all draws.

    Raises
    ------
    ConfigError
        On no repeats, or sizes that are not there.
    DataError
        With fewer than 40 problems, or cues without forced exits.
    """
    problems = np.array(data.problem_ids, dtype=object)
    most = len(problems) - round(TEST * len(problems))
    if len(problems) < 2 * _LEAST:
        raise DataError(f"A learning curve needs {2 * _LEAST} problems or more; there are {len(problems)}.")
    chosen = sorted(_halves(most) if sizes is None else set(sizes))
    if repeats < 1 or not chosen or chosen[0] < 2 or chosen[-1] > most:
        raise ConfigError(
            f"A curve needs draws, and sizes from 2 to {most} problems.", hint="The rest is for testing."
        )
    best = train(data, target=target, layer_sets=None if layers is None else [layers], seed=seed).chosen
    points = load(data, layers=best.layers, target=target)
    loss = LOSS_OF[target].name
    every = data.features(points.layers)
    draws: list[list[tuple[float, float, float, bool]]] = []
    rng = np.random.default_rng(seed)
    for draw in range(repeats):
        order = rng.permutation(problems)
        draws.append(
            [_one(data, points, every, order, size, most, best.C, risk, confidence, loss) for size in chosen]
        )
        if progress is not None:
            progress(draw + 1, repeats)
    values = np.array(draws, np.float64)
    traces = len(data.traces()) / len(problems)
    return LearningCurve(
        sizes=tuple(
            Size(
                problems=size,
                traces=round(size * traces),
                auc=_spread(values[:, place, 0]),
                saved=_spread(values[:, place, 1]),
                risk=_spread(values[:, place, 2]),
                certified=float(values[:, place, 3].mean()),
                gain=_spread(values[:, place, 1] - values[:, place - 1, 1]) if place else None,
            )
            for place, size in enumerate(chosen)
        ),
        layers=points.layers,
        C=best.C,
        level=risk,
        confidence=confidence,
        loss=loss,
        repeats=repeats,
        test_problems=len(problems) - most,
    )


def _one(
    data: Recording,
    points: ProbeData,
    every: NDArray[np.float32],
    order: NDArray[Any],
    size: int,
    most: int,
    C: float,
    risk: float,
    confidence: float,
    loss: str,
) -> tuple[float, float, float, bool]:
    """AUC, savings, risk and whether a threshold was certified, at one size of one draw."""
    learn, judge, test = order[:size][::2].tolist(), order[:size][1::2].tolist(), order[most:].tolist()
    own, held = np.isin(points.groups, learn), np.isin(points.groups, test)
    if len(set(points.y[own].tolist())) < 2 or len(set(points.y[held].tolist())) < 2:
        return 0.5, 0.0, 0.0, False
    fitted = ProbeTrainer(C=C).fit(points.X[own], points.y[own])
    scores = export_probe(fitted, points.layers).score(every)
    table = from_recorded(data, scores, loss=loss)
    verdict = method_named("ltt").certify(_case(table, judge), risk, 1 - confidence)
    case = _case(table, test)
    curve = case.at(np.array([verdict.threshold], np.float32))
    full = case.units.table.full_tokens
    total = 0.0 if full is None else float(full.sum())
    return (
        area(points.y[held], scores[points.rows[held]]),
        float(curve.saved[0]) / total if total else 0.0,
        float(curve.losses[0]) / case.units.count,
        not verdict.refused,
    )


def _case(table: TraceTable, problems: Sequence[str]) -> Case:
    units = as_units(table.select(np.isin(table.problem_ids, np.array(problems, np.str_))), "one", 0)
    return Case(units, units.table.charged(UNKNOWN_LOSS))


def _halves(most: int) -> list[int]:
    sizes = [most >> step for step in range(5)]
    return [size for size in sizes if size >= _LEAST]


def _spread(values: NDArray[np.float64]) -> Spread:
    low, high = np.quantile(values, [0.05, 0.95])
    return Spread(float(values.mean()), float(low), float(high))
