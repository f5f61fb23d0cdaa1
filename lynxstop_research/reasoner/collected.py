"""Adds what whole collections show to the measurements.

Run ``python -m lynxstop_research.reasoner.collected DIR ...``.

Rare events, such as full thinking that ends worse than it stood, need more problems than
`measure` samples. Collections of the shipped sets (``lynxstop collect``) hold thousands.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

DATA = Path(__file__).resolve().parents[2] / "data" / "reasoner"
Report = dict[str, float | int]


def summarize(folders: Sequence[Path]) -> Report:
    """Return accuracies and damage over all traces of some collections, one trace a problem."""
    stands: defaultdict[str, list[bool]] = defaultdict(list)
    ends: dict[str, bool] = {}
    for folder in folders:
        for path in sorted(folder.glob("cues-*.parquet")):
            for row in pq.read_table(path, columns=["trace_id", "right"]).to_pylist():
                stands[row["trace_id"]].append(bool(row["right"]))
        for path in sorted(folder.glob("traces-*.parquet")):
            for row in pq.read_table(path, columns=["trace_id", "full_right"]).to_pylist():
                ends[row["trace_id"]] = bool(row["full_right"])
    n = len(ends)
    damaged = sum(not right and any(stands[trace]) for trace, right in ends.items())
    return {
        "problems": n,
        "cues": sum(map(len, stands.values())),
        "damaged": round(damaged / n, 4),
        "first_exit": round(sum(any(stands[trace][:1]) for trace in ends) / n, 4),
        "full": round(sum(ends.values()) / n, 4),
    }


def main() -> None:
    """Write the summary into the model's ``measured.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    path = DATA / "measured.json"
    measured = json.loads(path.read_text(encoding="utf-8"))
    measured["sets"] = summarize(parser.parse_args().folders)
    path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
