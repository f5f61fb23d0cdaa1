"""The page of benchmarks: tables are found in what is printed, and figures of several runs become ranges."""

import pytest

from lynxstop_research.bench_page import Result, merge, merged, page, tables_of

MARKDOWN = """First words.

| what | time |
|---|---|
| core | 1.5 ms |
"""
BOX = """┏━━━━━┳━━━━━━┓
┃ what ┃ time ┃
┡━━━━━╇━━━━━━┩
│ core │  1.5 │
└─────┴──────┘
"""
ALIGNED = """reasoner            wall
first load        1.5 ms
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (MARKDOWN, [[["First words."]], [["what", "time"], ["core", "1.5 ms"]]]),
        (BOX, [[["what", "time"], ["core", "1.5"]]]),
        (ALIGNED, [[["reasoner", "wall"], ["first load", "1.5 ms"]]]),
    ],
)
def test_tables_are_found_however_they_are_drawn(text: str, found: object) -> None:
    assert tables_of(text) == found


@pytest.mark.parametrize(
    ("runs", "cell"),
    [
        (["3 ms", "1 ms", "2 ms"], "2 ms (1 to 3)"),
        (["+1,200", "+900", "+1,000"], "+1,000 (+900 to +1,200)"),
        (["same 5", "same 5", "same 5"], "same 5"),
        (["1.02 (1.01 to 1.03)", "1.00 (0.9 to 1.1)", "1.05 (1.0 to 1.1)"], "1.02 (1.01 to 1.03)"),
        (["2", "none"], "2 / none"),
        (["rpdi:32", "rpdi:32"], "rpdi:32"),
    ],
)
def test_a_cell_of_several_runs_is_a_median_with_its_range(runs: list[str], cell: str) -> None:
    assert merge(runs) == cell


def test_runs_of_another_form_are_not_mixed() -> None:
    first, second = tables_of(MARKDOWN), tables_of(MARKDOWN + "| more | 2 ms |\n")

    assert merged([first, second]) == first


def test_the_page_has_command_runs_and_failures() -> None:
    runs = [tables_of(MARKDOWN.replace("1.5", value)) for value in ("1", "2", "4")]
    worked = Result("Core", "Its cost.", "python benchmarks/core.py", runs, (1.0, 2.0, 3.0))
    failed = Result("Proxy", "Its cost.", "python benchmarks/proxy.py", (), (1.0,), "it ended with status 1")

    text = page([worked, failed], ["Command: `make bench`, 2026-01-01."])

    assert "| core | 2 ms (1 to 4) |" in text
    assert "`python benchmarks/core.py`, 3 runs, 2 s each." in text
    assert "No figures: it ended with status 1" in text
    assert "2026-01-01" in text
