"""The report of a comparison: one page, one JSON object, one CSV table, each the same bytes every time."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from lynxstop.artifacts.plain import plain
from lynxstop.evaluate.compare import Comparison, Line
from lynxstop.report.page import COLOURS, INK, MUTED, Page, figure

SHOWN = (
    "rule", "needs", "certified", "bound", "accuracy", "disagree", "harm / help", "exits", "trials",
    "saved gross", "net", "of the oracle's", "below the best",
)  # fmt: skip
"""Headers of the table that people read."""


def cells(line: Line) -> list[str]:
    """Return a row as people read it, under `SHOWN`."""
    row = line.row
    share = f"{row['disagree'] / row['requests']:.1%}"
    less = row["behind_best"]
    return [
        row["rule"],
        row["needs"],
        "yes" if row["certified"] else "no",
        "-" if row["risk_bound"] is None else f"{row['risk_bound']:.1%}",
        "unknown" if row["accuracy_early"] is None else f"{row['accuracy_early']:.1%}",
        f"{row['disagree']} ({share})",
        f"{row['harm']} / {row['help']}",
        str(row["exits"]),
        f"{row['trials']:.1f}",
        f"{row['saved_gross']:.1%}",
        f"{row['saved_net']:.1%} [{row['saved_net_low']:.1%}, {row['saved_net_high']:.1%}]",
        f"{row['oracle_share']:.0%}",
        "-" if less is None else f"{less:.1%} [{row['behind_best_low']:.1%}, {row['behind_best_high']:.1%}]",
    ]


def ordered(found: Comparison) -> list[Line]:
    """Certified rules first, those that save most at the top."""
    return sorted(found.lines, key=lambda line: (not line.row["certified"], -line.row["saved_net"]))


def lead(found: Comparison) -> str:
    """Return the main sentence."""
    about, best = found.about, ordered(found)[0].row
    if not best["certified"]:
        return f"No rule could be certified at {100 * about['risk']:g}%."
    rivals = [line.row for line in ordered(found) if line.row["paper"] and line.row["certified"]]
    text = (
        f"At a certified {100 * about['risk']:g}% risk of {about['loss']} "
        f"(confidence {100 * about['confidence']:g}%), "
        f"{best['rule']} saves most: {best['saved_net']:.1%} of thinking tokens net, "
        f"{best['oracle_share']:.0%} of what the oracle saves."
    )
    if rivals and not best["paper"]:
        text += f" The best published rule, {rivals[0]['rule']}, saves {rivals[0]['saved_net']:.1%}."
    if sum(line.row["certified"] for line in found.lines) > 1:
        text += (
            " Each rule is certified on its own: the best of them has no promise until it is certified on "
            "other problems."
        )
    return text


def as_json(found: Comparison) -> str:
    """Return everything as JSON text."""
    content = {
        "about": found.about,
        "rules": [line.row | {"published": line.published, "curve": line.curve} for line in ordered(found)],
    }
    return json.dumps(plain(content), indent=1, sort_keys=True) + "\n"


def as_csv(found: Comparison) -> str:
    """Return the table as CSV; the rows of published constants carry `(published)` after the name."""
    text = io.StringIO()
    rows = [line.row for line in ordered(found)]
    rows += [
        {"rule": f"{line.row['rule']} (published)", "paper": line.row["paper"], "certified": False}
        | line.published
        for line in ordered(found)
        if line.published
    ]
    writer = csv.DictWriter(text, fieldnames=list(found.lines[0].row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_page(found: Comparison) -> str:
    """Return the HTML report."""
    about = found.about
    page = Page("Which rule saves most?", lead(found), footer=f"Data {about['data'][:16]}.")
    page.figures(_picture(found))
    page.section("What does each rule save at the certified level?")
    page.table(SHOWN, [cells(line) for line in ordered(found)])
    sizes = ", ".join(f"{count} for {name}" for name, count in about["problems"].items())
    page.text(
        f"Problems: {sizes}. Rules learn on the first part, are certified on the second, each on its own, "
        "and replayed on the third. Net tokens include all tokens of trial answers. Intervals: 95%, problems "
        "resampled, the same resamples for all rules. The oracle exits at the first cue whose answer agrees "
        f"with the full one and saves {about['oracle_saved']:.1%}; a rule that may disagree can save more.",
        note=True,
    )
    published = [line for line in ordered(found) if line.published]
    if published:
        page.section("With the constants of their papers, not certified")
        page.table(
            ("rule", "paper", "threshold", "disagree", "exits", "saved net"),
            [_published_cells(line, line.published or {}) for line in published],
        )
    return page.render()


def _published_cells(line: Line, row: dict[str, Any]) -> list[str]:
    return [
        line.row["rule"],
        line.row["paper"],
        f"{row['threshold']:.3g}",
        f"{row['disagree']} ({row['disagree'] / row['requests']:.1%})",
        str(row["exits"]),
        f"{row['saved_net']:.1%}",
    ]


def _picture(found: Comparison) -> str:
    graded = found.lines[0].row["accuracy_full"] is not None

    def height(row: dict[str, Any]) -> float:
        return float(row["accuracy_early"] if graded else 1 - row["disagree"] / row["requests"])

    def draw(axes: Any) -> None:
        for place, line in enumerate(ordered(found)):
            colour, row = (COLOURS[place] if place < len(COLOURS) else MUTED), line.row
            points = sorted((net, accuracy if graded else 1 - lost) for net, accuracy, lost in line.curve)
            axes.plot(
                *zip(*points, strict=True), color=colour, lw=1.2, alpha=0.8 if place < 5 else 0.35
            ) if points else None
            if row["certified"]:
                net = row["tokens_net"] / row["requests"]
                label = row["rule"] if place < len(COLOURS) else None
                axes.plot([net], [height(row)], "o", color=colour, ms=6 if label else 4, label=label)
        first = found.lines[0].row
        full = first["tokens_full"] / first["requests"]
        axes.plot([full], [first["accuracy_full"] if graded else 1.0], "s", color=INK, label="full thinking")
        axes.axvline(
            found.about["oracle_tokens"] / first["requests"], color=INK, lw=0.8, ls=":", label="oracle"
        )
        axes.set_xlabel("thinking and trial tokens per request")
        axes.set_ylabel("accuracy" if graded else "agreement with full thinking")

    return figure(
        f"Which rule keeps {'accuracy' if graded else 'agreement'} at the fewest tokens?",
        "One line per rule, over its thresholds; dots are the certified points. Up and left is better.",
        draw,
        size=(5.8, 4.4),
    )
