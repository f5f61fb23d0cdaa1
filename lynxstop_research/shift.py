"""What becomes of a certificate when prompts or sampling change, when it is noticed, and what repairs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.probe import Probe
from lynxstop.calibration.losses import LOSSES, Loss, charge
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.core.first_exit import exit_steps, first_exits
from lynxstop.monitor.exchangeability import ExchangeabilityTest
from lynxstop.monitor.sequential import ChangeDetector, RiskTest
from lynxstop.recordings.storage import Recording
from lynxstop.replay.exits import ExitTable, read_exits
from lynxstop.replay.outcomes import summarize
from lynxstop.replay.serving import scores_of

AUDITED = LOSSES["disagree"]
"""The loss that audits of live traffic measure."""
REPEATS = 20
MOST = 2_000
"""Audits, or requests, after which a monitor is given up."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Recorded traces with a probe's scores."""

    table: ExitTable
    scores: NDArray[np.float32]

    @property
    def first(self) -> NDArray[np.float64]:
        """Score at the first cue of each trace, NaN without one: what the label-free test reads."""
        found = np.full(len(self.table.trace_ids), np.nan)
        owners, at = np.unique(self.table.owners, return_index=True)
        found[owners] = self.scores[at]
        return found


@dataclass(frozen=True)
class Delay:
    """Requests until something is noticed, over many orders of the same requests.

    Attributes
    ----------
    share : float
        Of the orders in which it was noticed at all, within `MOST`.
    median : float
        Of those; NaN where there are none.
    """

    share: float
    median: float

    def __str__(self) -> str:
        if not self.share:
            return f"none in {MOST:,}"
        return f"{self.median:.0f}" + ("" if self.share == 1 else f", in {self.share:.0%} of orders")


@dataclass(frozen=True)
class Served:
    """A threshold on test traces: risk with its 95% interval, and savings."""

    requests: int
    risk: float
    low: float
    high: float
    saved: float
    exits: float


@dataclass(frozen=True)
class Shift:
    """One line of the table.

    Attributes
    ----------
    served : Served
        Under the certificate of the source.
    alarm, change : Delay or None
        Audits until the monitor's alarm, and audits until its change detector, which warns unless it is told
        to raise the alarm too; None for a loss that audits do not measure.
    warning : Delay
        Requests until the label-free warning.
    repaired : Served or None
        Under a certificate made on calibration traces of the target; None when that is refused.
    oracle : float
    """

    source: str
    target: str
    certified: bool
    served: Served
    alarm: Delay | None
    change: Delay | None
    warning: Delay
    repaired: Served | None
    oracle: float


def scored(data: Recording, by: Probe | Bundle) -> Scored:
    """Score every decision point: by a probe every cue, by a bundle as it is served, with its tilt."""
    if isinstance(by, Bundle):
        exits = read_exits(data, by.policy.stop_policy())
        return Scored(exits, scores_of(by, data)[exits.rows])
    return Scored(read_exits(data), by.score(data.features(by.layers)))


def certified(traces: Scored, risk: float, confidence: float = 0.95, loss: Loss = AUDITED) -> float:
    """Threshold that is certified on traces; inf when refused."""
    options = CalibrationOptions(risks=[risk], confidence=confidence, loss=loss.name)
    return calibrate(traces.table.scored(traces.scores, loss), options).certificates[0].threshold


def served(traces: Scored, threshold: float, loss: Loss = AUDITED) -> Served:
    """Replay traces at a threshold."""
    found = summarize(traces.table.at(traces.scores, threshold))
    lost = int(losses_at(traces, threshold, loss).sum())
    interval = binomtest(lost, found.n_problems).proportion_ci()
    return Served(
        found.n_problems,
        lost / found.n_problems,
        float(interval.low),
        float(interval.high),
        found.saved,
        found.exits / found.n_problems,
    )


def losses_at(traces: Scored, threshold: float, loss: Loss = AUDITED) -> NDArray[np.float64]:
    """Loss of each request as a certificate counts it, shape (traces,)."""
    table = traces.table
    hit = first_exits(exit_steps(table.owners, traces.scores), len(table.trace_ids), threshold)
    lost = np.zeros(len(hit))
    lost[hit >= 0] = charge(loss.at_exit(table.verdicts))[hit[hit >= 0]]
    return lost


def delay(start: Callable[[], Callable[[int], bool]], requests: int, seed: int = 0) -> Delay:
    """Draw requests with replacement until something is noticed.

    Parameters
    ----------
    start : callable
        Makes a fresh monitor: a function of the request drawn that says whether it has noticed something.
    requests : int
        To draw from.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(REPEATS):
        notice = start()
        for count, request in enumerate(rng.integers(0, requests, MOST).tolist(), start=1):
            if notice(request):
                found.append(count)
                break
    return Delay(len(found) / REPEATS, float(np.median(found)) if found else float("nan"))


def alarm(losses: NDArray[np.float64], risk: float) -> Callable[[], Callable[[int], bool]]:
    """Tests of audited losses that raise the monitor's alarm."""

    def start() -> Callable[[int], bool]:
        test = RiskTest(risk)

        def notice(request: int) -> bool:
            test.add(losses[request])
            return test.alarm

        return notice

    return start


def change(losses: NDArray[np.float64], risk: float) -> Callable[[], Callable[[int], bool]]:
    """Detectors of a recent rise of the audited risk."""

    def start() -> Callable[[int], bool]:
        detector = ChangeDetector(risk)
        return lambda request: detector.add(losses[request])

    return start


def warning(
    reference: NDArray[np.float64], live: NDArray[np.float64], seed: int = 0
) -> Callable[[], Callable[[int], bool]]:
    """Label-free tests of the first score of each request."""
    rng = np.random.default_rng(seed)

    def start() -> Callable[[int], bool]:
        test = ExchangeabilityTest.from_reference(reference)

        def notice(request: int) -> bool:
            test.add(float(live[request]), float(rng.random()))
            return test.warning

        return notice

    return start


def shift(
    source: str,
    target: str,
    *,
    threshold: float,
    risk: float,
    reference: Scored,
    calibration: Scored,
    test: Scored,
    loss: Loss = AUDITED,
    confidence: float = 0.95,
) -> Shift:
    """Serve a threshold of the source on the target, watch it, and calibrate again.

    Parameters
    ----------
    threshold : float
        Certified on the source at `risk`.
    reference : Scored
        Calibration traces of the source.
    calibration, test : Scored
        Traces of the target, scored by the source's probe.
    loss : Loss
        That the threshold was certified for.
    confidence : float
        Of the certificate that is made again, of this level alone.
    """
    again = certified(calibration, risk, confidence, loss)
    number, losses = len(test.table.trace_ids), losses_at(test, threshold, loss)
    audited = loss == AUDITED
    return Shift(
        source,
        target,
        bool(np.isfinite(threshold)),
        served(test, threshold, loss),
        delay(alarm(losses, risk), number) if audited else None,
        delay(change(losses, risk), number) if audited else None,
        delay(warning(reference.first, test.first), number),
        served(test, again, loss) if np.isfinite(again) else None,
        summarize(test.table.at(test.scores, np.inf)).oracle_saved,
    )
