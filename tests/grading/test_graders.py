"""Graders by name, and those of the user."""

import pickle
import sys

import pytest

from lynxstop.errors import ConfigError
from lynxstop.grading.graders import GRADERS, grader_named, name_of, same_of
from lynxstop.grading.grading import grade


@pytest.mark.parametrize(
    ("name", "answer", "other", "same"),
    [
        ("choice", "B", "(B)", True),
        ("choice", "B. New York", "B", True),
        ("choice", "B) 12", "C) 12", False),
        ("choice", "New York", "B", False),
        ("choice", r"\text{B}", "B", True),
        ("choice", r"\textbf{(B)} 12", r"\mathrm{b}", True),
        ("choice", r"$\text{B. }12$", "C", False),
        ("choice", "B", "New York", None),
        ("yes-no", "Yes, it does.", "true", True),
        ("yes-no", "**No**", "yes", False),
        ("yes-no", "y", "Yes", True),
        ("yes-no", "N", "false", True),
        ("yes-no", r"\text{Yes}", "yes", True),
        ("yes-no", r"\textbf{No}", "yes", False),
        ("yes-no", "Perhaps", "yes", None),
        ("yes-no", "Nothing", "no", None),
        ("yes-no", "Yes and no", "yes", None),
        ("yes-no", "Yes/No", "yes", None),
        ("yes-no", "True or False?", "true", None),
        ("yes-no", "N/A", "no", None),
        ("yes-no", "Yes, and not before", "yes", True),
        ("choice", "B'", "B", False),
        ("json", '{"a": 1, "b": [true, null]}', '{"b": [true, null], "a": 1.0}', True),
        ("json", '{"a": 1}', '{"a": true}', False),
        ("json", "[1, 2]", "[2, 1]", False),
        ("json", "[1, 2]", "[1, 2, 3]", False),
        ("json", "[1, 2, 3]", "[1, 2]", False),
        ("json", '{"a": 1}', '{"a": 1, "b": 2}', False),
        ("json", '{"a": NaN}', '{"a": NaN}', True),
        ("json", '{"a": NaN}', '{"a": 1}', False),
        ("json", '{"a": 1e400}', '{"a": 1e500}', False),
        ("json", '{"a": 0.1}', '{"a": 0.10000000000000001}', False),
        ("json", '{"a": 1e-3}', '{"a": 0.001}', True),
        ("json", f"[1e{'9' * 30}]", "[1]", None),
        ("json", "none", "{}", None),
        ("json", "1" * 5000, "{}", None),
        ("text", "a  b\nc", "a b c", True),
        ("text", "a b", "A b", False),
        ("math", "0.5", "1/2", True),
    ],
)
def test_when_two_answers_are_the_same(name, answer, other, same):
    assert same_of(grader_named(name))(answer, other) is same


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('So:\n```json\n{"a": 1}\n```\nDone.', '{"a": 1}'),
        ('First {"a": 1}, no: {"a": {"b": 2}}.', '{"a": {"b": 2}}'),
        ("[1, 2]", "[1, 2]"),
        ("```json\n[1]\n```\nNo:\n```\n[2]\n```\nas [3] says.", "[2]"),
        ("{broken", ""),
        ('{"a": ' + "1" * 5000 + "} or [2]", "[2]"),
    ],
)
def test_json_is_found_in_text(text, answer):
    assert GRADERS["json"](text, None).answer == answer


@pytest.mark.parametrize(("name", "gold"), [("choice", "B"), ("yes-no", "no")])
def test_a_box_goes_before_the_whole_text(name, gold):
    assert GRADERS[name](f"Yes, A looks right. \\boxed{{{gold}}}", gold).right is True


def test_grades_say_right_wrong_unknown_and_missing():
    graded = [GRADERS["yes-no"](text, gold) for text, gold in (("yes", "yes"), ("yes", "no"), ("hm", "no"))]
    assert [(g.status, g.right) for g in graded] == [("parsed", True), ("parsed", False), ("timeout", None)]
    assert (GRADERS["text"](" ", "a").status, GRADERS["text"](" ", None).right) == ("unparsed", None)
    assert grader_named("math") is grade


def test_a_function_of_the_user_compares_whole_answers(tmp_path, monkeypatch):
    (tmp_path / "own_grader.py").write_text(
        "def same(a, b):\n    return None if '?' in a else a.lower() == b.lower()\n"
        "def odd(a, b):\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    grader = grader_named("own_grader:same")
    assert [grader(text, "Free Text").right for text in ("free text", "else", "what?")] == [True, False, None]
    assert name_of(grader) == "own_grader:same"
    assert pickle.dumps(grader), "it reaches other processes"
    with pytest.raises(ConfigError, match="returned int"):
        grader_named("own_grader:odd")("a", "b")
    del sys.modules["own_grader"]


@pytest.mark.parametrize("name", ["nobody", "no.such.module:f", "json:no_such", "json:decoder", ":f"])
def test_a_grader_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError):
        grader_named(name)
