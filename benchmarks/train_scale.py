"""Time and memory of training a probe on wide features.

    python benchmarks/train_scale.py [--events 100000] [--width 4096] [--layers 1 4] [--backend torch]

The features are synthetic: a recorded data set of the given size is made of noise in which two directions
know the answer, and mapped from disk like any other. What is measured is all that `lynxstop train` does
before it writes the bundle: reading, layers and penalty by cross-validation over whole problems, out-of-fold
scores, the final fit and the rivals. Training runs in a process of its own; its peak memory includes what is
mapped from the file. CPU seconds and the load are shown because other work on the machine lengthens the wall
time.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file

from lynxstop.artifacts.card import RIVALS
from lynxstop.probes.train import train
from lynxstop.recordings.content import InMemory
from lynxstop.recordings.schema import Meta
from lynxstop.recordings.storage import Recording

CUES = 10


def write(path: Path, events: int, width: int) -> None:
    """Write features in which 64 hidden causes move all columns, and two of them the answer."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((events, width), dtype=np.float32)
    truth = np.empty(events, np.uint8)
    mix = 0.5 * rng.standard_normal((64, width), dtype=np.float32)
    for start in range(0, events, 8192):
        block = features[start : start + 8192]
        causes = rng.standard_normal((len(block), 64), dtype=np.float32)
        block += causes @ mix
        chance = 1 / (1 + np.exp(-3 * causes[:, 0] - 1.5 * causes[:, 1] - 1))
        truth[start : start + len(block)] = rng.random(len(block)) < chance
    save_file({"features": features, "truth": truth}, path)


def recorded(path: Path, layers: int) -> Recording:
    """Open it as a data set, with mapped features."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        truth = file.get_tensor("truth").astype(bool)
        events, width = file.get_slice("features").get_shape()
    names = list(RIVALS)
    rng = np.random.default_rng(1)
    columns = {name: rng.normal(size=events) for name in names if name != "agreement_run"}
    problems = [f"p{i}" for i in range(events // CUES)]
    columns |= {"trial_answer": ["1"] * events, "agrees": truth, "right": truth}
    columns |= {"trace_id": [problem for problem in problems for _ in range(CUES)]}
    traces = {"trace_id": problems, "problem_id": problems, "cues": [CUES] * len(problems)}
    meta = Meta.model_construct(layers=tuple(range(1, layers + 1)), hidden=width // layers)
    header = 8 + int.from_bytes(path.open("rb").read(8), "little")
    mapped = np.memmap(path, np.float32, "r", header, (events, width))
    return Recording(path, meta, InMemory(pa.table(traces), pa.table(columns), [mapped]))


def measure(path: Path, layers: int, kind: str, backend: str) -> str:
    """Train, and say what it took."""
    data = recorded(path, layers)
    began = time.perf_counter()
    trained = train(data, kind=kind, backend=backend)
    wall = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    cells = (
        f"{trained.cues:,} x {data.meta.hidden * layers:,}",
        layers,
        kind,
        trained.trainer.backend_,
        len(trained.table),
        f"{wall:.0f}",
        f"{used.ru_utime + used.ru_stime:.0f}",
        f"{used.ru_maxrss / 2**20:.2f}",
        f"{trained.auc:.4f}",
        f"{os.getloadavg()[0]:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Write the features, train in another process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, nargs="+", default=[1])
    parser.add_argument("--kind", default="logistic")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(measure(options.measure, options.layers[0], options.kind, options.backend))
        return
    print(
        "| cues x width (synthetic) | layers | kind | backend | candidates | wall, s | CPU, s "
        "| peak, GiB | AUC | load |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.safetensors"
        write(path, options.events, options.width)
        for layers in options.layers:
            sys.stdout.flush()
            chosen = ["--layers", str(layers), "--kind", options.kind, "--backend", options.backend]
            subprocess.run([sys.executable, __file__, "--measure", str(path), *chosen], check=True)


if __name__ == "__main__":
    main()
