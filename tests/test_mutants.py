"""The list of harmless mutants is about code that is there."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_judged_mutants_change_lines_that_exist() -> None:
    entries = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["harmless"]
    for entry in entries:
        lines = (line.strip() for line in (ROOT / entry["file"]).read_text().splitlines())
        assert entry["before"] in "\n".join(lines), entry
        assert entry["before"] != entry["after"]
        assert entry["why"], entry
