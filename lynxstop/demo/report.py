"""The demo's HTML report: the risk curve, accuracy against tokens, one trace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lynxstop.artifacts import atomic
from lynxstop.artifacts.bundle import Bundle
from lynxstop.calibration.certificate import Certificate
from lynxstop.demo.run import Demonstration
from lynxstop.report.labels import label_points
from lynxstop.report.page import COLOURS, INK, MUTED, Page, figure

_POINTS = 120


def write_report(path: Path, seen: Demonstration, bundle: Bundle, found: dict[str, Any]) -> Path:
    """Write the page; `found` is the summary made by `lynxstop.demo.result.result`."""
    levels = [level for level in bundle.policy.pooled if np.isfinite(level.threshold)]
    certificates = [Certificate.load(bundle.path / level.certificate) for level in levels]
    page = Page(
        title="lynxstop: full thinking against early exit",
        lead=found["promise"],
        footer="Every token was generated live by the shipped model. `lynxstop demo` writes this page.",
    )
    page.section("What did it save, and what did it cost?")
    page.table(("", "full thinking", "early exit"), _rows(found))
    page.section("What would other thresholds do?")
    page.figures(_accuracy(seen, certificates), _risk(seen, certificates))
    page.section("Where does it save?")
    page.table(("problems", "n", "accuracy full", "early", "saved", "differ"), _groups(seen))
    atomic.write_text(path, page.render())
    return path


def _rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        ("accuracy", f"{found['accuracy_full']:.1%}", f"{found['accuracy_early']:.1%}"),
        ("thinking tokens", f"{found['thinking_tokens_full']:,}", f"{found['thinking_tokens_early']:,}"),
        ("thinking tokens saved", "", f"{found['saved']:.1%} (oracle {found['oracle_saved']:.1%})"),
        ("stopped early", "", f"{found['exits']} of {found['n_problems']}"),
        (
            "answers that differ",
            "",
            f"{found['disagree']} of {found['n_problems']}, certified at most {found['certified_risk']:.1%}",
        ),
        ("right answers lost, wrong ones mended", "", f"{found['harm']}, {found['help']}"),
        ("wall-clock", f"{found['seconds_full']:.1f} s", f"{found['seconds_early']:.1f} s"),
    ]


def _replayed(seen: Demonstration, threshold: float) -> tuple[float, float, float]:
    """Thinking tokens per problem, accuracy and share of differing answers at a threshold."""
    done = seen.exits.at(seen.scores, threshold)
    return float(done.gross.mean()), float((done.right_early == 1).mean()), float(done.disagree.mean())


def _thresholds(seen: Demonstration) -> list[float]:
    inner = np.quantile(seen.scores, np.linspace(0, 1, _POINTS)) if len(seen.scores) else np.empty(0)
    return [-np.inf, *inner.tolist(), np.inf]


def _accuracy(seen: Demonstration, certificates: Sequence[Certificate]) -> str:
    curve = np.array([_replayed(seen, threshold) for threshold in _thresholds(seen)])
    full, oracle = float(seen.outcomes.full.mean()), float(seen.outcomes.oracle.mean())
    accuracy = float((seen.outcomes.right_full == 1).mean())

    def draw(axes: Any) -> None:
        places = []
        axes.plot(curve[:, 0], curve[:, 1], color=COLOURS[0], label="probe, any threshold")
        axes.plot(full, accuracy, "s", color=INK, label="full thinking")
        axes.plot(oracle, accuracy, "*", color=COLOURS[2], ms=11, label="oracle")
        for certificate in certificates:
            tokens, right, _ = _replayed(seen, certificate.threshold)
            axes.plot(tokens, right, "o", color=COLOURS[1])
            places.append((tokens, right))
        axes.set_xlim(left=0)
        axes.set_xlabel("thinking tokens per problem")
        axes.set_ylabel("accuracy")
        label_points(axes, places, [f"{certificate.risk:.0%}" for certificate in certificates], curve[:, :2])

    return figure(
        "How many tokens does what accuracy take?",
        "Points are the certified levels, on these problems.",
        draw,
    )


def _risk(seen: Demonstration, certificates: Sequence[Certificate]) -> str:
    thresholds = [value for value in _thresholds(seen) if np.isfinite(value)]
    observed = [_replayed(seen, threshold)[2] for threshold in thresholds]

    def draw(axes: Any) -> None:
        axes.step(thresholds, observed, where="post", color=COLOURS[0], label="observed on these problems")
        for certificate in certificates:
            axes.axhline(certificate.risk, color=MUTED, lw=0.8, ls="--")
            axes.plot(certificate.threshold, certificate.risk, "o", color=COLOURS[1])
        axes.set_ylim(0, 1.6 * max(certificate.risk for certificate in certificates))
        axes.invert_xaxis()
        axes.set_xlabel("threshold, strict to lenient")
        axes.set_ylabel("answers that differ, per request")

    return figure(
        "Do more answers differ than was promised?",
        "Certified levels (dashed) and their thresholds (points): the curve should pass below the points.",
        draw,
    )


def _groups(seen: Demonstration) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    done = seen.outcomes
    keys = [
        (str(p.metadata.get("family", "all")), str(p.metadata.get("difficulty", ""))) for p in seen.problems
    ]
    for key in sorted(set(keys)):
        own = np.array([other == key for other in keys], bool)
        rows.append(
            (
                " ".join(key),
                int(own.sum()),
                f"{(done.right_full[own] == 1).mean():.1%}",
                f"{(done.right_early[own] == 1).mean():.1%}",
                f"{1 - done.gross[own].sum() / done.full[own].sum():.1%}",
                int(done.disagree[own].sum()),
            )
        )
    return rows
