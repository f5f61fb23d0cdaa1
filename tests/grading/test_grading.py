"""Grading: hard pairs, and properties every comparison has."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynxstop.errors import ConfigError
from lynxstop.grading import verify_math
from lynxstop.grading.extract import extract_answer
from lynxstop.grading.grading import answers_agree, grade
from lynxstop.grading.verify_math import MathWorker
from tests.grading.pairs import PAIRS

MAY: dict[str, set[bool | None]] = {
    "equal": {True}, "different": {False}, "not equal": {False, None}, "not different": {True, None},
}  # fmt: skip
HOSTILE = [
    "9^9^9^9",
    "9^{9^{9^9}}",
    "9" * 10**6 + "!",
    "1000000!",
    "(" * 5000 + "1" + ")" * 5000,
    "e^{e^{e^{e^{e}}}}",
    r"\frac{" * 25 + "1" + "}{2}" * 25,
    "(x+y+z)^{300}",
    r"(1+\sqrt2+\sqrt3+\sqrt5)^{200}",
    "1," * 900 + "1",
    "5" + " million" * 200,
    ", ".join(rf"\sqrt{{{k}}}+\sqrt{{{k + 1}}}+\sqrt{{{k + 3}}}" for k in range(2, 42)),
]

SAME = [
    ("7", "7.0"), ("1,234", "1234"), ("1{,}234", "1234"), ("007", "7"), ("+3", "3"), (".5", "0.5"),
    ("1/2", "0.5"), (r"\frac12", "1/2"), (r"\dfrac{1}{2}", r"\frac{2}{4}"), (r"-\frac{3}{4}", "-0.75"),
    (r"\frac{\frac{1}{2}}{3}", "1/6"), (r"\frac{1}{\frac{2}{3}}", "1.5"), (r"1\frac{1}{2}", "3/2"),
    ("1 1/2", "1.5"),
    ("2^{10}", "1024"), (r"3 \times 10^4", "30000"), ("1e3", "1000"),
    ("50%", "50"), (r"50\%", r"\frac{1}{2}"), ("50%", "0.5"), ("5 cm", "5"), (r"5\text{ cm}", "5 cm"),
    ("5 apples", "5 apple"), (r"30^\circ", "30"), ("$12", "12"), (r"\$12.50", "12.5"),
    ("x = 3", "3"), ("x=3", "x = 3"), ("$x=3$", "3"),
    ("(1, 2)", "(1,2)"), (r"\left( 1, \frac{1}{2} \right)", "(1, 0.5)"), (r"\{1,2\}", r"\{2,1\}"),
    ("1, 2", "2, 1"),
    ("1 and 2", "1,2"), (r"\{3\}", "3"), ("1,2", "(1,2)"), (r"\pm 3", "3, -3"), (r"\emptyset", r"\{\}"),
    (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)"), ("[0, 1)", "[0,1)"),
    ("B", "(B)"), (r"\text{B}", "B"), ("B", "b"), ("(B) 12", "B"), ("option C", "C"), ("Yes", "yes"),
    ("no", "false"),
    ("Paris", "paris"), (r"2^{10^6}", r"2^{10^6}"),
    (r"\sqrt{8}", r"2\sqrt{2}"), ("x+1", "1+x"), (r"(x+1)^2", "x^2+2x+1"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"\frac{\pi}{2}", r"\pi/2"), ("f(x) = 2x+1", "1+2x"), ("sqrt(8)", r"2\sqrt{2}"), ("5 000", "5000"),
    ("6 x 10^4", "60000"), ("5\\\\", "5"), (r"2\pi", "2pi"),
    (r"\sin(x)", "sin(x)"),
]  # fmt: skip
DIFFERENT = [
    ("7", "8"), ("0.333", "1/3"), ("1,234", "1.234"), ("-3", "3"), (r"\frac{1}{2}", r"\frac{2}{1}"),
    ("2^{10}", "1000"),
    ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("[0,1)", "(0,1]"), ("(1,2)", r"\{1,2\}"),
    (r"\{1,2\}", r"\{1,3\}"),
    ("(1,2)", "(1,2,3)"), ("1,2", "1,2,3"), ("1,1", "1,2"), (r"\{1,2\}", "1"), ("50%", "5"), ("50%", "60%"),
    ("A", "B"), ("(A)", "C"), ("B", "2"), ("yes", "no"), ("5 cm", "6 cm"), ("5 cm", "6"),
    (r"(-\infty,1)", r"(-\infty,1]"), (r"(0,1)\cup(2,3)", r"(0,1)\cup(2,4)"),
    (r"\sqrt{2}", r"\sqrt{3}"), ("x+1", "x-1"), ("5x", "5"), ("2i", "2"), (r"\pm 3", "3, 3"),
]  # fmt: skip
UNDECIDED = [
    ("5 cm", "5 m"), ("New York", "NYC"), ("x=3", "y=3"), ("100,200", "200,100"), ("", "3"), ("2,1", "(1,2)"),
    ("B", "twelve"), ("Paris, France", "Paris"), ("the value is 5", "5"), ("12:30", "12:30 PM"),
    (r"e^{i\pi}", "-1"), ("1011_2", "11"), ("1 < x < 2", "(1,2)"),
    ("x^2=4", r"\sqrt{16}"), ("0.333333", "1/3"),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), SAME)
def test_same(left, right):
    assert answers_agree(left, right) is True
    assert answers_agree(right, left) is True


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_different(left, right):
    assert answers_agree(left, right) is False
    assert answers_agree(right, left) is False


@pytest.mark.parametrize(("left", "right"), UNDECIDED)
def test_undecided_is_not_wrong(left, right):
    assert answers_agree(left, right) is None
    assert answers_agree(right, left) is None


@pytest.mark.parametrize(("left", "right", "may"), PAIRS)
def test_what_may_be_said_of_a_pair(left, right, may):
    verdicts = {answers_agree(left, right), answers_agree(right, left)}
    assert len(verdicts) == 1
    assert verdicts <= MAY[may]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: text[:20])
@pytest.mark.parametrize("other", [r"\sqrt{5}", "3", "1, 2"])
def test_hostile_answers_are_not_equal_and_cost_seconds(hostile, other):
    started = time.monotonic()
    assert answers_agree(hostile, other) is answers_agree(other, hostile)
    assert not answers_agree(hostile, other)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("power", [r"10^{10^{10}}", "9^{9^9}", "1000000!"])
def test_pathological_powers_stay_undecided_and_cost_seconds(power):
    started = time.monotonic()
    assert answers_agree(power, r"\sqrt{5}") is None
    assert time.monotonic() - started < 30
    # and the worker goes on
    assert answers_agree(r"\sqrt{12}", r"2\sqrt{3}") is True


def test_a_killed_worker_is_replaced():
    # given a worker that has no time to answer
    worker = MathWorker(seconds=0.0)
    # then it leaves the pair undecided instead of calling it different, again and again
    assert worker.agree(r"\sqrt{8}", r"2\sqrt{2}") is None
    assert worker.agree(r"\sqrt{8}", r"2\sqrt{2}") is None
    worker.close()


def test_a_worker_that_cannot_start_is_an_error(monkeypatch, tmp_path):
    # given an installation of sympy that fails on import
    broken = tmp_path / "math_worker.py"
    broken.write_text("import sympy.no_such_part")
    monkeypatch.setattr(verify_math, "WORKER", broken)
    with pytest.raises(ConfigError, match="does not work"):
        MathWorker().agree(r"\sqrt{8}", r"2\sqrt{2}")


@given(st.fractions(max_denominator=999), st.fractions(max_denominator=999))
def test_fractions_compare_exactly(a: Fraction, b: Fraction):
    left = rf"\frac{{{a.numerator}}}{{{a.denominator}}}"
    assert answers_agree(left, f"{b.numerator}/{b.denominator}") is (a == b)


@settings(deadline=None)
@given(
    st.text("0123456789.,()[]{}\\%+-/^ABxy fractexpm", max_size=12),
    st.sampled_from(["3", "(1,2)", "B", "1/2"]),
)
def test_any_text_is_compared_without_failing_and_symmetrically(text, other):
    assert answers_agree(text, other) is answers_agree(other, text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}.", "7"),
        (r"\boxed{3}, wait no \boxed{4}", "4"),
        (r"\boxed{\frac{1}{\sqrt{2}}} is it", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{3} or rather \boxed{4", None),
        (r"\boxed{}", None),
        ("The answer is (B).", "(B)"),
        ("Answer: 3.5\nbecause of this", "3.5"),
        ("**Answer:** 12", "12"),
        ("the correct answer is B. It is 5.", "B"),
        ("#### 42", "42"),
        ("The answer is 1. No, the answer is 2.", "2"),
        ("42.", "42"),
        ("I do not know", None),
        ("", None),
    ],
)
def test_extraction(text, answer):
    assert extract_answer(text) == answer


def test_grades_keep_unknown_apart_from_wrong():
    assert grade(r"\boxed{4}", "4").right is True
    assert grade(r"\boxed{5}", "4").right is False
    assert grade("no answer here", "4") == grade("nothing", "4")
    assert (grade("nothing", "4").status, grade("nothing", "4").right) == ("unparsed", False)
    assert (grade(r"\boxed{5 m}", "5 cm").status, grade(r"\boxed{5 m}", "5 cm").right) == ("timeout", None)
    assert grade(r"\boxed{5}", None).right is None
