"""`lynxstop problems`: repeated and nearly repeated prompts, in one problem set or across several."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json

if TYPE_CHECKING:
    from lynxstop.recordings.problems import Problem

_SHOWN = 5


def problems(
    files: Annotated[
        list[str],
        typer.Argument(help="Problem sets: JSON lines, CSV, Parquet, or hf://NAME/SPLIT; one of each split."),
    ],
    near: Annotated[
        float, typer.Option(min=0.1, max=1, help="Similarity of 5-word n-grams from which prompts are near.")
    ] = 0.8,
    json: Json = False,
) -> None:
    """Look for prompts that occur twice, or nearly, in problem sets and across them.

    Prompts are compared by what they say: letter case, white space and Unicode variants do not matter, and
    neither does the id. `calibrate` counts repeated prompts as one problem, and refuses those of the
    training data. It cannot see near repeats, which are for you to judge: a reworded training prompt is no
    new problem.

    **Examples**

    - `lynxstop problems train.jsonl calibration.jsonl test.jsonl`

    - `lynxstop problems traffic.jsonl --near 0.9 --json`
    """
    from lynxstop.recordings.near import near_pairs
    from lynxstop.recordings.problems import load_problems
    from lynxstop.recordings.prompts import prompt_digest

    sets = {name: load_problems(name if "://" in name else Path(name)) for name in files}
    digests = {
        name: [prompt_digest(problem.prompt, problem.tools) for problem in own] for name, own in sets.items()
    }
    one_each: dict[str, tuple[str, Problem]] = {}
    for name, own in sets.items():
        for digest, problem in zip(digests[name], own, strict=True):
            one_each.setdefault(digest, (name, problem))
    kept = list(one_each.values())
    pairs = near_pairs([problem.prompt for _, problem in kept], near)
    found: dict[str, Any] = {
        "files": [
            {"file": name, "problems": len(own), "prompts": len(set(own))} for name, own in digests.items()
        ],
        "shared": [
            {"files": [one, other], "prompts": len(set(digests[one]) & set(digests[other]))}
            for one, other in combinations(sets, 2)
        ],
        "near": [
            {
                "problems": [[name, problem.id] for name, problem in (kept[pair.first], kept[pair.second])],
                "similarity": round(pair.similarity, 3),
            }
            for pair in pairs
        ],
    }
    if json:
        _output.emit(found)
        return
    for line in found["files"]:
        _output.console.print(f"{line['file']}: {line['problems']} problems, {line['prompts']} prompts")
    for line in found["shared"]:
        _output.console.print(f"{' and '.join(line['files'])}: {line['prompts']} prompts in both")
    across = sum(one[0] != other[0] for one, other in (line["problems"] for line in found["near"]))
    _output.console.print(
        f"{len(pairs)} pairs of different prompts share {near:.0%} of their n-grams, {across} of them across "
        "files"
    )
    for line in sorted(found["near"], key=lambda line: -line["similarity"])[:_SHOWN]:
        names = " and ".join(f"{problem} in {file}" for file, problem in line["problems"])
        _output.console.print(f"  {line['similarity']:.0%}: {names}", markup=False)
