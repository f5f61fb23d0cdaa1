"""The report of a calibration: what was certified, and the curves it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.bounds import clopper_pearson_upper
from lynxstop.calibration.case import Case
from lynxstop.calibration.certificate import Certificate
from lynxstop.calibration.certify import case_for
from lynxstop.calibration.losses import table_loss
from lynxstop.calibration.plan import advice
from lynxstop.calibration.run import Calibration
from lynxstop.calibration.subgroups import MIX, table_of
from lynxstop.calibration.sweep import Curve
from lynxstop.report.labels import label_points
from lynxstop.report.page import COLOURS, MUTED, Page, figure

_POINTS = 400
_BINS = 12


def calibration_report(calibration: Calibration, *further: Calibration, logits: bool = False) -> str:
    """Render a calibration as one HTML page.

    Parameters
    ----------
    calibration, further : Calibration
        One for each certified sampling.
    logits : bool
        Whether scores are logits of a right answer, so that the logistic curve is what to compare them with.
    """
    pooled = calibration.pooled
    first = pooled[0]
    page = Page(
        title=f"Calibration: {first.loss} by {first.method}",
        lead=next((one.promise for one in pooled if not one.refused), first.promise),
        footer=f"lynxstop {first.lynxstop}. Evidence {first.evidence_sha256[:16]}. Every number can be "
        "recomputed with `lynxstop verify`.",
    )
    for one in (calibration, *further):
        add_calibration(page, one, logits=logits)
    return page.render()


def add_calibration(page: Page, calibration: Calibration, *, logits: bool = False) -> None:
    """Add levels, curves and what they rest on; `logits` as in `calibration_report`."""
    first = calibration.pooled[0]
    page.text(first.not_promised, note=True)
    page.section(f"What is promised at {first.at or 'which level'}?")
    page.table(
        ("group", "risk", "threshold", "losses", "upper limit", "exits", "tokens saved"),
        [_row(certificate) for certificate in calibration.certificates],
    )
    for certificate in calibration.refused:
        page.text(f"{certificate.promise} {advice(certificate.missing)}")
    if first.unknown:
        page.text(
            f"{first.unknown} of {first.cues} exit answers could not be judged; each counts as a loss of "
            f"{first.settings.unknown_loss:g}.",
            note=True,
        )
    head, rows = table_of(calibration.pooled)
    if rows:
        page.section("Which subgroups lose more?")
        page.table(head, rows)
        page.text(MIX, note=True)
    case, pooled = case_for(calibration.evidence, first), calibration.pooled
    curve = thinned(case)
    page.figures(
        risk_figure(curve, pooled),
        *([] if first.saved is None else [_savings(case, curve, pooled)]),
        _reliability(case, logits),
        _positions(case, pooled),
    )
    page.section("What does it rest on?")
    page.table(
        ("", ""),
        [
            ("problems", first.problems),
            ("traces", first.traces),
            ("cues", first.cues),
            ("confidence", f"{first.confidence:g}"),
            ("promises that hold together", first.settings.tests),
            ("several samples of a problem", first.settings.samples),
            ("thresholds", "training split" if first.settings.grid else "every float32 number"),
            ("date", f"{first.created:%Y-%m-%d}"),
            *([("expires", f"{first.expires:%Y-%m-%d}")] if first.expires else []),
        ],
    )


def _row(certificate: Certificate) -> tuple[object, ...]:
    return (
        certificate.group.value if certificate.group else "all",
        f"{certificate.risk:g}",
        "never exit" if certificate.refused else f"{certificate.threshold:.6g}",
        f"{certificate.losses:g}/{certificate.n}",
        "" if certificate.bound is None else f"{certificate.bound:.4f}",
        f"{certificate.exits / certificate.problems:.1%}",
        "" if certificate.saved is None else f"{certificate.saved:.1%}",
    )


def thinned(case: Case) -> Curve:
    """Return a curve of a few hundred of the thresholds, to draw."""
    thresholds = case.fine.thresholds
    keep = np.unique(np.linspace(0, len(thresholds) - 1, _POINTS).astype(int))
    return case.at(thresholds[keep])


def risk_figure(curve: Curve, pooled: Sequence[Certificate]) -> str:
    """Draw risk against threshold, with the certified levels."""
    first = pooled[0]
    selective = table_loss(first.loss).selective
    of = np.maximum(curve.exits, 1.0) if selective else np.full(len(curve.losses), float(curve.units))
    risk = curve.losses / of
    limit = clopper_pearson_upper(np.ceil(curve.losses), of, first.delta)

    def draw(axes: Any) -> None:
        axes.step(curve.thresholds, risk, where="post", color=COLOURS[0], label="observed")
        axes.step(
            curve.thresholds, limit, where="post", color=COLOURS[0], lw=0.9, ls=":", label="upper limit"
        )
        for certificate in pooled:
            axes.axhline(certificate.risk, color=MUTED, lw=0.8, ls="--")
            if not certificate.refused:
                axes.plot(certificate.threshold, certificate.risk, "o", color=COLOURS[1])
        axes.set_ylim(0, 1.6 * max(certificate.risk for certificate in pooled))
        axes.invert_xaxis()
        axes.set_xlabel("threshold, strict to lenient")
        axes.set_ylabel("risk per exit" if selective else "risk per request")

    return figure(
        "What does a lower threshold risk?",
        "Observed risk, its exact upper limit at each threshold alone, levels and chosen thresholds.",
        draw,
    )


def _savings(case: Case, curve: Curve, pooled: Sequence[Certificate]) -> str:
    full = case.units.table.full_tokens
    assert full is not None
    total = float((full * case.units.weights).sum()) or 1.0

    def draw(axes: Any) -> None:
        places: list[tuple[float, float]] = []
        texts: list[str] = []
        axes.plot(curve.losses / curve.units, curve.saved / total, color=COLOURS[2])
        for certificate in pooled:
            if not certificate.refused and certificate.saved is not None:
                places.append((certificate.observed / curve.units, certificate.saved))
                texts.append(f"{100 * certificate.risk:g}%")
                axes.plot(*places[-1], "o", color=COLOURS[1])
        axes.set_xlabel("observed risk per request")
        axes.set_ylabel("share of thinking tokens saved")
        axes.set_ylim(0, 1)
        corners = np.stack([curve.losses / curve.units, curve.saved / total], axis=1)
        label_points(axes, places, texts, corners)

    return figure(
        "How much does a risk save?", "What a higher risk buys; points are the certified levels.", draw
    )


def _reliability(case: Case, logits: bool) -> str:
    scores, good = case.units.table.scores.astype(np.float64), 1.0 - case.losses
    order = np.argsort(scores)
    parts = [part for part in np.array_split(order, _BINS) if len(part)]
    centre = np.array([scores[part].mean() for part in parts])
    share = np.array([good[part].mean() for part in parts])
    spread = np.array([1.96 * good[part].std() / np.sqrt(len(part)) for part in parts])

    def draw(axes: Any) -> None:
        axes.errorbar(centre, share, spread, fmt="o", ms=4, color=COLOURS[0], label="observed")
        if logits and len(centre):
            line = np.linspace(centre.min(), centre.max(), 100)
            axes.plot(line, 1.0 / (1.0 + np.exp(-line)), color=MUTED, ls="--", label="as the score says")
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("score of a cue")
        axes.set_ylabel("share of good exit answers")

    return figure(
        "Is a high score a good answer?",
        "Cues in groups of equal size by score. A certificate holds whether or not the score is reliable.",
        draw,
    )


def _positions(case: Case, pooled: Sequence[Certificate]) -> str:
    table = case.units.table
    bins = np.linspace(0, 1, 21)

    def draw(axes: Any) -> None:
        for colour, certificate in zip(COLOURS * len(pooled), pooled, strict=False):
            if certificate.refused:
                continue
            where = _exit_share(case, certificate.threshold)
            counts, _ = np.histogram(where, bins)
            axes.stairs(counts / table.traces, bins, color=colour, label=f"{certificate.risk:g}")
        axes.set_xlabel("share of the trace before the exit")
        axes.set_ylabel("share of requests")
        axes.set_xlim(0, 1)

    return figure("Where do requests stop?", "Share of their full trace, by level.", draw, legend="risk")


def _exit_share(case: Case, threshold: float) -> NDArray[np.float64]:
    """Share of its full trace that each exiting trace has used: of tokens if known, else of cues."""
    table, found = case.units.table, case.steps
    at = (found.low <= np.float32(threshold)) & (np.float32(threshold) < found.high)
    event, trace = found.event[at], found.trace[at]
    if table.tokens is not None and table.full_tokens is not None:
        share: NDArray[np.float64] = table.tokens[event] / np.maximum(table.full_tokens[trace], 1)
        return share
    ordinal: NDArray[np.float64] = (event - table.offsets[trace] + 1) / table.lengths[trace]
    return ordinal
