"""Benchmarks by their usual names: which data set, at which revision, and how a row becomes a problem."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lynxstop.errors import DataError
from lynxstop.grading.graders import MATH
from lynxstop.recordings.hub import hub_records
from lynxstop.recordings.problems import Problem, load_problems
from lynxstop.recordings.prompts import content_id


class Suite(NamedTuple):
    """A data set of the Hub.

    Attributes
    ----------
    source : str
        As `lynxstop.recordings.problems.load_problems` takes it.
    grader : str
    choices : callable, optional
        Of a row: the question, its choices and the number of the right one. Without it the columns are found
        by their names.
    """

    source: str
    grader: str = MATH
    choices: Callable[[Mapping[str, Any]], tuple[str, list[str], int]] | None = None


def _gpqa(row: Mapping[str, Any]) -> tuple[str, list[str], int]:
    """Draw the order of the choices by the question: in the data set the right one comes first."""
    given = [row["Correct Answer"], *(row[f"Incorrect Answer {number}"] for number in (1, 2, 3))]
    order = random.Random(content_id(row["Question"])).sample(range(4), 4)
    return row["Question"], [str(given[place]).strip() for place in order], order.index(0)


def _csqa(row: Mapping[str, Any]) -> tuple[str, list[str], int]:
    choices = row["choices"]
    return row["question"], list(choices["text"]), list(choices["label"]).index(row["answerKey"])


SUITES = {
    "math": Suite("hf://HuggingFaceH4/MATH-500@6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be/test"),
    "gsm8k": Suite("hf://openai/gsm8k@740312add88f781978c0658806c59bc2815b9866:main/test"),
    "aime": Suite("hf://gneubig/aime-1983-2024@main/train"),
    "gpqa": Suite(
        "hf://Idavidrein/gpqa@633f5ee89ab8ad4522a9f850766b73f62147ffdd:gpqa_diamond/train", "choice", _gpqa
    ),
    "csqa": Suite(
        "hf://tau/commonsense_qa@94630fe30dad47192a8546eb75f094926d47e155/validation", "choice", _csqa
    ),
}
"""By the name that `lynxstop study --suite` takes."""


def load_suite(name: str) -> tuple[list[Problem], str, str | None]:
    """Read a suite, or a file of problems.

    Returns
    -------
    (problems, source, grader)
        The grader is None for a file.

    Raises
    ------
    DataError
        When it is neither, cannot be read, or its rows have another form.
    """
    suite = SUITES.get(name)
    if suite is None:
        if "." not in name and "/" not in name:
            raise DataError(
                f"There is no suite {name!r}.",
                hint=f"Suites: {', '.join(SUITES)}; or name a file of problems.",
            )
        return load_problems(name), name, None
    if suite.choices is None:
        return load_problems(suite.source), suite.source, suite.grader
    return choice_problems(suite), suite.source, suite.grader


def choice_problems(suite: Suite) -> list[Problem]:
    """Write the choices into the prompts; the answer is the letter of the right one.

    Raises
    ------
    DataError
        When a row has another form.
    """
    assert suite.choices is not None
    found = {}
    for place, row in hub_records(suite.source):
        try:
            question, choices, right = suite.choices(row)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{suite.source}, row {place} has another form: {type(error).__name__} {error}.",
                hint="Write the problems to a file yourself, and name it in place of the suite.",
            ) from error
        listed = "\n".join(f"{chr(65 + number)}) {choice}" for number, choice in enumerate(choices))
        prompt = f"{question.strip()}\n\n{listed}\n\nAnswer with the letter of the right choice."
        found[content_id(prompt)] = Problem(content_id(prompt), prompt, chr(65 + right))
    return list(found.values())
