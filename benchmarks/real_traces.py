"""Certify rules on a recording of a real model: Gemma-4-12B on GPQA-Diamond, with forced answer letters.

python benchmarks/real_traces.py FOLDER [--splits 50] [--certify-on 123] [--json]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lynxstop_research.real_traces import (
    Found,
    GenerousBudget,
    at_cuts,
    ending,
    oracle,
    read_letters,
    study,
)

FILE = "gemma4-12b-gpqa-diamond.parquet"


def measure(path: Path, splits: int, certify_on: int) -> dict[str, Any]:
    """All figures as plain data."""
    table = read_letters(path)
    found = study(table, splits=splits, certify_on=certify_on)
    fixed = {(one.loss, one.level): one for one in found if one.rule == GenerousBudget.name}
    return {
        "problems": len(table.trace_ids),
        "certified_on": certify_on,
        "splits": splits,
        "tokens": float(table.full_tokens.mean()),
        "full_right": float(table.full_right.mean()),
        "oracle": {loss: oracle(table, loss) for loss in dict.fromkeys(one.loss for one in found)},
        "ending": ending(path)._asdict(),
        "cuts": at_cuts(table),
        "rows": [row(one, fixed[one.loss, one.level]) for one in found],
    }


def row(one: Found, fixed: Found) -> dict[str, Any]:
    """One rule at one level."""
    shares = asdict(one)
    names = ("saved", "risk", "exits", "accuracy", "refused")
    return {
        "rule": one.rule,
        "loss": one.loss,
        "level": one.level,
        **{name: float(shares[name].mean()) for name in names},
        "saved_range": np.quantile(one.saved, [0.025, 0.975]).tolist(),
        "above": int((one.risk > one.level).sum()),
        "ahead": int((one.saved > fixed.saved).sum()),
    }


def render(found: dict[str, Any]) -> str:
    """The tables of docs/evidence.md."""
    lines = [
        f"{found['problems']} problems, {found['tokens']:,.0f} thinking tokens each; the letter after all of "
        f"them is right in {found['full_right']:.1%}.",
        f"{found['splits']} re-splits, {found['certified_on']} problems to certify on.",
    ]
    for loss in dict.fromkeys(one["loss"] for one in found["rows"]):
        rows = [one for one in found["rows"] if one["loss"] == loss]
        levels = list(dict.fromkeys(one["level"] for one in rows))
        listed = ", ".join(f"{level:.0%}" for level in levels)
        lines += [
            "",
            f"The oracle of `{loss}`, which exits at the first cut without that loss, saves "
            f"{found['oracle'][loss]:.1%}.",
            "",
            f"| `{loss}` certified at | {' | '.join(f'{level:.0%}' for level in levels)} "
            f"| above {listed} on the rest | more than `{GenerousBudget.name}` at {listed} |",
            "|---|" + "---|" * (len(levels) + 2),
        ]
        for rule in dict.fromkeys(one["rule"] for one in rows):
            lines.append(_line(rule, [one for one in rows if one["rule"] == rule]))
    lines += ["", "| forced at | differs from the end | harm | right |", "|---|---|---|---|"]
    lines += [
        f"| {cut['cut']:.0f}% | {cut['disagree']:.1%} | {cut['harm']:.1%} | {cut['right']:.1%} |"
        for cut in found["cuts"]
    ]
    ending = found["ending"]
    lines += [
        "",
        f"After a whole trace the letters have a median probability of {ending['mass']:.1%} together. Two "
        f"draws from the letters after the same trace differ in {ending['redrawn']:.1%}.",
    ]
    return "\n".join(lines)


def _line(rule: str, cells: list[dict[str, Any]]) -> str:
    saved = [_saved(one) for one in cells]
    above = ", ".join(str(one["above"]) for one in cells)
    ahead = "" if rule.startswith("budget") else ", ".join(str(one["ahead"]) for one in cells)
    return f"| `{rule}` | {' | '.join(saved)} | {above} | {ahead} |"


def _saved(one: dict[str, Any]) -> str:
    low, high = one["saved_range"]
    refused = f"; refused {one['refused']:.0%}" if one["refused"] else ""
    return f"{one['saved']:.1%} ({low:.1%} to {high:.1%}{refused})"


def main() -> None:
    """Print the tables, or why there are none."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--certify-on", type=int, default=123)
    parser.add_argument("--json", action="store_true", help="print plain data")
    options = parser.parse_args()
    if not (options.folder / FILE).is_file():
        print(f"Skipped: there is no {options.folder / FILE}; docs/evidence.md says where it comes from.")
        return
    found = measure(options.folder / FILE, options.splits, options.certify_on)
    print(json.dumps(found) if options.json else render(found))


if __name__ == "__main__":
    main()
