"""The demo's problems: held out from training and calibration."""

from __future__ import annotations

from lynxstop import shipped
from lynxstop.demo.problems import draw
from lynxstop.recordings.problems import Problem, load_problems


def problems(n: int, seed: int | None) -> list[Problem]:
    """Take held-out problems: the first `n` of the test set, or `n` fresh ones drawn by `seed`.

    Fresh problems belong to a split that no shipped file and no training uses.
    """
    if seed is None:
        return load_problems(shipped.PROBLEMS / "test.jsonl")[:n]
    return [
        Problem(made.id, made.prompt, made.answer, {"family": made.family, "difficulty": made.difficulty})
        for made in draw(n, seed, split="fresh")
    ]
