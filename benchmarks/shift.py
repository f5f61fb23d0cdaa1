"""Transfer and shift on the shipped model: what survives, what is noticed, what recalibration repairs.

    python benchmarks/shift.py [--problems 300] [--risk 0.05] [--only families] [--json]

Records traces of the shipped model, `--problems` of each kind for training, calibration and test, and keeps
them in the folder: the same command goes on where it stopped. Families: a probe is trained and certified on
one family at temperature 0.9, and served on each. Temperatures and harder problems: the shipped bundle, which
was certified at 0.9 on all families, is served at 0, 0.6 and 1.0, and on problems of six operations.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.recording import record
from lynxstop.probes.train import train
from lynxstop.recordings.problems import Problem, load_problems
from lynxstop.recordings.storage import Recording
from lynxstop_research.shift import Served, Shift, certified, scored, shift

FAMILIES = ("solve", "choose", "compute")
TEMPERATURES = (0.0, 0.6, 1.0)
BASE = 0.9
SPLITS = ("train", "calibration", "test")


class Recordings:
    """Traces of the shipped model, recorded when they are first asked for."""

    def __init__(self, folder: Path, problems: int) -> None:
        self._folder, self._problems = folder, problems
        self._console = Console(stderr=True, quiet=True)

    def get(self, split: str, family: str | None = None, temperature: float = BASE) -> Recording:
        """Open those of a split, of one family or of all."""
        out = self._folder / f"{split}-{family or 'all'}-{temperature:g}-{self._problems}"
        recipe = Recipe.load(shipped.BUNDLE / "recipe.toml")
        sampling = recipe.sampling.model_copy(update={"temperature": temperature})
        chosen = [one for one in self._of(split) if family is None or one.metadata.get("family") == family]
        record(
            shipped.MODEL,
            chosen[: self._problems],
            out,
            recipe.model_copy(update={"sampling": sampling}),
            CollectOptions(seed=1),
            console=self._console,
        )
        return Recording.open(out)

    def _of(self, split: str) -> list[Problem]:
        if split == "harder":
            return load_problems(shipped.PROBLEMS / "shift.jsonl")[: self._problems]
        if split == "harder-calibration":
            return load_problems(shipped.PROBLEMS / "shift.jsonl")[self._problems :]
        return load_problems(shipped.PROBLEMS / f"{split}.jsonl")


def families(made: Recordings, risk: float) -> Iterator[Shift]:
    """Train and certify on one family, serve each."""
    for source in FAMILIES:
        probe = train(made.get("train", source)).probe
        reference = scored(made.get("calibration", source), probe)
        threshold = certified(reference, risk)
        for target in FAMILIES:
            yield shift(
                source,
                target,
                threshold=threshold,
                risk=risk,
                reference=reference,
                calibration=scored(made.get("calibration", target), probe),
                test=scored(made.get("test", target), probe),
            )


def conditions(made: Recordings, risk: float) -> Iterator[Shift]:
    """Serve the shipped bundle at other temperatures, and on harder problems."""
    bundle = Bundle.load(shipped.BUNDLE)
    threshold = bundle.policy.stop_policy().level(risk).threshold
    reference = scored(made.get("calibration"), bundle)
    targets = [(f"temperature {t:g}", "calibration", "test", t) for t in (BASE, *TEMPERATURES)]
    targets.append(("six operations", "harder-calibration", "harder", BASE))
    for name, calibration, test, temperature in targets:
        yield shift(
            "shipped, 0.9",
            name,
            threshold=threshold,
            risk=risk,
            reference=reference,
            calibration=scored(made.get(calibration, temperature=temperature), bundle),
            test=scored(made.get(test, temperature=temperature), bundle),
        )


def render(lines: list[Shift]) -> str:
    """A Markdown table."""
    head = ["certified on", "served on", "risk (95% interval)", "saved", "oracle", "alarm after audits"]
    head += ["change after audits", "warning after requests", "calibrated again: risk", "saved"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in lines:
        risk, saved = _served(one.served)
        again, kept = _served(one.repaired) if one.repaired else ("refused", "")
        source = one.source if one.certified else f"{one.source} (refused)"
        noticed = (str(delay or "-") for delay in (one.alarm, one.change, one.warning))
        cells = (source, one.target, risk, saved, f"{one.oracle:.1%}", *noticed, again, kept)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _served(one: Served) -> tuple[str, str]:
    return f"{one.risk:.1%} ({one.low:.1%} to {one.high:.1%})", f"{one.saved:.1%}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--risk", type=float, default=0.05)
    parser.add_argument("--folder", type=Path, default=Path("build/shift"))
    parser.add_argument("--only", choices=("families", "conditions"))
    parser.add_argument("--json", action="store_true", help="print plain data")
    options = parser.parse_args()
    made = Recordings(options.folder, options.problems)
    parts = {"families": families, "conditions": conditions}
    lines = [
        line
        for name, part in parts.items()
        if options.only in (None, name)
        for line in part(made, options.risk)
    ]
    print(json.dumps([asdict(one) for one in lines], indent=1) if options.json else render(lines))


if __name__ == "__main__":
    main()
