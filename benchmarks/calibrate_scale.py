"""How time and memory of calibration grow with the number of traces.

    python benchmarks/calibrate_scale.py [--cues 30] [--sizes 1000 10000 100000]

Each size runs in its own process: write a score table as Parquet, then read it, certify four levels,
write and verify the evidence. Prints one Markdown row per size.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lynxstop.calibration.evidence import read_evidence, write_evidence
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.calibration.tables import read_table
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.verify import differences

RISKS = (0.01, 0.02, 0.05, 0.1)


def simulated(traces: int, cues: int, seed: int = 0) -> TraceTable:
    """Make dependent cues with a trace effect; every trace has `cues` of them."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(traces), cues)
    ability = rng.normal(1.0, 1.0, traces)[owner]
    wrong = rng.random(len(owner)) < 1.0 / (1.0 + np.exp(2.0 + ability))
    scores = ability + 1.5 * (1.0 - 2.0 * wrong) + rng.normal(size=len(owner))
    return TraceTable.from_arrays(
        problem_ids=[f"problem-{i:07d}" for i in range(traces)],
        lengths=np.full(traces, cues),
        scores=scores,
        losses=wrong,
        tokens=np.tile(np.arange(1, cues + 1), traces) * 50,
        full_tokens=np.full(traces, 60 * cues),
    )


def measure(path: Path) -> str:
    """Time the phases on the table at `path`."""
    marks = [time.perf_counter()]
    table = read_table(path)
    marks.append(time.perf_counter())
    result = calibrate(table, CalibrationOptions(risks=RISKS))
    marks.append(time.perf_counter())
    evidence = path.with_name("evidence.parquet")
    write_evidence(table, evidence)
    again = read_evidence(evidence)
    assert not [found for certificate in result.certificates for found in differences(certificate, again)]
    marks.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    read, certify, verify = np.diff(marks)
    cells = (
        f"{table.traces:,}",
        f"{len(table.scores):,}",
        *(f"{x:.2f}" for x in (read, certify, verify, peak)),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run all sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cues", type=int, default=30)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(measure(options.measure))
        return
    print("| traces | cues | read, s | certify 4 levels, s | write and verify, s | peak memory, GiB |")
    print("|---|---|---|---|---|---|")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.parquet"
            write_evidence(simulated(size, options.cues), path)
            sys.stdout.flush()
            subprocess.run([sys.executable, __file__, "--measure", str(path)], check=True)


if __name__ == "__main__":
    main()
