"""Benchmarks by their usual names: which data set, at which revision, and how answers are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from lynxstop.artifacts import atomic
from lynxstop.errors import DataError
from lynxstop.grading.graders import MATH
from lynxstop.recordings.hub import PREFIX, at_commit
from lynxstop.recordings.problems import Problem, load_problems


class Suite(NamedTuple):
    """A data set, as `lynxstop.recordings.problems.load_problems` takes it, and its grader."""

    source: str
    grader: str = MATH


SUITES = {
    "math": Suite("hf://HuggingFaceH4/MATH-500@6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be/test"),
    "gsm8k": Suite("hf://openai/gsm8k@740312add88f781978c0658806c59bc2815b9866:main/test"),
    "aime": Suite("hf://gneubig/aime-1983-2024@main/train"),
    "gpqa": Suite(
        "hf://Idavidrein/gpqa@633f5ee89ab8ad4522a9f850766b73f62147ffdd:gpqa_diamond/train", "choice"
    ),
    "csqa": Suite("hf://tau/commonsense_qa@94630fe30dad47192a8546eb75f094926d47e155/validation", "choice"),
}
"""By the name that `lynxstop study --suite` takes."""


class Commits:
    """The commit that each data set was first read at, kept in a file: `main` is another one next month."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, source: str) -> str:
        """Name a source at its commit; a file, and what has no commit, as it is.

        Raises
        ------
        DataError
            When the data set cannot be read, or the file is damaged.
        """
        if not source.startswith(PREFIX):
            return source
        known = self._read()
        if source not in known:
            known[source] = at_commit(source)
            if known[source] != source:
                atomic.write_text(self._path, json.dumps(known, indent=1) + "\n")
        return known[source]

    def _read(self) -> dict[str, str]:
        try:
            return {str(source): str(commit) for source, commit in json.loads(self._path.read_text()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(
                f"{self._path} is damaged, so at which commit data sets were read is not known.",
                hint="Restore it, or remove it to read them as they are now.",
            ) from error


def load_suite(name: str, commits: Commits | None = None) -> tuple[list[Problem], str, str | None]:
    """Read a suite, or a file of problems.

    Returns
    -------
    (problems, source, grader)
        The source is a file or a data set, with `commits` at the commit that was read. The grader is None
        for a file.

    Raises
    ------
    DataError
        When it is neither, or cannot be read.
    """
    if name not in SUITES and "." not in name and "/" not in name:
        raise DataError(f"There is no suite {name!r}.", hint=f"Suites: {', '.join(SUITES)}; or name a file.")
    source, grader = SUITES.get(name, (name, None))
    source = source if commits is None else commits.of(source)
    return load_problems(source), source, grader


def check_suite(name: str) -> None:
    """Refuse what cannot be read, before hours are spent; what is on the Hub is asked for when it is needed.

    Raises
    ------
    DataError
        When it is neither a suite nor a file of problems.
    """
    if name not in SUITES and not name.startswith(PREFIX):
        load_suite(name)


def title_of(name: str) -> str:
    """What a suite is called on a page: its name, or that of the file."""
    return name if name in SUITES or name.startswith(PREFIX) else Path(name).stem
