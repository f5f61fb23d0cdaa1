"""Procedural problems with verifiable answers, modulo 11, in three families.

========= ==================================================== ==================
family    prompt                                               answer
========= ==================================================== ==================
solve     ``Solve x mod 11: x a. * 5 b. + 3 gives 9``          a residue, 0 to 10
compute   ``Compute mod 11: 1 a. - 4 b. * 5``                  a residue, 0 to 10
choose    ``Which gives 5 mod 11? A: 3 a. * 4 b. + 2 B: ...``  a letter
========= ==================================================== ==================

Difficulty is the number of operations (`solve`, `compute`) or of options (`choose`).
The splits are disjoint by construction: the digest of a problem's prompt assigns it to
exactly one of them, whatever the seed.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Family = Literal["solve", "compute", "choose"]
Split = Literal["reasoner", "train", "calibration", "test", "shift", "fresh"]

MODULUS = 11
LABELS = "abcdefghijkl"
LETTERS = "ABCDEF"
FAMILIES: tuple[Family, ...] = get_args(Family)
USUAL = (2, 3, 4, 5)
HARD = (6,)
OPTION_LENGTH = 2
INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}

# Percent of all prompts that belong to each split, by digest.
_SHARES: dict[Split, int] = {
    "reasoner": 50,
    "train": 14,
    "calibration": 12,
    "test": 8,
    "shift": 4,
    "fresh": 12,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One labelled operation of a chain, such as ``b. + 3``."""

    label: str
    operator: str
    operand: int

    def apply(self, value: int) -> int:
        """Return the residue that follows `value`."""
        return calculate(value, self.operator, self.operand)

    def inverse(self) -> "Step":
        """Return the operation that undoes this one, under the same label."""
        return Step(self.label, INVERSE[self.operator], self.operand)

    def __str__(self) -> str:
        return f"{self.label}. {self.operator} {self.operand}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A start value and the operations applied to it, left to right."""

    start: int
    steps: tuple[Step, ...]

    @property
    def end(self) -> int:
        """The residue after the last operation."""
        value = self.start
        for step in self.steps:
            value = step.apply(value)
        return value


@dataclass(frozen=True, slots=True)
class GeneratedProblem:
    """One problem, its only right answer, and the chains it is made of.

    Attributes
    ----------
    id : str
        Family and the first 12 hexadecimal digits of the prompt's SHA-256.
    difficulty : int
        Number of operations, or of options for ``choose``.
    chains : tuple of Chain
        One chain, or one for each option. Not part of the public record.
    """

    id: str
    family: Family
    difficulty: int
    prompt: str
    answer: str
    chains: tuple[Chain, ...] = field(repr=False, compare=False)

    def record(self) -> dict[str, str | int]:
        """Return the public fields, as written to the problem sets."""
        return {
            "id": self.id,
            "family": self.family,
            "difficulty": self.difficulty,
            "prompt": self.prompt,
            "answer": self.answer,
        }


def calculate(left: int, operator: str, right: int) -> int:
    """Return ``left operator right`` modulo 11; division is by the inverse."""
    if operator == "+":
        return (left + right) % MODULUS
    if operator == "-":
        return (left - right) % MODULUS
    if operator == "*":
        return (left * right) % MODULUS
    return (left * pow(right, -1, MODULUS)) % MODULUS


def split_of(prompt: str) -> Split:
    """Return the one split that the prompt belongs to."""
    place = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[-4:], "big") % 100
    for split, share in _SHARES.items():
        place -= share
        if place < 0:
            return split
    raise AssertionError("the shares add up to 100")


def draw(
    n: int,
    seed: int,
    *,
    split: Split = "fresh",
    families: Sequence[Family] = FAMILIES,
    hard: bool = False,
) -> list[GeneratedProblem]:
    """Draw `n` different problems of one split.

    Parameters
    ----------
    n : int
        How many; families and difficulties come in equal shares.
    seed : int
        Equal seeds give equal problems.
    split : Split
        Problems of different splits never coincide. ``fresh`` is used by no shipped file.
    families : sequence of Family
        The families to draw from, in turn.
    hard : bool
        Draw only the level above the usual ones (also for the ``shift`` split).
    """
    levels = HARD if hard or split == "shift" else USUAL
    rng = random.Random(f"{split}/{seed}")
    problems: dict[str, GeneratedProblem] = {}
    while len(problems) < n:
        index = len(problems)
        family = families[index % len(families)]
        level = levels[index // len(families) % len(levels)]
        problem = next(stream(rng, split, family, level))
        problems.setdefault(problem.id, problem)
    drawn = list(problems.values())
    rng.shuffle(drawn)
    return drawn


def stream(rng: random.Random, split: Split, family: Family, difficulty: int) -> Iterator[GeneratedProblem]:
    """Yield problems of one split, family and difficulty without end."""
    while True:
        problem = _MAKERS[family](rng, difficulty)
        if split_of(problem.prompt) == split:
            yield problem


def _steps(rng: random.Random, n: int, first_label: int = 0) -> tuple[Step, ...]:
    steps = []
    for index in range(n):
        operator = rng.choice("+-*/")
        operand = rng.randint(1 if operator in "+-" else 2, MODULUS - 1)
        steps.append(Step(LABELS[first_label + index], operator, operand))
    return tuple(steps)


def _show(steps: Sequence[Step]) -> str:
    return " ".join(str(step) for step in steps)


def _problem(
    family: Family, difficulty: int, prompt: str, answer: str, chains: tuple[Chain, ...]
) -> GeneratedProblem:
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:12]
    return GeneratedProblem(f"{family}-{digest}", family, difficulty, prompt, answer, chains)


def _solve(rng: random.Random, difficulty: int) -> GeneratedProblem:
    chain = Chain(rng.randrange(MODULUS), _steps(rng, difficulty))
    prompt = f"Solve x mod {MODULUS}: x {_show(chain.steps)} gives {chain.end}"
    return _problem("solve", difficulty, prompt, str(chain.start), (chain,))


def _compute(rng: random.Random, difficulty: int) -> GeneratedProblem:
    chain = Chain(rng.randrange(MODULUS), _steps(rng, difficulty))
    prompt = f"Compute mod {MODULUS}: {chain.start} {_show(chain.steps)}"
    return _problem("compute", difficulty, prompt, str(chain.end), (chain,))


def _choose(rng: random.Random, difficulty: int) -> GeneratedProblem:
    right = rng.randrange(difficulty)
    target = rng.randrange(MODULUS)
    chains = []
    for option in range(difficulty):
        # Most distractors miss by one, so that one slip can make them match.
        miss = rng.choice((1, MODULUS - 1)) if rng.random() < 0.7 else rng.randint(1, 10)
        end = target if option == right else (target + miss) % MODULUS
        steps = _steps(rng, OPTION_LENGTH, OPTION_LENGTH * option)
        start = end
        for step in reversed(steps):
            start = step.inverse().apply(start)
        chains.append(Chain(start, steps))
    options = (
        f"{LETTERS[option]}: {chain.start} {_show(chain.steps)}" for option, chain in enumerate(chains)
    )
    prompt = f"Which gives {target} mod {MODULUS}? {' '.join(options)}"
    return _problem("choose", difficulty, prompt, LETTERS[right], tuple(chains))


_MAKERS = {"solve": _solve, "compute": _compute, "choose": _choose}
