"""The toy model: it works out sums, checks itself at cue words, and now and then revises its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

OPEN, CLOSE = "<think>", "</think>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
_OPENING = "\n\nThe answer is \\boxed{"
_CUES = ("Wait", "Hmm", "Alternatively")
_DOUBTS = ("let me check that.", "I should do it again.", "is that right?", "once more, with care.")
_SUM = re.compile(r"\d{1,6}(?:\s*[-+*]\s*\d{1,6}){1,7}")
_HELD = re.compile(r"answer is (-?\d+)")


@dataclass(frozen=True)
class SumProblem:
    """A sum of products, as in 7 + 5 * 2.

    Attributes
    ----------
    numbers : tuple of int
    operators : tuple of str
        One fewer than numbers; each of "+", "-", "*".
    """

    numbers: tuple[int, ...]
    operators: tuple[str, ...]

    @classmethod
    def find(cls, text: str) -> SumProblem:
        """Return the last sum in a text; a text without one stands for a sum of its own."""
        found = _SUM.findall(text)
        if found:
            return cls(
                tuple(int(number) for number in re.findall(r"\d+", found[-1])),
                tuple(re.findall(r"[-+*]", found[-1])),
            )
        chance = Random(text)
        return cls(tuple(chance.randint(2, 20) for _ in range(3)), ("+", "*"))

    def solve(self, slip: int | None = None, by: int = 0) -> tuple[list[str], int]:
        """Work it out, products first; return the steps as text, and the result.

        Parameters
        ----------
        slip : int, optional
            Step in which an error of `by` is made.
        """
        numbers, operators = list(self.numbers), list(self.operators)
        steps: list[str] = []
        while operators:
            at = operators.index("*") if "*" in operators else 0
            left, operator, right = numbers[at], operators[at], numbers[at + 1]
            result = {"+": left + right, "-": left - right, "*": left * right}[operator]
            if len(steps) == slip:
                result += by
            steps.append(f"{left} {operator} {right} = {result}.")
            numbers[at : at + 2] = [result]
            del operators[at]
        return steps, numbers[0]


def think(problem: SumProblem, seed: int = 0, checks: int | None = None) -> str:
    """Write the model's thinking, without delimiters: the same text for the same arguments.

    Parameters
    ----------
    seed : int
        Another seed, another train of thought.
    checks : int, optional
        How often it checks itself; by default 2 to 6 times, by the problem.
    """
    # The text of a problem is its seed: it must not change with the names in this file.
    named = f"Problem(numbers={problem.numbers!r}, operators={problem.operators!r})"
    chance = Random(f"{named}/{seed}")
    rounds = chance.randint(2, 6) if checks is None else checks
    right = chance.random() < 0.65
    text = "\nLet me work it out. " + _attempt(problem, right, chance)
    for i in range(rounds):
        right = chance.random() < (0.9 if right else 0.6)
        if i == rounds - 1:
            right = chance.random() < 0.95
        text += f"{chance.choice(_CUES)}, {chance.choice(_DOUBTS)} " + _attempt(problem, right, chance)
    return text + "I am sure now.\n"


def held(thinking: str) -> str:
    """Return the answer that the thinking holds at its end; "0" before it has one."""
    found = _HELD.findall(thinking)
    return found[-1] if found else "0"


def complete(prompt: str, seed: int = 0, checks: int | None = None) -> str:
    """Write what the model says after a rendered prompt that may end anywhere in its own text.

    The thinking is continued where the prompt has got to in it, or closed where the prompt has left it; a
    prompt that ends after the thinking gets the answer that was held when it was closed.
    """
    asked, _, said = prompt.rpartition(ASSISTANT + "\n")
    if not asked:
        asked, _, said = prompt.partition(OPEN)
        said = OPEN + said if _ else ""
    if CLOSE in said:
        thinking, _, answer = said.partition(CLOSE)
        return _finish(answer, held(thinking))
    thinking = think(SumProblem.find(asked.rpartition(USER)[2]), seed, checks)
    whole = OPEN + thinking
    rest = whole.removeprefix(said) if whole.startswith(said) else "\n"
    return rest + CLOSE + _finish("", held(said + rest))


def formed(prompt: str, said: str) -> str:
    """Return what the model says after a prompt when its answer must be an object: one with the number."""
    before = prompt.rpartition(ASSISTANT + "\n")[2]
    thinking, mark, _ = ("", "", "") if CLOSE in before else said.partition(CLOSE)
    return f'{thinking}{mark}{{"answer": {held((before + thinking).partition(CLOSE)[0])}}}'


def render(messages: list[dict[str, object]], *, generate: bool, opened: bool, resume: bool) -> str:
    """Write a conversation as the model reads it.

    Thinking in a field of its own is written only for a message that is continued.

    Parameters
    ----------
    generate : bool
        Open the model's turn.
    opened : bool
        Open its thinking too, as some templates do.
    resume : bool
        Leave the last message open, to be continued.
    """
    parts = []
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content)
        if resume and message is messages[-1] and message.get("reasoning"):
            content = f"{OPEN}\n{message['reasoning']}\n{CLOSE}\n\n{content}"
        mark = ASSISTANT if message.get("role") == "assistant" else USER
        parts.append(f"{mark}\n{content}\n")
    if resume:
        return "".join(parts)[:-1]
    if generate:
        parts.append(f"{ASSISTANT}\n{OPEN if opened else ''}")
    return "".join(parts)


def _attempt(problem: SumProblem, right: bool, chance: Random) -> str:
    slip = None if right else chance.randrange(len(problem.operators))
    steps, result = problem.solve(slip, chance.choice((-2, -1, 1, 2)))
    return " ".join(steps) + f" So the answer is {result}.\n"


def _finish(said: str, answer: str) -> str:
    whole = f"{_OPENING}{answer}}}."
    if whole.startswith(said):
        return whole.removeprefix(said)
    return f"{answer}}}." if said.endswith("\\boxed{") else f" \\boxed{{{answer}}}."
