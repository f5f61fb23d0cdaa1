"""Problem files: read in three formats, refused with the place of the fault."""

import csv
import itertools
import json
from dataclasses import replace
from typing import Any

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
        ('{"prompt": "p", "answer": ' + "1" * 5000 + "}", "more digits"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, complaint):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "prompt": "p"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=complaint) as caught:
        load_problems(path)
    assert "p.jsonl, line 3" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"prompt": "a"}\n{"prompt": "b \\ud83d"}', "line 2.*half a character"),
        ('{"prompt": "a", "topic": "\\ud83d"}', "half a character"),
        ("[" * 100_000, "nested"),
        ('{"prompt":' + "[" * 100_000, "nested"),
    ],
    ids=range(4),
)
def test_json_that_is_no_text_is_refused(tmp_path, content, complaint):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(DataError, match=complaint):
        load_problems(tmp_path / "p.jsonl")


@pytest.mark.parametrize("content", ["id,prompt\na\n", "id,prompt\na,b,c\n", 'id,prompt\na,b\nc,"d\n'])
def test_a_ragged_csv_is_refused(tmp_path, content):
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(DataError, match=r"p\.csv, line 2") as caught:
        load_problems(tmp_path / "p.csv")
    assert caught.value.hint


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,answer,prompt\na,1,b\n")
    with pytest.raises(DataError, match="several columns 'prompt'"):
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
AIME_25 = {"problem": "p", "answer": "70", "id": "0"}
BOTH = {"prompt": "p", "question": "q", "gold": "1", "solution": "s"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GSM8K, (content_id(GSM8K["question"]), GSM8K["question"], "1,000", set())),
        (MATH, (content_id(MATH["problem"]), MATH["problem"], "\\frac{1}{2}", {"level"})),
        (MATH_500, ("test/1.json", "p", "3", {"solution"})),
        (AIME, ("2024-I-1", "p", "204", {"Solution"})),
        ({"input": "p", "target": "no box, no sign"}, (content_id("p"), "p", "no box, no sign", set())),
        (AIME_25, ("0", "p", "70", set())),
        (BOTH, (content_id("p"), "p", "1", {"question", "solution"})),
    ],
)
def test_common_data_sets_need_no_flags(tmp_path, row, expected):
    (problem,) = load_problems(write_jsonl(tmp_path / "p.jsonl", [row]))
    assert (problem.id, problem.prompt, problem.answer, set(problem.metadata)) == expected


def test_a_column_that_is_named_is_taken_as_it_is(tmp_path):
    (problem,) = load_problems(write_jsonl(tmp_path / "p.jsonl", [GSM8K]), {"answer": "answer"})
    assert problem.answer == GSM8K["answer"]


GPQA = {
    "Record ID": "rec1", "Question": "Which?", "Correct Answer": "10^-4 eV\n", "Incorrect Answer 1": "1 eV",
    "Incorrect Answer 2": "2 eV", "Incorrect Answer 3": "3 eV", "Explanation": "e", "Subdomain": "Physics",
}  # fmt: skip
CSQA = {
    "id": "075e", "question": "Where?", "question_concept": "c", "answerKey": "C",
    "choices": {"label": ["A", "B", "C"], "text": ["bank", "library", "mall"]},
}  # fmt: skip
MMLU_PRO = {
    "question_id": 70, "question": "Which?", "options": ["one", "two", "three"], "answer": "C",
    "answer_index": 2, "cot_content": "", "category": "business", "src": "ori_mmlu",
}  # fmt: skip
ARC = {
    "id": "M1", "question": "Which?", "answerKey": "2",
    "choices": [{"text": "ice", "label": "1"}, {"text": "air", "label": "2"}],
}  # fmt: skip
MMLU = {"question": "Which?", "subject": "s", "choices": ["one", "two"], "answer": 1}
MEDQA = {"question": "Which?", "options": {"A": "one", "B": "two"}, "answer": "two", "answer_idx": "B"}


