"""Problems through the `datasets` library, from a local folder."""

import json

import pytest
from typer.testing import CliRunner

from lynxstop.cli import app
from lynxstop.errors import DataError
from lynxstop.recordings.hub import HubName
from lynxstop.recordings.problems import load_problems
from lynxstop.recordings.prompts import content_id

ROWS = [
    {"question": "1+1?", "solution": "2", "subject": "sums"},
    {"question": "2*3?", "solution": "6", "subject": "products"},
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    made = tmp_path / "sums"
    made.mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[1:])):
        (made / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://openai/gsm8k:main/test", HubName("openai/gsm8k", "test", "main")),
        ("hf://a/b@v2/train[:5%]", HubName("a/b", "train[:5%]", None, "v2")),
        ("hf://a/b@v2:c/train", HubName("a/b", "train", "c", "v2")),
        ("hf://./folder/train", HubName("./folder", "train")),
        ("hf:///a/folder/train", HubName("/a/folder", "train")),
    ],
)
def test_names_are_taken_apart(text, expected):
    assert HubName.parse(text) == expected


@pytest.mark.parametrize("text", ["hf://gsm8k", "hf://a/b:c", "hf:///", "hf://a/b@/test"])
def test_other_forms_are_refused(text):
    with pytest.raises(DataError, match="does not name a data set"):
        load_problems(text)


def test_columns_are_mapped_and_ids_are_digests_of_prompts(folder):
    columns = {"prompt": "question", "answer": "solution"}
    train = load_problems(f"hf://{folder}/train", columns)
    assert [(p.prompt, p.answer, dict(p.metadata)) for p in train] == [
        ("1+1?", "2", {"subject": "sums"}),
        ("2*3?", "6", {"subject": "products"}),
    ]
    # the same problem is the same in every split and slice, so that a leak is seen
    assert load_problems(f"hf://{folder}/test", columns)[0].id == train[1].id == content_id("2*3?")
    assert load_problems(f"hf://{folder}/train[1:]", columns) == train[1:]


def test_configurations_are_told_apart(folder):
    (folder / "hard.jsonl").write_text('{"prompt": "17*23?", "answer": "391"}\n')
    (folder / "easy.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n')
    files = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("easy", "hard"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{files}---\n")
    for name, answer in (("easy", "2"), ("hard", "391")):
        (problem,) = load_problems(f"hf://{folder}:{name}/train")
        assert problem.answer == answer


def test_a_revision_is_asked_for(folder, monkeypatch):
    import datasets

    asked = []

    def load_dataset(*names, **options):
        asked.append(options)
        return datasets.Dataset.from_list([])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError):
        load_problems(f"hf://{folder}@v2/train")
    assert asked == [{"split": "train", "revision": "v2"}]


def test_a_broken_row_is_named_by_its_number(folder):
    (folder / "test.jsonl").unlink()
    (folder / "train.jsonl").write_text('{"prompt": "1+1?"}\n{"prompt": null}\n')
    with pytest.raises(DataError, match="line 2:"):
        load_problems(f"hf://{folder}/train")


def test_an_id_column_can_be_named(folder):
    named = load_problems(f"hf://{folder}/train", {"prompt": "question", "id": "subject"})
    assert [problem.id for problem in named] == ["sums", "products"]


@pytest.mark.parametrize(
    ("name", "columns", "complaint"),
    [
        ("train", {"prompt": "text"}, "no column 'text'"),
        ("validation", {"prompt": "question"}, "validation"),
    ],
)
def test_what_is_not_there_is_named(folder, name, columns, complaint):
    with pytest.raises(DataError, match=complaint):
        load_problems(f"hf://{folder}/{name}", columns)


def test_a_data_set_that_cannot_be_had_is_one_error(folder):
    with pytest.raises(DataError, match="cannot be read"):
        load_problems("hf://nobody/nothing/train")


def test_the_command_takes_a_name(folder, tmp_path):
    # the broken recipe stops it behind the problems
    done = CliRunner().invoke(
        app, ["collect", "none", f"hf://{folder}/train", str(tmp_path / "out"), "--prompt-column", "text"]
    )
    assert isinstance(done.exception, DataError)
    assert done.exception.hint == "There are: question, solution, subject."


def test_columns_are_mapped_in_files_too(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("id,answer,question,final\na,long,1+1?,2\n")
    (problem,) = load_problems(path, {"prompt": "question", "answer": "final"})
    assert (problem.id, problem.prompt, problem.answer, dict(problem.metadata)) == ("a", "1+1?", "2", {})
