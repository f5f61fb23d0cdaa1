"""The page of `lynxstop study`: everything that was found about one model, beside what LYNX published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from scipy.stats import binomtest

from lynxstop._version import __version__
from lynxstop.report.certified import add_certified
from lynxstop.report.page import Page
from lynxstop_research.machine import machine
from lynxstop_research.shift import AUDITED, Delay
from lynxstop_research.study import Study
from lynxstop_research.study_speed import ROUNDS

PUBLISHED = (
    ("GSM8K", "40% to 65%", "equal or better"),
    ("MATH-500", "35% to 60%", "better by up to 12 points"),
    ("AIME 2024", "more than 50%", "equal"),
    ("CommonsenseQA, with a probe trained on maths only", "up to 70%", "a little better"),
)
"""Benchmark, fewer tokens, accuracy: from the abstract of arXiv 2512.05325."""


def study_page(found: Study, command: str) -> str:
    """Render a study as one HTML page.

    Parameters
    ----------
    found : Study
    command : str
        That makes it again.
    """
    made, options = found.made, found.options
    pooled = () if made is None else made.calibration.pooled
    lead = next((one.promise for one in pooled if not one.refused), "Nothing was certified.")
    page = Page(f"Study of {found.model}", lead, footer=f"lynxstop {__version__}.")
    page.section("How was it made?")
    page.code(command)
    rows = [
        ("problems", f"{found.problems:,} of {found.source}"),
        ("engine", options.collect.engine),
        ("requests at a time", options.collect.batch_size or "the engine's default"),
        ("machine", machine()),
        ("date", f"{datetime.now(UTC):%Y-%m-%d}"),
    ]
    page.table(("", ""), rows)
    for part, why in found.failed.items():
        page.text(f"Without {part}: {why}")
    if made is not None:
        add_certified(page, made)
    parts = (
        (_rules, found.rules),
        (_transfers, found.transfers),
        (_speed, found.speed),
        (_flips, found.flips),
    )
    for add, content in parts:
        if content:
            add(page, content)
    _published(page, found)
    return page.render()


def _rules(page: Page, found: Sequence[dict[str, Any]]) -> None:
    page.section("What do other rules save, certified on the same problems?")
    table: dict[str, list[str]] = {}
    for level in found:
        for row in level["rules"]:
            saved = f"{row['saved_net']:.1%} [{row['saved_net_low']:.1%}, {row['saved_net_high']:.1%}]"
            cell = f"{saved}, {row['disagree']} of {row['requests']} differ" if row["certified"] else "-"
            table.setdefault(row["rule"], []).append(cell)
    page.table(
        ("rule", *(f"{100 * level['risk']:g}%" for level in found)),
        ((name, *cells) for name, cells in table.items()),
    )
    about = found[0]["about"]
    sizes = ", ".join(f"{count} for {name}" for name, count in about["problems"].items())
    page.text(
        f"Thinking tokens saved, those of trial answers charged; a dash where nothing could be certified. "
        f"Problems: {sizes}. Each rule is certified on its own, and at each level: the best of a column has "
        "no promise. "
        f"Intervals: 95%, problems resampled. The oracle saves {about['oracle_saved']:.1%}.",
        note=True,
    )


def _transfers(page: Page, found: Sequence[dict[str, Any]]) -> None:
    page.section("What is left of the certificate on other problems?")
    page.table(
        (
            "level",
            "served on",
            "risk",
            "saved",
            "oracle",
            "alarm after audits",
            "change after audits",
            "warning after requests",
            "calibrated again: risk",
            "saved",
        ),
        [
            (
                f"{100 * row['risk']:g}%",
                row["target"],
                _risk(row["served"]),
                f"{row['served']['saved']:.1%}",
                f"{row['oracle']:.1%}",
                _delay(row["alarm"]),
                _delay(row["change"]),
                _delay(row["warning"]),
                _risk(row["repaired"]),
                "" if row["repaired"] is None else f"{row['repaired']['saved']:.1%}",
            )
            for row in found
        ],
    )
    sources = "; ".join(dict.fromkeys(row["suite"] for row in found))
    page.text(
        f"Certified on {found[0]['source']}. Risks are of the loss {found[0]['loss']}, with exact 95% "
        "intervals, each for one row alone; audits and requests are medians over orders of the same "
        "requests. Each level is calibrated again on its own. Problems that are in both are left out. Audits "
        f"measure the loss {AUDITED.name} only. A change is a warning unless the monitor is told to stop "
        "on it. "
        f"Problems: {sources}.",
        note=True,
    )


def _risk(one: dict[str, Any] | None) -> str:
    return "refused" if one is None else f"{one['risk']:.1%} ({one['low']:.1%} to {one['high']:.1%})"


def _delay(one: dict[str, Any] | None) -> str:
    return "-" if one is None else str(Delay(**one))


def _speed(page: Page, found: Sequence[dict[str, Any]]) -> None:
    page.section("How fast is it?")
    page.table(
        (
            "",
            "requests/s",
            "against full",
            "thinking tokens",
            "all tokens",
            "accuracy",
            "answers that differ",
        ),
        [
            (
                row["setting"],
                f"{row['requests_per_second']:.2f}",
                _ratio(row),
                f"{row['thinking']:.0f}",
                f"{row['generated']:.0f}",
                "unknown" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
                _count(row["disagree"], row["requests"]),
            )
            for row in found
        ],
    )
    page.text(
        f"{found[0]['requests']} requests at a fixed concurrency, {ROUNDS} times; ratios with the range of "
        "the rounds; tokens per request; answers that differ with exact 95% intervals. All "
        "settings draw the same random numbers, except for one that says so: how often two full answers to "
        "one request differ, and how much the speed differs by itself. A certified budget stops at the first "
        "decision point after a number of thinking tokens, and is certified at the same levels, by a "
        "certificate of its own. A budget of a "
        "number of tokens is the one under which the calibration traces think as many as at a certified "
        "level, or a half and a quarter of the longest where there is none; its risk is whatever it is. "
        "Budgets take turns with full thinking in engines of their own, and are compared with that.",
        note=True,
    )


def _count(share: float, requests: int) -> str:
    count = round(share * requests)
    low, high = binomtest(count, requests).proportion_ci()
    return f"{count} of {requests} ({low:.1%} to {high:.1%})"


def _ratio(row: dict[str, Any]) -> str:
    low, high = row["against_full_low"], row["against_full_high"]
    return f"{row['against_full']:.2f} ({low:.2f} to {high:.2f})"


def _flips(page: Page, found: Sequence[dict[str, Any]]) -> None:
    page.section("Do decisions depend on the batch or the engine?")
    page.table(
        ("", "texts that part", "decisions on the same text", "flipped", "other exits", "scores differ by"),
        [
            (
                f"{row['engine']}, {row['batch'] or 'default'} at a time",
                f"{row['parted']} of {row['requests']}",
                f"{row['decisions']:,}",
                _levels(row["flipped"].items()),
                _levels(row["exits"].items()),
                "-" if row["largest"] is None else f"{row['largest']:.2g}",
            )
            for row in found
        ],
    )
    engine, batch = found[0]["against"]
    page.text(
        f"Compared with {engine}, {batch or 'default'} at a time, on the same requests and random numbers. A "
        "decision is flipped when the text up to it is the same, and its score on the other side. Decisions "
        "of one request are not independent: no flip in n requests leaves up to about 3 / n of requests "
        "possible.",
        note=True,
    )


def _levels(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count} at {100 * float(level):g}%" for level, count in counts) or "no level"


def _published(page: Page, found: Study) -> None:
    page.section("What did LYNX publish?")
    ours = [
        (
            f"{found.suite}, this model, certified at {100 * row['risk']:g}%",
            f"{row['saved']:.1%}",
            "unknown"
            if row["accuracy_full"] is None
            else f"{row['accuracy_full']:.1%} to {row['accuracy_early']:.1%}",
        )
        for row in ([] if found.made is None else found.made.held_out)
    ]
    page.table(("benchmark", "fewer tokens", "accuracy"), [*ours, *PUBLISHED])
    page.text(
        "This model's rows are its held-out problems, from above. The others are from the abstract of arXiv "
        "2512.05325: R1-Distill-Qwen-1.5B, Llama-3.1-Nemotron-8B and QwQ-32B, recorded traces replayed, a "
        "bound per cue. Other models and problems than above, so not to be compared number by number.",
        note=True,
    )
