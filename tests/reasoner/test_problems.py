"""The problems are right, reproducible, and disjoint across splits."""

import json
import random
from pathlib import Path

import pytest

from lynxstop.demo.problems import (
    FAMILIES,
    HARD,
    INVERSE,
    LETTERS,
    MODULUS,
    USUAL,
    Split,
    calculate,
    draw,
    split_of,
)
from lynxstop_research.reasoner.sets import SIZES

SETS = Path(__file__).parents[2] / "data" / "problems"


def test_every_operation_is_undone_by_its_inverse() -> None:
    for left in range(MODULUS):
        for operator, inverse in INVERSE.items():
            for right in range(1, MODULUS):
                there = calculate(left, operator, right)
                assert calculate(there, inverse, right) == left


def test_answers_follow_from_the_chains() -> None:
    for problem in draw(300, 1):
        if problem.family == "choose":
            ends = [chain.end for chain in problem.chains]
            target = int(problem.prompt.split()[2])
            assert [LETTERS[i] for i, end in enumerate(ends) if end == target] == [problem.answer]
        elif problem.family == "compute":
            assert str(problem.chains[0].end) == problem.answer
        else:
            assert str(problem.chains[0].start) == problem.answer
            assert problem.prompt.endswith(f"gives {problem.chains[0].end}")


def test_a_seed_gives_the_same_problems_and_another_seed_gives_others() -> None:
    assert draw(60, 4) == draw(60, 4)
    assert {p.id for p in draw(60, 4)} != {p.id for p in draw(60, 5)}


def test_families_and_levels_come_in_equal_shares() -> None:
    problems = draw(120, 2)
    for family in FAMILIES:
        for level in USUAL:
            assert sum((p.family, p.difficulty) == (family, level) for p in problems) == 10
    assert {p.difficulty for p in draw(30, 2, hard=True)} == set(HARD)
    assert {p.family for p in draw(30, 2, families=("solve",))} == {"solve"}


def test_a_prompt_belongs_to_the_split_it_was_drawn_for() -> None:
    for split in ("reasoner", "train", "fresh", "shift"):
        assert {split_of(p.prompt) for p in draw(50, 3, split=split)} == {split}


@pytest.mark.parametrize("split", SIZES)
def test_the_shipped_sets_are_what_the_generator_draws(split: Split) -> None:
    lines = (SETS / f"{split}.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) == len({r["id"] for r in records}) == SIZES[split]
    for record in random.Random(0).sample(records, 50):
        assert split_of(record["prompt"]) == split
        assert set(record) == {"id", "family", "difficulty", "prompt", "answer"}
