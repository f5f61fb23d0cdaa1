"""The page of a learning curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lynxstop._version import __version__
from lynxstop.report.page import COLOURS, Page, figure
from lynxstop.workflows.learning_curve import LearningCurve, Size, Spread


def learning_report(curve: LearningCurve) -> str:
    """Render a learning curve as one HTML page."""
    page = Page(
        title="Learning curve",
        lead=curve.advice,
        footer=f"lynxstop {__version__}. {curve.repeats} draws, {curve.test_problems} test problems each.",
    )
    page.figures(
        _figure(
            curve,
            "Does the probe get better?",
            "AUC of the probe on problems that it has not seen.",
            "AUC",
            lambda size: size.auc,
        ),
        _figure(
            curve,
            "Do more problems save more?",
            f"Share of thinking tokens saved at the threshold certified for {curve.loss} at most "
            f"{curve.level:g} at {100 * curve.confidence:g}% confidence; 0 where none was found.",
            "share of tokens saved",
            lambda size: size.saved,
        ),
    )
    page.text("Bands hold the middle 90% of the draws, which share problems.", note=True)
    page.section("What did each size bring?")
    page.table(
        ("problems", "traces", "AUC", "saved", "gain", "risk on test", "certified in"),
        [
            (
                f"{size.problems:,}",
                f"{size.traces:,}",
                f"{size.auc.mean:.3f} ({size.auc.low:.3f} to {size.auc.high:.3f})",
                f"{size.saved.mean:.1%} ({size.saved.low:.1%} to {size.saved.high:.1%})",
                "" if size.gain is None else f"{size.gain.mean:+.1%}",
                f"{size.risk.mean:.2%}",
                f"{size.certified:.0%}",
            )
            for size in curve.sizes
        ],
    )
    return page.render()


def _figure(curve: LearningCurve, title: str, caption: str, what: str, of: Callable[[Size], Spread]) -> str:
    sizes = [size.problems for size in curve.sizes]
    spreads = [of(size) for size in curve.sizes]

    def draw(axes: Any) -> None:
        low, high = [spread.low for spread in spreads], [spread.high for spread in spreads]
        axes.fill_between(sizes, low, high, color=COLOURS[0], alpha=0.2, lw=0)
        axes.plot(sizes, [spread.mean for spread in spreads], "o-", color=COLOURS[0])
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("problems to train and calibrate on")
        axes.set_ylabel(what)

    return figure(title, caption, draw)
