"""Where the shipped model, problems, bundle and certificate lie: in the wheel, or in a checkout."""

from __future__ import annotations

from pathlib import Path

from lynxstop.collect.problems import Problem, load_problems
from lynxstop.reasoner.problems import draw

_PACKAGE = Path(__file__).resolve().parent
_WHEEL = _PACKAGE / "shipped"
_CHECKOUT = _PACKAGE.parent

MODEL = _WHEEL / "reasoner" if _WHEEL.is_dir() else _CHECKOUT / "data" / "reasoner"
PROBLEMS = _WHEEL / "problems" if _WHEEL.is_dir() else _CHECKOUT / "data" / "problems"
BUNDLE = _WHEEL / "bundle" if _WHEEL.is_dir() else _CHECKOUT / "probes" / "reasoner"
STREAM_BUNDLE = _WHEEL / "stream-bundle" if _WHEEL.is_dir() else _CHECKOUT / "probes" / "reasoner-stream"
RECIPES = _WHEEL / "recipes" if _WHEEL.is_dir() else _CHECKOUT / "probes" / "recipes"


def problems(n: int, seed: int | None) -> list[Problem]:
    """Take held-out problems: the first `n` of the test set, or `n` fresh ones drawn by `seed`.

    Fresh problems belong to a split that no shipped file and no training uses.
    """
    if seed is None:
        return load_problems(PROBLEMS / "test.jsonl")[:n]
    return [
        Problem(made.id, made.prompt, made.answer, {"family": made.family, "difficulty": made.difficulty})
        for made in draw(n, seed, split="fresh")
    ]
