"""Re-split real recorded traces many times: how often does the certified risk fail on the rest?

python benchmarks/resplits.py [EVIDENCE.parquet] [--splits 200] [--calibrate-on 1000] [--tilt 0.45]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.calibration.evidence import read_evidence
from lynxstop.calibration.grid import quantile_grid
from lynxstop.calibration.methods import method_named
from lynxstop.core.rule import tilted
from lynxstop_research.resplits import resplit

EVIDENCE = Path(__file__).resolve().parents[1] / "calibration" / "reasoner" / "held-out.parquet"


def _over(shares: NDArray[np.float64], form: str) -> str:
    """Mean over the splits, and the range of the middle 95% of them."""
    low, high = np.quantile(shares, [0.025, 0.975])
    return f"{shares.mean():{form}} ({low:{form}} to {high:{form}})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evidence", nargs="?", type=Path, default=EVIDENCE)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--calibrate-on", type=int, default=1000)
    parser.add_argument("--tilt", type=float, default=0.0, help="tilt the scores (further) by this")
    parser.add_argument("--methods", default="ltt,ucb,holm,crc,lynx")
    parser.add_argument("--risks", default="0.02,0.05,0.1")
    arguments = parser.parse_args()
    table = read_evidence(arguments.evidence)
    cue = np.arange(len(table.scores)) - table.offsets[table.owners]
    table = replace(table, scores=tilted(table.scores, cue, arguments.tilt))
    fixed = quantile_grid(Bundle.load(shipped.BUNDLE).training_scores().scores)
    print("| method | risk level | violations | p (rate > 5%) | mean risk | exits | saved | refused |")
    print("|---|---|---|---|---|---|---|---|")
    for method in arguments.methods.split(","):
        grid = fixed if method_named(method).needs == "grid" else None
        for alpha in map(float, arguments.risks.split(",")):
            found = resplit(
                table,
                alpha=alpha,
                method=method,
                grid=grid,
                splits=arguments.splits,
                calibrate_on=arguments.calibrate_on,
            )
            test = binomtest(found.violations, arguments.splits, 0.05, alternative="greater")
            print(
                f"| {method} | {alpha:.0%} | {found.violations}/{arguments.splits} | {test.pvalue:.3f} "
                f"| {_over(found.risk, '.4f')} | {_over(found.exits, '.1%')} | {_over(found.saved, '.1%')} "
                f"| {int(found.refused.sum())} |"
            )


if __name__ == "__main__":
    main()
