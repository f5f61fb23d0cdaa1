"""Put a rebuilt bundle where the shipped one lies, with its certificates and the scored held-out traces.

Run after `lynxstop demo --rebuild`:

    python scripts/ship_bundle.py out/rebuild
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from lynxstop.artifacts import atomic
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.card import card
from lynxstop.artifacts.recipe import Recipe
from lynxstop.artifacts.sums import SUMS, write_sums
from lynxstop.calibration.evidence import write_evidence
from lynxstop.calibration.traces import TraceTable
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.recording import record
from lynxstop.demo.rebuild import SEED
from lynxstop.recordings.problems import load_problems
from lynxstop.recordings.storage import Recording
from lynxstop.workflows.calibrate_bundle import measured, scored, write_bundle_sums

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "probes" / "reasoner"
EVIDENCE = ROOT / "calibration" / "reasoner"


def main(work: Path) -> None:
    """Ship what was built in `work`."""
    built = Bundle.load(work / "bundle")
    recipe = Recipe.load(BUNDLE / "recipe.toml")
    problems = load_problems(ROOT / "data" / "problems" / "test.jsonl")
    record(
        ROOT / "data" / "reasoner",
        problems,
        work / "test",
        recipe,
        CollectOptions(seed=SEED),
        console=Console(stderr=True),
    )
    pooled = [scored(built, Recording.open(work / name)) for name in ("calibration", "test")]

    for old in BUNDLE.iterdir():
        if old.name != "recipe.toml":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(built.path, BUNDLE, dirs_exist_ok=True)
    shutil.rmtree(EVIDENCE, ignore_errors=True)
    shutil.copytree(built.path / "certificates", EVIDENCE)
    write_evidence(join(pooled), EVIDENCE / "held-out.parquet")
    made = Bundle.load(BUNDLE)
    atomic.write_text(
        BUNDLE / "README.md", card(made.policy, made.training(), measured(made), license="apache-2.0")
    )
    write_bundle_sums(BUNDLE)
    write_sums(EVIDENCE, [path.name for path in EVIDENCE.iterdir() if path.name != SUMS])


def join(tables: list[TraceTable]) -> TraceTable:
    """Join tables of different problems."""
    tokens = [table.tokens for table in tables if table.tokens is not None]
    full = [table.full_tokens for table in tables if table.full_tokens is not None]
    prompts = [np.full(table.traces, "") if table.prompts is None else table.prompts for table in tables]
    return TraceTable.from_arrays(
        trace_ids=np.concatenate([table.trace_ids for table in tables]),
        problem_ids=np.concatenate([table.problem_ids for table in tables]),
        lengths=np.concatenate([table.lengths for table in tables]),
        scores=np.concatenate([table.scores for table in tables]),
        losses=np.concatenate([table.losses for table in tables]),
        tokens=np.concatenate(tokens),
        full_tokens=np.concatenate(full),
        prompts=np.concatenate(prompts),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