@pytest.mark.parametrize(
    ("row", "number", "listed", "gold"),
    [
        (CSQA, "075e", "A. bank\nB. library\nC. mall", "C"),
        (MMLU_PRO, "70", "A. one\nB. two\nC. three", "C"),
        (ARC, "M1", "A. ice\nB. air", "B"),
        (MMLU, None, "A. one\nB. two", "B"),
        ({**MMLU, "choices": ["1", "0"], "answer": 0}, None, "A. 1\nB. 0", "A"),
        ({**MMLU, "choices": ["1", "0"], "answer": "0"}, None, "A. 1\nB. 0", None),
        ({**MMLU, "choices": ["1", "0"], "answer": "B"}, None, "A. 1\nB. 0", "B"),
        (MEDQA, None, "A. one\nB. two", "B"),
        ({**CSQA, "answerKey": ""}, "075e", "A. bank\nB. library\nC. mall", None),
    ],
    ids=[
        "csqa",
        "mmlu-pro",
        "arc",
        "mmlu",
        "index-is-a-text",
        "ambiguous",
        "letter",
        "medqa",
        "without-gold",
    ],
)
@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.parquet"])
def test_choices_in_columns_of_their_own_are_listed(tmp_path, name, row, number, listed, gold):
    path = tmp_path / name
    if name == "p.parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps([row], indent=1) if name == "p.json" else json.dumps(row))
    (problem,) = load_problems(path)
    assert problem.prompt == f"{row['question']}\n\n{listed}\n\nAnswer with the letter of the right choice."
    assert (problem.answer, problem.id) == (gold, number or content_id(problem.prompt))
    assert not {"choices", "options", "answerKey", "answer"} & set(problem.metadata)


def test_gpqa_shows_its_choices_in_an_order_drawn_from_them(tmp_path):
    with (tmp_path / "p.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, list(GPQA))
        rows.writeheader()
        rows.writerow(GPQA)
    (problem,) = load_problems(tmp_path / "p.csv")
    assert problem.id == "rec1"
    lines = str(problem.prompt).splitlines()[2:6]
    assert sorted(line[3:] for line in lines) == ["1 eV", "10^-4 eV", "2 eV", "3 eV"]
    assert f"{problem.answer}. 10^-4 eV" in lines
    assert set(problem.metadata) == {"Explanation", "Subdomain"}
    # the right one is not always at the same place
    others = [{**GPQA, "Record ID": str(i), "Correct Answer": f"{i} J"} for i in range(20)]
    letters = {one.answer for one in load_problems(write_jsonl(tmp_path / "p.jsonl", others))}
    assert letters == set("ABCD")


def test_a_question_that_lists_its_choices_and_a_named_column_stay_as_they_are(tmp_path):
    row = {**MMLU, "question": "Which? (A) one (B) two"}
    assert load_problems(write_jsonl(tmp_path / "p.jsonl", [row]))[0].prompt == row["question"]
    path = write_jsonl(tmp_path / "q.jsonl", [GPQA])
    assert load_problems(path, {"prompt": "Question"})[0].prompt == "Which?"


def test_choices_that_are_no_list_are_refused(tmp_path):
    (tmp_path / "p.csv").write_text("question,options,answer\nWhich?,['one' 'two'],A\n")
    with pytest.raises(DataError, match="'options' holds no list of choices") as caught:
        load_problems(tmp_path / "p.csv")
    assert "--prompt-column" in str(caught.value.hint)


def test_a_file_without_a_prompt_says_what_there_is(tmp_path):
    with pytest.raises(DataError, match="prompt missing") as caught:
        load_problems(write_jsonl(tmp_path / "p.jsonl", [{"id": 1, "text": "p"}]))
    assert "There are: id, text." in str(caught.value.hint)
    assert "--prompt-column" in str(caught.value.hint)


def test_the_same_prompt_twice_without_ids_is_read_once(tmp_path, caplog):
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "p"}, {"prompt": "q"}, {"prompt": "p"}])
    assert [problem.prompt for problem in load_problems(path)] == ["p", "q"]
    assert "1 problems repeat" in caplog.text
    with pytest.raises(DataError, match=r"line 2: the prompt of line 1 again, with another answer"):
        load_problems(write_jsonl(tmp_path / "p.jsonl", [{"prompt": "p", "answer": a} for a in ("1", "2")]))


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_system_text_and_tools_of_a_prompt_are_kept(tmp_path):
    # given them beside the question, with the answer of a training set at the end, or as ShareGPT has it
    chat = [{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}]
    rows: list[dict[str, Any]] = [
        {"messages": [*chat, {"role": "assistant", "content": "2"}], "system": "Be brief.", "tools": [TOOL]},
        {"messages": chat, "system_prompt": "Be brief.", "tools": json.dumps([TOOL])},
        {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]},
    ]
    system = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"})
    for row, prompt in zip(rows, (system, system, "1+1?"), strict=True):
        (problem,) = load_problems(write_jsonl(tmp_path / "p.jsonl", [row]))
        assert problem.prompt == prompt
        # then another set of tools is another problem
        assert problem.tools == ((TOOL,) if "tools" in row else ())
        assert problem.id == content_id(prompt, problem.tools)
        assert (problem.id == content_id(prompt)) is ("tools" not in row)
        assert (digest_problems([problem]) == digest_problems([replace(problem, tools=())])) is (
            "tools" not in row
        )
    with pytest.raises(DataError, match="tools must be a list"):
        load_problems(write_jsonl(tmp_path / "p.jsonl", [{"prompt": "p", "tools": {"name": "add"}}]))


