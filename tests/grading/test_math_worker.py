"""The worker's verdicts, in this process: the same in either order, and the same as over its pipe."""

import io
import json
import logging
import signal
import sys
from typing import Any

import pytest

from lynxstop.grading import math_worker
from lynxstop.grading.formula import read_formula
from lynxstop.grading.verify_math import SHARED
from tests.grading.pairs import PAIRS

FORMULAS = [(left, right) for left, right, _ in PAIRS if read_formula(left) and read_formula(right)]


@pytest.fixture
def alarm(monkeypatch: pytest.MonkeyPatch) -> math_worker.Alarm:
    """Its clock would take the place of the one that ends a test."""
    monkeypatch.setattr(signal, "setitimer", lambda *_: None)
    return math_worker.Alarm()


def tree(text: str) -> list[Any]:
    """As the worker reads it from its pipe."""
    found: list[Any] = json.loads(json.dumps(read_formula(text)))
    return found


@pytest.mark.parametrize(("left", "right"), FORMULAS)
def test_the_order_changes_no_verdict(alarm: math_worker.Alarm, left: str, right: str) -> None:
    verdict = alarm.compare(tree(left), tree(right))
    assert alarm.compare(tree(right), tree(left)) is verdict
    assert SHARED.agree(left, right) is verdict


def test_there_are_formulas_of_each_verdict(alarm: math_worker.Alarm) -> None:
    verdicts = [alarm.compare(tree(left), tree(right)) for left, right in FORMULAS]
    assert {True, False, None} == set(verdicts)


def test_what_took_too_long_is_undecided(alarm: math_worker.Alarm, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> bool:
        # As a library that catches everything would go on.
        with pytest.raises(math_worker.Expired):
            alarm.ring(signal.SIGALRM, None)
        return True

    monkeypatch.setattr(math_worker, "_compare", late)
    assert alarm.compare(["number", "1"], ["number", "1"]) is None


def test_it_answers_line_by_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(signal, "setitimer", lambda *_: None)
    monkeypatch.setattr(logging, "disable", lambda *_: None)
    pairs = '[["number","1"],["number","2"]]\n[["root",["number","4"],["number","2"]],["number","2"]]\n'
    monkeypatch.setattr(sys, "stdin", io.StringIO(pairs))
    math_worker.main()
    assert capsys.readouterr().out.splitlines() == ['"ready"', "false", "true"]
