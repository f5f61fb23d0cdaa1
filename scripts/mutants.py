"""Mutation tests: change one expression at a time and see whether a test notices.

Usage: python scripts/mutants.py [SAMPLE [SEED]]     (SAMPLE: a number of mutants, or all)

What is mutated and which tests may notice is under [tool.mutmut] in pyproject.toml. mutmut works on a copy in
mutants/, and runs for each mutant those tests that reach the mutated function. It leaves out decorated
functions, such as properties, and code outside of functions; texts are left out here.

Survivors that were judged harmless are in tests/mutants.toml. The others are printed, and written to
build/mutants.toml in the same form. The exit status is 1 when there are any.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import sys
import tomllib
from collections import Counter
from hashlib import sha256
from pathlib import Path
from textwrap import indent

import libcst
from mutmut import __main__ as mutmut
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.mutators import mutation_operators, operator_string
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import orig_function_and_class_names_from_key
from mutmut.workers import isolation

JUDGED = Path("tests/mutants.toml")
FOUND = Path("build/mutants.toml")
KEYS = ("file", "function", "before", "after")
ALIVE = {"survived", "no tests", "suspicious"}
SKIPPED = 34
WORKERS = 2
MEMORY = 4 << 30
"""Bytes for one process: a loop that no longer ends must not take all there are."""


class QuickestFirst(PytestRunner):
    """Runs quick tests first, as mutmut's other runner does: they kill most mutants."""

    def run_stats(self, *, tests):
        """Run the tests without a mutant, in a process of their own, and show how they end."""
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        return super().run_stats(tests=tests)

    def run_tests(self, *, mutant_name, tests):
        """Run tests; return the exit status of pytest."""
        order = sorted(tests, key=lambda test: state().duration_by_test[test])
        return super().run_tests(mutant_name=mutant_name, tests=order)


def choose(size: str, seed: str) -> None:
    """Mark all mutants but a sample as skipped. Drawn by name, it outlasts other changes."""
    files = mutmut.collect_source_file_mutation_data(mutant_names=())[1].values()
    names = sorted(
        (name for file in files for name in file.exit_code_by_key),
        key=lambda name: sha256(f"{seed} {name}".encode()).digest(),
    )
    chosen = set(names if size == "all" else names[: int(size)])
    for file in files:
        file.exit_code_by_key = {name: None if name in chosen else SKIPPED for name in file.exit_code_by_key}
        file.save()


def describe(path: Path, name: str) -> dict[str, str]:
    """Name a mutant by the lines that it changes, which other changes of the file leave as they are."""
    function, owner = orig_function_and_class_names_from_key(name)
    changes = get_diff_for_mutant(name, path=path).splitlines()[2:]
    before, after = ("\n".join(line[1:].strip() for line in changes if line[0] == sign) for sign in "-+")
    owned = f"{owner}.{function}" if owner else function
    return dict(zip(KEYS, (str(path), owned, before, after), strict=True))


def line_number(file: str, function: str, before: str, **_: str) -> int:
    """Find the first changed line in the file."""
    code, place = Path(file).read_text(encoding="utf-8"), 0
    for name in function.split("."):
        place = re.compile(rf"^ *(class|def) {name}\b", re.MULTILINE).search(code, place).end()
    return code.count("\n", 0, code.index(before.splitlines()[0], place)) + 1


def main(size: str = "400", seed: str = "0") -> int:
    """Make mutants, test a sample of them and print what survives."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    mutation_operators.remove((libcst.BaseString, operator_string))
    isolation.PytestRunner = QuickestFirst
    # Processor time finds endless loops; by the clock, a busy machine would seem to be one.
    isolation.register_timeout = lambda pid, timeout_s: None
    shutil.rmtree("mutants", ignore_errors=True)
    mutmut.copy_src_dir()
    mutmut.create_mutants(WORKERS)
    choose(size, seed)
    mutmut._run((), WORKERS)

    mutants = [
        (file.path, name, status_by_exit_code[status])
        for file, name, status in mutmut.collect_source_file_mutation_data(mutant_names=())[0]
        if status != SKIPPED
    ]
    print(
        *(f"{count} {status}" for status, count in Counter(status for *_, status in mutants).items()),
        sep=", ",
    )
    judged = tomllib.loads(JUDGED.read_text(encoding="utf-8"))["harmless"]
    known = {tuple(entry[key] for key in KEYS) for entry in judged}
    found = [describe(path, name) for path, name, status in mutants if status in ALIVE]
    new = [entry for entry in found if tuple(entry.values()) not in known]
    FOUND.parent.mkdir(exist_ok=True)
    with FOUND.open("w", encoding="utf-8") as out:
        for entry in new:
            print(f"\n{entry['file']}:{line_number(**entry)} {entry['function']}")
            print(indent(entry["before"], "- "), indent(entry["after"], "+ "), sep="\n")
            rows = (f"{key} = {json.dumps(text)}" for key, text in {**entry, "why": ""}.items())
            print("[[harmless]]", *rows, "", sep="\n", file=out)
    print(f"\n{len(found)} survived, of which {len(new)} are not in {JUDGED}; see {FOUND}.")
    return bool(new)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
