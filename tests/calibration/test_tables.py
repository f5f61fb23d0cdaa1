"""Score tables in CSV and Parquet."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lynxstop.calibration.evidence import read_evidence, write_evidence
from lynxstop.calibration.tables import read_table, read_weights
from lynxstop.errors import ConfigError, DataError

CSV = """trace_id,problem_id,cue,score,loss,tokens,full_tokens,route
t2,p2,,,,,70,chat
t1,p1,1,0.25,,20,90,code
t1,p1,0,-1.5,1,10,90,code
t3,p1,0,3,0,5,50,code
"""


@pytest.fixture
def csv(tmp_path):
    """Return a writer of CSV files."""

    def write(text):
        path = tmp_path / "table.csv"
        path.write_text(text)
        return path

    return write


def test_csv_is_read_in_any_order(csv):
    # given rows out of order, a trace without cues and an unknown loss
    table = read_table(csv(CSV), by="route")
    # then traces are in the order of their ids, cues in theirs
    assert table.trace_ids.tolist() == ["t1", "t2", "t3"]
    assert table.problem_ids.tolist() == ["p1", "p2", "p1"]
    assert table.lengths.tolist() == [2, 0, 1]
    assert table.scores.tolist() == [-1.5, 0.25, 3.0]
    assert np.array_equal(table.losses, [1, np.nan, 0], equal_nan=True)
    assert table.tokens is not None
    assert table.full_tokens is not None
    assert table.groups is not None
    assert (table.tokens.tolist(), table.full_tokens.tolist()) == ([10, 20, 5], [90, 70, 50])
    assert table.groups.tolist() == ["code", "chat", "code"]


def test_a_number_that_is_missing_among_names_is_missing(tmp_path):
    # given groups that are numbers, as a spreadsheet with an empty cell makes of them
    path = tmp_path / "table.parquet"
    names = {"trace_id": ["a", "b"], "problem_id": ["p", "q"]}
    columns = {**names, "cue": [0, 0], "score": [0.5, 1.5], "loss": [0, 1]}
    pq.write_table(pa.table({**columns, "route": [2.0, math.nan]}), path)
    with pytest.raises(DataError, match="route"):
        read_table(path, by="route")
    pq.write_table(pa.table({**columns, "route": [2.0, 3.0]}), path)
    groups = read_table(path, by="route").groups
    assert groups is not None
    assert [float(name) for name in groups] == [2.0, 3.0]


def test_numeric_ids_stay_text(csv):
    table = read_table(csv("trace_id,problem_id,cue,score,loss\n007,1,0,1,0\n7,2,0,1,0\n"))
    assert table.trace_ids.tolist() == ["007", "7"]


def test_numeric_groups_stay_text(csv):
    text = "trace_id,problem_id,cue,score,loss,route\na,1,0,1,0,007\nb,2,0,1,0,7\n"
    groups = read_table(csv(text), by="route").groups
    assert groups is not None
    assert groups.tolist() == ["007", "7"]


def test_a_prompt_may_be_unknown(tmp_path):
    columns = {"trace_id": ["a", "b"], "problem_id": ["p", "q"], "cue": [0, 0], "score": [0.5, 1.5]}
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({**columns, "loss": [0, 1], "prompt_sha256": ["0" * 64, None]}), path)
    prompts = read_table(path).prompts
    assert prompts is not None
    assert prompts.tolist() == ["0" * 64, ""]


def test_an_error_in_the_rows_names_the_file(csv):
    path = csv("trace_id,problem_id,cue,score,loss\na,1,0,1,0\na,1,0,2,0\n")
    with pytest.raises(DataError, match=r"duplicated in .*table\.csv"):
        read_table(path)


def test_another_loss_column_can_be_named(csv):
    path = csv("trace_id,problem_id,cue,score,loss,harm\nt,p,0,1,1,0\n")
    assert read_table(path, loss="harm").losses.tolist() == [0]
    assert read_table(path, loss="disagree").losses.tolist() == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("t1,p1,1,0.25", "t1,p1,1,"), "score of trace 't1'.* is empty or NaN"),
        (("t1,p1,1,0.25", "t1,p1,1,nan"), "score of trace 't1'.* is empty or NaN"),
        (("t1,p1,1,0.25", "t1,p1,1,high"), "cannot be read"),
        (("t1,p1,1,", "t1,p1,0,"), "'t1' is duplicated"),
        (("t1,p1,1,", "t1,p1,,"), "t1"),
        (("t1,p1,1,", "t1,p1,wait,"), "cannot be read"),
        (("t1,p1,1,", "t1,p2,1,"), "disagree about problem_id"),
        (("t1,p1,1,", ",p1,1,"), "empty|no trace_id"),
        (("t1,p1,1,0.25,,20,90,code", "t1,p1,1,0.25,,20,90,chat"), "disagree about route"),
        (("t1,p1,1,0.25,,20,90", "t1,p1,1,0.25,,20,91"), "disagree about full_tokens"),
        (("t1,p1,1,0.25,,20", "t1,p1,1,0.25,,"), "token count"),
        (("0,-1.5,1", "0,-1.5,2"), "outside"),
        (("full_tokens", "total"), "only one of the columns"),
        (("score", "logit"), "no column 'score'"),
        (("route", "tenant"), "no column 'route'"),
    ],
)
def test_bad_tables_are_refused(csv, change, message):
    with pytest.raises(DataError, match=message):
        read_table(csv(CSV.replace(*change)), by="route")


def test_an_empty_table_is_refused(csv):
    with pytest.raises(DataError):
        read_table(csv(CSV.splitlines()[0] + "\n"))


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "table.xlsx"])
def test_files_that_are_no_tables_are_refused(tmp_path, name):
    with pytest.raises(DataError):
        read_table(tmp_path / name)


def test_damaged_parquet_is_refused(tmp_path):
    path = tmp_path / "table.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError):
        read_table(path)
    with pytest.raises(DataError):
        read_evidence(path)


def test_parquet_is_read(tmp_path):
    path = tmp_path / "table.parquet"
    columns = {
        "trace_id": ["a", "b"],
        "problem_id": [1, 2],
        "cue": [0, None],
        "score": [0.1, None],
        "loss": [True, None],
    }
    pq.write_table(pa.table(columns), path)
    table = read_table(path)
    assert (table.lengths.tolist(), table.scores.tolist()) == ([1, 0], [np.float32(0.1)])


@pytest.mark.parametrize("groups", [False, True])
def test_evidence_comes_back_as_it_was(simulated, tmp_path, groups):
    table = simulated(60, groups=groups)
    unsure = replace(table, losses=np.where(table.scores > 1, np.nan, table.losses))
    write_evidence(unsure, tmp_path / "evidence.parquet")
    assert read_evidence(tmp_path / "evidence.parquet").digest() == unsure.digest()


def test_weights_are_matched_by_trace(csv):
    table = read_table(csv(CSV))
    weights = csv("trace_id,weight\nt3,3\nt1,1\nt2,2\n")
    assert read_weights(weights, table.trace_ids).tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="exactly one weight"):
        read_weights(csv("trace_id,weight\nt3,3\nt1,1\n"), table.trace_ids)


@pytest.mark.parametrize("loss", ["toxicty", "score", "tokens"])
def test_a_loss_that_is_no_column_of_its_own_is_refused(csv, loss):
    # given a table with the column `loss`, and one of the user's own
    path = csv("trace_id,problem_id,cue,score,loss,toxicity\nt,p,0,1,0,1\n")
    assert read_table(path, loss="toxicity").losses.tolist() == [1]
    # when the name of that one is misspelt, then `loss` does not stand in for it
    with pytest.raises(ConfigError, match=loss) as caught:
        read_table(path, loss=loss)
    assert caught.value.hint is not None
    assert "disagree" in caught.value.hint
    assert "toxicity" in caught.value.hint
