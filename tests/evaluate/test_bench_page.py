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
        (["4 ms", "3 ms"], "3 ms (3 to 4)"),
        (["1.2 (1 to 2)", "1.1 (1 to 3)"], "1.1 (1 to 3)"),
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


def result(title: str, *values: str, how: str = "2026-01-01, idle.", failed: str = "") -> Result:
    runs = [tables_of(MARKDOWN.replace("1.5", value)) for value in values]
    return Result(title, "Its cost.", f"python benchmarks/{title}.py", runs, (1.0, 2.0, 3.0), how, failed)


def test_the_page_has_command_runs_and_failures() -> None:
    text = page([result("Core", "1", "2", "4"), result("Proxy", failed="it ended with status 1")])

    assert "| core | 2 ms (1 to 4) |" in text
    assert "`python benchmarks/Core.py`, 3 runs, 2 s each. 2026-01-01, idle." in text
    assert "No figures: it ended with status 1" in text


def test_a_section_that_is_not_measured_again_keeps_its_place_and_date() -> None:
    before = page([result("Core", "1"), result("Proxy", "2"), result("Memory", "3")])

    after = page([result("Proxy", "5", how="2026-02-02, busy.")], before)

    assert after == before.replace("| core | 2 ms |", "| core | 5 ms |").replace(
        "Proxy.py`, 3 runs, 2 s each. 2026-01-01, idle.", "Proxy.py`, 3 runs, 2 s each. 2026-02-02, busy."
    )
