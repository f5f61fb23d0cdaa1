"""What loading a bundle takes, with all its checks: in a running process, and in a fresh interpreter.

    python benchmarks/bundle_load.py [BUNDLE]

Processor time is shown beside the wall-clock: it does not depend on what else the machine does.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from lynxstop import shipped

RUNS = 15
CHILD = """
import json, sys, time
marks = [(time.perf_counter(), time.process_time())]
def mark():
    marks.append((time.perf_counter(), time.process_time()))
import numpy
mark()
import pydantic; pydantic.BaseModel
mark()
from pathlib import Path
from lynxstop.artifacts.bundle import Bundle
mark()
path = Path(sys.argv[1])
Bundle.load(path)
mark()
for _ in range(50):
    Bundle.load(path)
mark()
assert not {"torch", "transformers", "sklearn", "scipy", "pyarrow"} & set(sys.modules)
print(json.dumps(marks))
"""
ROWS = (
    ("import numpy", 1),
    ("import pydantic", 1),
    ("import lynxstop's bundles, build the models", 1),
    ("first load", 1),
    ("load in a running process", 50),
)


def main(bundle: Path) -> None:
    """Print the table."""
    runs = []
    for _ in range(RUNS):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(bundle)], check=True, capture_output=True, text=True
        )
        runs.append(json.loads(done.stdout))
    print(f"{bundle.name}, medians of {RUNS} interpreters{'wall':>12}{'processor':>12}")
    totals = [0.0, 0.0]
    for row, (name, times) in enumerate(ROWS):
        taken = [
            statistics.median(1000 * (marks[row + 1][clock] - marks[row][clock]) / times for marks in runs)
            for clock in (0, 1)
        ]
        print(f"{name:44}{taken[0]:9.1f} ms{taken[1]:9.1f} ms")
        if times == 1:
            totals = [total + own for total, own in zip(totals, taken, strict=True)]
    print(f"{'fresh interpreter, all of it':44}{totals[0]:9.1f} ms{totals[1]:9.1f} ms")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else shipped.BUNDLE)
