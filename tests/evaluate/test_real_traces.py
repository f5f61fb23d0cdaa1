"""The study of a real model's forced letters, on a made-up recording of the same form."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lynxstop.errors import DataError
from lynxstop_research.real_traces import FULL, LETTERS, at_cuts, ending, oracle, read_letters, study

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "real_traces.py"
Row = dict[str, Any]


def row(problem: int, decile: int, letter: str, share: float, gold: str, tokens: int = 1000) -> Row:
    """A made-up row: `letter` has probability `share`, the others divide 90% of the rest."""
    other = math.log((1 - share) * 0.3)
    return {
        "question_id": f"made-up-{problem:03}",
        "decile": decile,
        "prefix_token_count": tokens * decile // FULL,
        "trace_token_count": tokens,
        "prediction": letter,
        "correct": letter == gold,
        **{f"logprob_{one}": math.log(share) if one == letter else other for one in LETTERS},
    }


def write(path: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def made_up(problems: int = 120, seed: int = 0) -> list[Row]:
    """Traces that settle on their last letter at some cut, and are sure from then on."""
    rng = np.random.default_rng(seed)
    rows = []
    for problem in range(problems):
        final, gold = rng.choice(list(LETTERS), 2)
        settles = int(rng.integers(1, 8))
        for place in range(11):
            known = place >= settles
            letter = final if known else str(rng.choice([x for x in LETTERS if x != final]))
            share = rng.uniform(0.9, 0.99) if known else rng.uniform(0.3, 0.7)
            rows.append(row(problem, 10 * place, letter, share, gold))
    return rows


def test_cuts_and_the_oracle_by_hand(tmp_path: Path) -> None:
    first = [row(0, d, "A" if d < 30 else "B", 0.8, "B") for d in range(0, 101, 10)]
    second = [row(1, d, "C" if d < 100 else "D", 0.8, "C") for d in range(0, 101, 10)]

    path = write(tmp_path / "made.parquet", [*second, *first])
    cuts = at_cuts(read_letters(path))

    assert [cut["disagree"] for cut in cuts] == [1.0, 1.0, *[0.5] * 7]
    assert [cut["harm"] for cut in cuts] == [0.5, 0.5, *[0.0] * 7]
    assert [cut["right"] for cut in cuts] == [0.5, 0.5, *[1.0] * 7]
    # The first trace agrees from 30% on, the second never does.
    assert oracle(read_letters(path), "disagree") == pytest.approx(0.35)
    # Only the first loses a right answer, at its first two cuts.
    assert oracle(read_letters(path), "harm") == pytest.approx((0.7 + 0.9) / 2)
    shares = np.array([0.8, 0.06, 0.06, 0.06]) / 0.98
    assert ending(path) == pytest.approx((1 - (shares**2).sum(), 0.98))


def test_a_sure_letter_saves_at_the_certified_risk_and_a_budget_saves_less(tmp_path: Path) -> None:
    table = read_letters(write(tmp_path / "made.parquet", made_up()))

    found = {
        one.rule: one for one in study(table, losses=["disagree"], levels=[0.1], certify_on=60, splits=4)
    }

    for rule in ("deer", "letter-share", "letter-probe"):
        assert found[rule].saved.mean() > 0.5
        assert found[rule].risk.max() <= 0.1
        assert not found[rule].refused.any()
    assert found["budget"].saved.mean() < found["deer"].saved.mean() - 0.2
    # A budget that is not charged for the wait until the next cut loses as much, and saves at least as much.
    assert (found["budget, generous"].risk == found["budget"].risk).all()
    assert found["budget, generous"].saved.mean() > found["budget"].saved.mean()
    assert found["deer"].saved.mean() <= oracle(table, "disagree") + 0.05


def test_letters_without_information_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [
        row(problem, 10 * place, str(rng.choice(list(LETTERS))), rng.uniform(0.3, 0.9), "A")
        for problem in range(100)
        for place in range(11)
    ]
    table = read_letters(write(tmp_path / "made.parquet", rows))

    (found,) = [
        one
        for one in study(table, losses=["disagree"], levels=[0.05], certify_on=70, splits=3)
        if one.rule == "letter-probe"
    ]

    assert found.saved.mean() < 0.05
    assert found.refused.mean() > 0.5


def test_a_table_of_another_form_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"question_id": ["made-up"]}), other)
    with pytest.raises(DataError, match="no table of forced answer letters"):
        read_letters(other)
    with pytest.raises(DataError, match="without its row of decile 100"):
        read_letters(write(tmp_path / "short.parquet", made_up(5)[:-1]))
    with pytest.raises(DataError, match="too few are left to measure"):
        study(read_letters(write(tmp_path / "few.parquet", made_up(20))), certify_on=15)


def test_the_command_prints_the_tables_and_skips_without_the_recording(tmp_path: Path) -> None:
    def run(folder: Path) -> str:
        command = [sys.executable, str(SCRIPT), str(folder), "--splits", "1", "--certify-on", "60"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert run(tmp_path).startswith("Skipped")
    write(tmp_path / "gemma4-12b-gpqa-diamond.parquet", made_up(90))
    printed = run(tmp_path)
    assert "The oracle of `harm`, which exits at the first cut without that loss, saves" in printed
    assert "letters have a median probability of" in printed
    assert "refused" in printed
    assert "| `letter-probe` |" in printed
    assert "| `harm` certified at |" in printed
    assert "| 90% |" in printed