def test_the_usual_files_are_told_apart_by_what_they_hold(tmp_path):
    lines, array = '{"prompt": "p"}\n\n{"prompt": "q"}\n', '[{"prompt": "p"},\n {"prompt": "q"}]'
    for name in ("p.json", "p.jsonl", "P.JSONL", "p.ndjson"):
        for content in (lines, array, "\ufeff" + lines):
            (tmp_path / name).write_text(content)
            assert [problem.prompt for problem in load_problems(tmp_path / name)] == ["p", "q"]
    (tmp_path / "p.json").write_text('{\n "prompt": "p"\n}')
    with pytest.raises(DataError, match="line 1: not valid JSON") as caught:
        load_problems(tmp_path / "p.json")
    assert "array" in str(caught.value.hint)
    with pytest.raises(DataError, match="is a folder") as caught:
        load_problems(tmp_path)
    assert "p.jsonl" in str(caught.value.hint)


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


def test_a_conversation_and_its_tools_reach_the_chat_template_whole():
    class Template:
        chat_template = "x"

        def apply_chat_template(self, turns, tools=None, **settings):
            return json.dumps([turns, tools])

        def encode(self, text, **settings):
            return list(text.encode())

    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"})
    texts = Texts(Template(), Delimiters(("<think>",), ("</think>",)), CueSet(("wait",)))
    assert json.loads(bytes(texts.prompt_ids(chat))) == [list(chat), None]
    assert json.loads(bytes(texts.prompt_ids(chat, (TOOL,)))) == [list(chat), [TOOL]]


def test_a_prompt_that_the_chat_template_does_not_take_is_an_error():
    # given a template as Gemma's, which takes no system text
    class Template:
        chat_template = "x"

        def apply_chat_template(self, turns, **settings):
            raise TypeError("System role not supported.\nat line 3")

    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"})
    texts = Texts(Template(), Delimiters(("<think>",), ("</think>",)), CueSet(("wait",)))
    with pytest.raises(DataError, match=r"Be brief.*: System role not supported\. "):
        texts.prompt_ids(chat)
