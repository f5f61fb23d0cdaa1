"""How often promises are broken, and what keeping them costs.

    python benchmarks/calibrate_validity.py [--repeats 500]
    python benchmarks/calibrate_validity.py --bundle BUNDLE --data DATA [--repeats 200]

The first form draws calibration sets from populations of known risk (those of `tests/validity`). The second
splits recorded traces of a bundle into halves, by problem, calibrates on one and counts on the other; what is
compared with the level is then an estimate, which lies above it more often than the true risk does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lynxstop.calibration import TraceTable, calibrate
from lynxstop.calibration.certify import case_for

METHODS = ("ltt", "ucb", "hoeffding_bentkus", "crc", "split", "lynx")


def populations(risk: float, confidence: float, sizes: list[int], repeats: int) -> Iterator[str]:
    """Rows of known worlds: mean true risk, broken promises and savings of every method."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "validity"))
    from worlds import WORLDS

    yield "| population | n | method | mean true risk | risk above the level | tokens saved |"
    yield "|---|---|---|---|---|---|"
    for name, make in WORLDS.items():
        world = make()
        for n in sizes:
            for method in METHODS:
                found = []
                for seed in range(repeats):
                    table = world.draw(n, seed)
                    made = calibrate(table, risks=[risk], confidence=confidence, method=method).certificates[
                        0
                    ]
                    found.append((world.risk(made.threshold), made.saved))
                risks, saved = np.array(found, dtype=float).T
                yield row(name, n, method, risks, saved, risk)


def resplits(table: TraceTable, risk: float, confidence: float, repeats: int) -> Iterator[str]:
    """Rows of recorded traces: every method on random halves of the problems."""
    yield "| n | method | mean risk of the other half | above the level | tokens saved |"
    yield "|---|---|---|---|---|"
    problems = np.unique(table.problem_ids)
    for method in METHODS:
        found = []
        for seed in range(repeats):
            drawn = np.random.default_rng(seed).permutation(problems)[: len(problems) // 2]
            inside = np.isin(table.problem_ids, drawn)
            options = {"risks": [risk], "confidence": confidence, "method": method, "seed": seed}
            made = calibrate(table.select(inside), **options).certificates[0]
            other = case_for(table.select(~inside), made).at(np.array([made.threshold], np.float32))
            found.append((other.losses[0] / other.units, made.saved))
        risks, saved = np.array(found, dtype=float).T
        yield row("", len(drawn), method, risks, saved, risk)[3:]


def row(name: str, n: int, method: str, risks: np.ndarray, saved: np.ndarray, level: float) -> str:
    """One line of a Markdown table."""
    cells = (
        name,
        str(n),
        method,
        f"{risks.mean():.4f}",
        f"{(risks > level).mean():.1%}",
        f"{saved.mean():.1%}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--risk", type=float, default=0.1)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    if options.bundle is None:
        rows = populations(options.risk, options.confidence, options.sizes, options.repeats)
    else:
        from lynxstop.artifacts.bundle import Bundle
        from lynxstop.calibration.bundles import scored
        from lynxstop.collect.storage import DataSet

        table = scored(Bundle.load(options.bundle), DataSet.open(options.data))
        rows = resplits(table, options.risk, options.confidence, options.repeats)
    for line in rows:
        print(line, flush=True)


if __name__ == "__main__":
    main()
