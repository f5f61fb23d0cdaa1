"""Problem files: read in three formats, refused with the place of the fault."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lynxstop.errors import DataError
from lynxstop.recordings.problems import Problem, digest_problems, load_problems

ROWS = [
    {"id": "a", "prompt": "1+1?", "answer": "2", "family": "sum"},
    {"id": "b", "prompt": "2,\n2?", "answer": None, "family": "list"},
]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_three_formats_agree(tmp_path):
    # given the same problems as JSON lines, CSV and Parquet
    jsonl = write_jsonl(tmp_path / "p.jsonl", ROWS)
    (tmp_path / "p.csv").write_text('id,prompt,answer,family\na,1+1?,2,sum\nb,"2,\n2?",,list\n')
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "p.parquet")
    # then they read the same, further columns included
    expected = [
        Problem("a", "1+1?", "2", {"family": "sum"}),
        Problem("b", "2,\n2?", None, {"family": "list"}),
    ]
    for path in (jsonl, tmp_path / "p.csv", tmp_path / "p.parquet"):
        assert load_problems(path) == expected


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{broken", "JSON"),
        ("[1]", "object"),
        ('{"id": "x"}', "prompt missing"),
        ('{"id": "x", "prompt": ""}', "prompt missing"),
        ('{"id": "x", "prompt": 5}', "string"),
        ('{"id": ["x"], "prompt": "p"}', "id must be"),
        ('{"id": "x", "prompt": "p", "answer": true}', "answer must be"),
        ('{"id": "a", "prompt": "p"}', "line 1 already"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, complaint):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "prompt": "p"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=complaint) as caught:
        load_problems(path)
    assert "p.jsonl, line 3" in str(caught.value)


@pytest.mark.parametrize("content", ["id,prompt\na\n", "id,prompt\na,b,c\n", 'id,prompt\na,b\nc,"d\n'])
def test_a_ragged_csv_is_refused(tmp_path, content):
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(DataError, match=r"p\.csv, line 2"):
        load_problems(tmp_path / "p.csv")


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.parquet", "p.txt"])
def test_missing_empty_or_binary_files_are_refused(tmp_path, name):
    for content in (None, b"", b"\xff\xfe\x00"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError):
            load_problems(tmp_path / name)


def test_the_digest_sees_content_and_order():
    a, b = Problem("a", "p", "1"), Problem("b", "p", "1")
    assert digest_problems([a, b]) != digest_problems([b, a])
    assert digest_problems([a]) != digest_problems([Problem("a", "p", "2")])
    assert digest_problems([a]) != digest_problems([Problem("a", "p", "1", {"split": "test"})])
