"""Problem files: read in three formats, refused with the place of the fault."""

import itertools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lynxstop.collect.texts import Texts
from lynxstop.core.cues import CueSet
from lynxstop.core.thinking import Delimiters
from lynxstop.errors import DataError
from lynxstop.recordings.columns import NAMES
from lynxstop.recordings.problems import Problem, digest_problems, load_problems
from lynxstop.recordings.prompts import content_id

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
        ('{"id": "", "prompt": "p"}', "id missing"),
        ('{"prompt": []}', "prompt missing"),
        ('{"prompt": [{"role": "user"}]}', "a role and a content"),
        ('{"prompt": [{"role": "user", "content": [{"type": "image"}]}]}', "a role and a content"),
        ('{"prompt": [{"role": "assistant", "content": "a"}]}', "not the user"),
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


@pytest.mark.parametrize(
    ("prompt", "answer"), [*itertools.product(NAMES["prompt"][:4], NAMES["answer"]), ("PROBLEM", "Answer")]
)
def test_columns_of_the_usual_names_are_found_and_an_id_is_a_digest(tmp_path, prompt, answer):
    (tmp_path / "p.csv").write_text(f"level,{prompt},{answer}\n5,1+1?,2\n")
    assert load_problems(tmp_path / "p.csv") == [Problem(content_id("1+1?"), "1+1?", "2", {"level": "5"})]


GSM8K = {"question": "Ann has 2 boxes of 500.", "answer": "2 * 500 = <<2*500=1000>>1000\n#### 1,000"}
MATH = {"problem": "What is $1/2$?", "level": "Level 1", "solution": "It is $\\boxed{\\frac{1}{2}}$ at last."}
MATH_500 = {"problem": "p", "solution": "So \\boxed{3}.", "answer": "3", "unique_id": "test/1.json"}
AIME = {"ID": "2024-I-1", "Problem": "p", "Solution": "Thus \\boxed{204}.", "Answer": 204}
BOTH = {"prompt": "p", "question": "q", "gold": "1", "solution": "s"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GSM8K, (content_id(GSM8K["question"]), GSM8K["question"], "1,000", set())),
        (MATH, (content_id(MATH["problem"]), MATH["problem"], "\\frac{1}{2}", {"level"})),
        (MATH_500, ("test/1.json", "p", "3", {"solution"})),
        (AIME, ("2024-I-1", "p", "204", {"Solution"})),
        ({"input": "p", "target": "no box, no sign"}, (content_id("p"), "p", "no box, no sign", set())),
        (BOTH, (content_id("p"), "p", "1", {"question", "solution"})),
    ],
)
def test_common_data_sets_need_no_flags(tmp_path, row, expected):
    (problem,) = load_problems(write_jsonl(tmp_path / "p.jsonl", [row]))
    assert (problem.id, problem.prompt, problem.answer, set(problem.metadata)) == expected


def test_a_column_that_is_named_is_taken_as_it_is(tmp_path):
    (problem,) = load_problems(write_jsonl(tmp_path / "p.jsonl", [GSM8K]), {"answer": "answer"})
    assert problem.answer == GSM8K["answer"]


def test_gpqa_is_refused_with_what_is_missing(tmp_path):
    row = {"Question": "q", "Correct Answer": "a", **{f"Incorrect Answer {i}": "b" for i in (1, 2, 3)}}
    path = write_jsonl(tmp_path / "p.jsonl", [row])
    with pytest.raises(DataError, match="choices are in columns of their own") as caught:
        load_problems(path)
    assert "--grader choice" in str(caught.value.hint)
    assert load_problems(path, {"prompt": "Question"})[0].prompt == "q"


def test_a_file_without_a_prompt_says_what_there_is(tmp_path):
    with pytest.raises(DataError, match="prompt missing") as caught:
        load_problems(write_jsonl(tmp_path / "p.jsonl", [{"id": 1, "text": "p"}]))
    assert "There are: id, text." in str(caught.value.hint)
    assert "--prompt-column" in str(caught.value.hint)


def test_the_same_prompt_twice_without_ids_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 2: the prompt of line 1 again.*--samples"):
        load_problems(write_jsonl(tmp_path / "p.jsonl", [{"prompt": "p"}, {"prompt": "p"}]))


def test_a_prompt_may_be_a_conversation(tmp_path):
    # given a system text before the question, as JSON lines and as Parquet
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    rows = [{"prompt": chat, "answer": "2"}, {"prompt": chat[1:], "answer": "2"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    for path in (write_jsonl(tmp_path / "p.jsonl", rows), tmp_path / "p.parquet"):
        first, second = load_problems(path)
        # then it is kept, and a lone message of the user is its text
        assert first.prompt == tuple(chat)
        assert (second.prompt, second.id) == ("1+1?", content_id("1+1?"))
        assert first.id != second.id
        assert len(digest_problems([first])) == 64


def test_a_conversation_reaches_the_chat_template_whole():
    class Template:
        chat_template = "x"

        def apply_chat_template(self, turns, **settings):
            return json.dumps(turns)

        def encode(self, text, **settings):
            return list(text.encode())

    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"})
    ids = Texts(Template(), Delimiters(("<think>",), ("</think>",)), CueSet(("wait",))).prompt_ids(chat)
    assert json.loads(bytes(ids)) == list(chat)
