"""The second comparator, and how often it contradicts the first."""

import pytest

from lynxstop.grading.second import disagreement_rate, second_opinion
from tests.grading.pairs import PAIRS


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("7", "7.0", True), (r"\frac{1}{2}", "0.5", True), ("50%", "1/2", True),
        (r"2\frac{3}{4}", "2.75", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True), (r"\sqrt2", "1.414214", False), ("1/20!", "1/21!", None),
        ("e^{-50}", "e^{-51}", False), ("x+1", "1+x", True), ("2x", "3x", False), ("(1,2)", "(2,1)", False),
        ("(B)", "B", True), ("A", "B", False), ("1/2x", "x/2", None), ("9^{9^9}", "3", None),
        ("Paris", "Rome", None),
        ("1,234", "1234", True), ("x=3", "y=3", None), ("5 6", "56", None),
    ],
)  # fmt: skip
def test_verdicts(left, right, same):
    assert second_opinion(left, right) is same
    assert second_opinion(right, left) is same


def test_it_says_nothing_that_must_not_be_said():
    wrong = {"equal": False, "not different": False, "different": True, "not equal": True}
    assert [pair for pair in PAIRS if second_opinion(*pair[:2]) is wrong[pair[2]]] == []
    assert sum(second_opinion(left, right) is not None for left, right, _ in PAIRS) > 70


def test_the_rate_counts_contradictions_of_decided_pairs_only():
    pairs = [("1", "2"), ("0.5", "1/2"), ("Paris", "Rome"), ("3", "3")]
    assert disagreement_rate(pairs) == (3, 0, ())
    found = disagreement_rate(pairs, first=lambda left, right: None if left == "3" else True)
    assert found == (2, 1, (("1", "2"),))


def test_on_the_table_of_pairs_the_two_do_not_contradict_each_other():
    found = disagreement_rate((left, right) for left, right, _ in PAIRS)
    assert found.examples == ()
    assert found.n > 50
