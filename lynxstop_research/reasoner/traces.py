"""The writer of training traces: solve, check, doubt, check again.

A trace is a row of paragraphs. The first solves and checks; every further one opens with a
cue and a neutral phrase and then checks the standing answer again or solves anew. Steps
slip now and then, checks are sometimes wrong, and the number of paragraphs is drawn
without regard to the answer, so that neither length nor cue tells whether it is right.
The phrase after a cue is drawn from one set whose weights are turned round when the standing
answer is wrong: the entropy at the cue is the same, but the state has to hold what it knows.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lynxstop.demo.problems import LETTERS, MODULUS, Chain, GeneratedProblem, Step

EXIT = "\n</think>\n\nThe answer is \\boxed{"
CLOSE = "}."
PARAGRAPH = "\n\n"

CUES = {"Wait": 0.4, "Hmm": 0.25, "But wait": 0.2, "Alternatively": 0.15}
PHRASES = (
    " let me see.",
    " once more.",
    " I should be careful.",
    " slowly now.",
    " think again.",
    " take another look.",
    " go over it.",
    " back to this.",
    " hold on.",
    " we can look.",
    " just to see.",
    " one moment.",
)
FILLERS = (
    "then", "now", "next", "well", "also", "right", "here", "again", "after", "that",
    "yes", "so", "with", "from", "fine", "there", "good", "still", "first", "on",
)  # fmt: skip
NEUTRAL = ("that", "there", "then")
OPENERS = ("So", "Thus", "Hence", "Then")


@dataclass(frozen=True, slots=True)
class Rates:
    """How often the writer errs and doubts; all are probabilities.

    `slip` is per step of a solve, by difficulty; `check_slip` per step of a check; `wishful`
    makes a check that should fail end on the hoped-for value; `resolve_ok` and
    `resolve_fails` solve anew after a passed and a failed check; `give_up` ends on a failed
    check once the planned number of cues is reached; `filler` is per step. `printed` is how often
    a check prints what it wanted, the difference and the verdict, each replaced by a neutral
    word otherwise; `careful` multiplies the slips of every solve after the first.
    """

    slip: tuple[float, ...] = (0.0, 0.0, 0.003, 0.005, 0.12, 0.14, 0.18)
    check_slip: float = 0.005
    wishful: float = 0.025
    resolve_ok: float = 0.25
    resolve_fails: float = 0.5
    give_up: float = 0.1
    filler: float = 0.14
    printed: tuple[float, float, float] = (1.0, 1.0, 1.0)
    careful: float = 1.0
    least_cues: int = 3
    most_cues: int = 7
    cap: int = 11


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph without its cue: the answer that stands after it, and its verdict."""

    text: str
    answer: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """A written trace: ``openings[i]`` is the cue before ``paragraphs[i + 1]``."""

    problem: GeneratedProblem
    paragraphs: tuple[Paragraph, ...]
    cues: tuple[str, ...]
    phrases: tuple[str, ...]

    def thinking(self) -> str:
        """Return the text between the thinking tags, without the final line break."""
        parts = [self.paragraphs[0].text]
        for cue, phrase, paragraph in zip(self.cues, self.phrases, self.paragraphs[1:], strict=True):
            parts.append(PARAGRAPH + cue + phrase + " " + paragraph.text)
        return "".join(parts)

    def until(self, cue: int) -> str:
        """Return the thinking up to and including cue number `cue`."""
        parts = [self.paragraphs[0].text]
        for index in range(cue):
            parts.append(PARAGRAPH + self.cues[index] + self.phrases[index])
            parts.append(" " + self.paragraphs[index + 1].text)
        return "".join(parts) + PARAGRAPH + self.cues[cue]


