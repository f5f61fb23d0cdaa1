"""How often promises are broken, and what keeping them costs.

    python benchmarks/calibrate_validity.py [EVIDENCE.parquet] [--repeats 500]

Calibration sets are drawn, with replacement, from populations whose risk is therefore known exactly: those of
`tests/validity`, or the recorded traces of an evidence file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lynxstop.calibration.evidence import read_evidence
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.calibration.units import as_units

METHODS = ("ltt", "ucb", "hoeffding_bentkus", "crc", "split", "lynx")


def compare(world: Any, risk: float, confidence: float, n: int, repeats: int) -> Iterator[str]:
    """Rows of one population: mean true risk, how often it is above the level, and savings."""
    for method in METHODS:
        found = []
        for seed in range(repeats):
            table = world.draw(n, seed)
            made = calibrate(
                table, CalibrationOptions(risks=[risk], confidence=confidence, method=method)
            ).certificates[0]
            found.append((world.risk(made.threshold), made.saved))
        risks, saved = np.array(found, dtype=float).T
        shares = (f"{risks.mean():.4f}", f"{(risks > risk).mean():.1%}", f"{saved.mean():.1%}")
        yield f"| {world.name} | {n} | {method} | {' | '.join(shares)} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--risk", type=float, default=0.1)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("evidence", nargs="?", type=Path)
    parser.add_argument("--worlds", nargs="+")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "validity"))
    from worlds import WORLDS, World

    if options.evidence is not None:
        units = as_units(read_evidence(options.evidence), "one", 0).table
        populations = [World("recorded", replace(units, losses=units.charged(1.0)))]
    else:
        populations = [WORLDS[name]() for name in options.worlds or WORLDS]
    print("| population | n | method | mean true risk | true risk above the level | tokens saved |")
    print("|---|---|---|---|---|---|")
    for world in populations:
        for n in options.sizes:
            for line in compare(world, options.risk, options.confidence, n, options.repeats):
                print(line, flush=True)


if __name__ == "__main__":
    main()
