"""Run all benchmarks, and write docs/benchmarks.md from what they print.

    python benchmarks/bench.py [--quick] [--runs 3] [--only NAME ...] [--json build/bench.json] [--page PAGE]

With --quick every benchmark runs small, to see that all of them work: its figures say little, and are written
to build/ unless a page is named. One benchmark runs at a time. With --only and --skip, the sections of the
others stay on the page as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from lynxstop_research.bench_page import Result, page, tables_of
from lynxstop_research.machine import machine

ROOT = Path(__file__).resolve().parents[1]


class Benchmark(NamedTuple):
    """A script, what it measures, how it is called, and with which variables (`NAME=VALUE`)."""

    title: str
    script: str
    about: str
    full: str = ""
    quick: str = ""
    variables: str = ""


BENCHMARKS = (
    Benchmark("Core", "core_step", "Cost of the core per token, without an engine.", "", "--tokens 5000"),
    Benchmark("Signals and rules", "signals_step", "Cost per thinking token.", "", "--tokens 1000"),
    Benchmark("Imports", "import_time", "Time beyond a bare interpreter."),
    Benchmark(
        "Loading a bundle", "bundle_load", "With all its checks.", "probes/reasoner", "probes/reasoner"
    ),
    Benchmark(
        "Certifying",
        "calibrate_scale",
        "Time and memory by the number of traces.",
        "",
        "--sizes 1000",
    ),
    Benchmark(
        "Re-splits of the shipped model",
        "resplits",
        "How often a certified risk is above its level on problems that were not calibrated on.",
        "",
        "--splits 5",
    ),
    Benchmark(
        "Transfer and shift",
        "shift",
        "What the shipped certificate is worth on longer problems and at other temperatures.",
        "--problems 100 --only conditions",
        "--problems 24 --only conditions",
    ),
    Benchmark(
        "Training a probe",
        "train_scale",
        "On wide features.",
        "",
        "--events 2000 --width 64",
    ),
    Benchmark(
        "A decoding step of transformers",
        "transformers_step",
        "Ratio of the time with lynxstop to that without, measured in pairs.",
        "",
        "--pairs 2 --batch 8",
    ),
    Benchmark(
        "The proxy",
        "proxy",
        "What it adds to a direct connection; all servers are asked at the same time.",
        "",
        "--streams 4 --events 20 --requests 50 --many 8",
    ),
    Benchmark(
        "Silence at saturation",
        "saturation",
        "Longest time without an event in a stream while a real vLLM is saturated: p50, p90, longest.",
        "",
        "--clients 3 --at-once 1",
    ),
    Benchmark(
        "Net savings",
        "savings",
        "Tokens that vLLM generates and computes, by its own counters; a step takes 20 ms.",
        "",
        "-n 4 --step 0.001",
    ),
    Benchmark(
        "A decoding step of vLLM",
        "vllm_step",
        "Ratio of the time with lynxstop to that without, measured in shuffled rounds.",
        "--batch 1 16 64",
        "--batch 1 --rounds 4",
        "OMP_NUM_THREADS=1",
    ),
)


def run(one: Benchmark, *, quick: bool, runs: int) -> Result:
    """Run a benchmark several times."""
    arguments = one.quick if quick else one.full
    command = f"{one.variables} python benchmarks/{one.script}.py {arguments}".strip()
    tables, seconds, load = [], [], os.getloadavg()[0]
    for _ in range(runs):
        begun = time.monotonic()
        words = [sys.executable, f"benchmarks/{one.script}.py", *shlex.split(arguments)]
        # Drawn tables are not to be cut to the width of a terminal.
        surroundings = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
        surroundings |= dict(pair.split("=", 1) for pair in shlex.split(one.variables))
        done = subprocess.run(words, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
        seconds.append(time.monotonic() - begun)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            failed = f"it ended with status {done.returncode}: {last}"
            return Result(one.title, one.about, command, (), seconds, how(load), failed)
        tables.append(tables_of(done.stdout))
    return Result(one.title, one.about, command, tables, seconds, how(load))


def how(load: float) -> str:
    """Date, machine, load before and after, and versions of what was measured."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    names = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "transformers"))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {machine()}, load {load:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after; lynxstop at {commit or 'no commit'}, "
        f"Python {platform.python_version()}, {names}."
    )


def main() -> None:
    """Run, write the data, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--runs", type=int, help="of each benchmark; 3 by default, 2 with --quick")
    names = [one.script for one in BENCHMARKS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="scripts, without .py")
    parser.add_argument("--skip", nargs="+", choices=names, metavar="NAME", default=[], help="the same")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json")
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    runs = options.runs or (2 if options.quick else 3)
    chosen = [
        one
        for one in BENCHMARKS
        if one.script not in options.skip and (options.only is None or one.script in options.only)
    ]
    results = []
    for one in chosen:
        print(one.script, end=" ", flush=True)
        results.append(run(one, quick=options.quick, runs=runs))
        print(results[-1].failed or f"{sum(results[-1].seconds):.0f} s", flush=True)
    target = options.page or (
        ROOT / "build" / "benchmarks.md" if options.quick else ROOT / "docs" / "benchmarks.md"
    )
    partial = len(chosen) < len(BENCHMARKS) and target.is_file()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"results": [asdict(one) for one in results]}, indent=1))
    target.write_text(page(results, target.read_text() if partial else ""))
    print(f"{target} and {options.json} are written.")
    sys.exit(any(one.failed for one in results))


if __name__ == "__main__":
    main()