class TraceWriter:
    """Writes traces from one random stream."""

    def __init__(self, rng: random.Random, rates: Rates | None = None) -> None:
        self.rng = rng
        self.rates = rates or Rates()

    def write(self, problem: GeneratedProblem) -> Trace:
        """Write one trace; its length is drawn before anything is computed."""
        rates, rng = self.rates, self.rng
        planned = rng.randint(rates.least_cues, rates.most_cues)
        paragraphs = [self._solve_and_check(problem)]
        cues: list[str] = []
        phrases: list[str] = []
        while len(cues) < rates.cap:
            last = paragraphs[-1]
            if len(cues) >= planned and (last.passed or rng.random() < rates.give_up):
                break
            cues.append(rng.choices(tuple(CUES), tuple(CUES.values()))[0])
            phrases.append(self._phrase(last.answer == problem.answer))
            anew = rates.resolve_ok if last.passed else rates.resolve_fails
            if rng.random() < anew:
                paragraphs.append(self._solve_and_check(problem, rates.careful))
            else:
                paragraphs.append(self._check(problem, last.answer))
        return Trace(problem, tuple(paragraphs), tuple(cues), tuple(phrases))

    def _phrase(self, right: bool) -> str:
        phrases = PHRASES if right else PHRASES[::-1]
        return self.rng.choices(phrases, _ZIPF_PHRASES)[0]

    def _solve_and_check(self, problem: GeneratedProblem, careful: float = 1.0) -> Paragraph:
        slip = self.rates.slip[problem.difficulty] * careful
        if problem.family == "choose":
            text, answer = self._try_options(problem, slip)
        else:
            steps, start = _forward(problem) if problem.family == "compute" else _back(problem)
            text, value = self._run(steps, start, slip)
            answer = str(value)
        opener = self.rng.choices(OPENERS, _ZIPF_OPENERS)[0]
        check = self._check(problem, answer)
        return Paragraph(f"Solve{text} {opener} {answer}. {check.text}", answer, check.passed)

    def _try_options(self, problem: GeneratedProblem, slip: float) -> tuple[str, str]:
        target = _target(problem)
        parts = []
        for option, chain in enumerate(problem.chains[:-1]):
            text, value = self._run(chain.steps, chain.start, slip)
            verdict = "yes." if value == target else "no."
            difference = (value - target) % MODULUS
            letter = LETTERS[option]
            parts.append(f" {letter}:{text} so {value} - {target} = {difference} {verdict}")
            if value == target:
                return "".join(parts), letter
        return "".join(parts), LETTERS[len(problem.chains) - 1]

    def _check(self, problem: GeneratedProblem, answer: str) -> Paragraph:
        steps, start, wanted = way_back(problem, answer)
        wishful = self.rng.random() < self.rates.wishful
        text, value = self._run(steps, start, self.rates.check_slip, wanted if wishful else None)
        difference = (value - wanted) % MODULUS
        passed = difference == 0
        verdict = "ok." if passed else "fails."
        said = [
            word if share == 1 or self.rng.random() < share else neutral
            for word, share, neutral in zip(
                (str(wanted), str(difference), verdict), self.rates.printed, NEUTRAL, strict=True
            )
        ]
        end = f" gives {value} - {said[0]} = {said[1]} {said[2]}"
        return Paragraph(f"Check {answer}{text}{end}", answer, passed)

    def _run(
        self, steps: Sequence[Step], value: int, slip: float, hoped: int | None = None
    ) -> tuple[str, int]:
        parts = []
        for index, step in enumerate(steps):
            result = step.apply(value)
            if self.rng.random() < slip:
                result = (result + self.rng.choice((1, -1))) % MODULUS
            if hoped is not None and index == len(steps) - 1:
                result = hoped
            if self.rng.random() < self.rates.filler:
                parts.append(" " + self.rng.choices(FILLERS, _ZIPF_FILLERS)[0])
            parts.append(f" {step.label}. {value} {step.operator} {step.operand} = {result}")
            value = result
        return "".join(parts), value


def _zipf(n: int, power: float) -> list[float]:
    return [(rank + 1) ** -power for rank in range(n)]


_ZIPF_PHRASES = _zipf(len(PHRASES), 1.3)
_ZIPF_FILLERS = _zipf(len(FILLERS), 1.3)
_ZIPF_OPENERS = _zipf(len(OPENERS), 2.0)


def _target(problem: GeneratedProblem) -> int:
    return problem.chains[LETTERS.index(problem.answer)].end


def _forward(problem: GeneratedProblem) -> tuple[Sequence[Step], int]:
    chain = problem.chains[0]
    return chain.steps, chain.start


def _back(problem: GeneratedProblem) -> tuple[Sequence[Step], int]:
    chain = problem.chains[0]
    return _undo(chain), chain.end


def _undo(chain: Chain) -> list[Step]:
    return [step.inverse() for step in reversed(chain.steps)]


def way_back(problem: GeneratedProblem, answer: str) -> tuple[Sequence[Step], int, int]:
    """Return the steps of a check of `answer`, where it starts and where it should end."""
    if problem.family == "solve":
        chain = problem.chains[0]
        return chain.steps, int(answer), chain.end
    if problem.family == "compute":
        chain = problem.chains[0]
        return _undo(chain), int(answer), chain.start
    chain = problem.chains[LETTERS.index(answer)]
    return _undo(chain), _target(problem), chain.start
