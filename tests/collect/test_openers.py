"""What opens a sentence, in scripts with and without spaces."""

import pytest

from lynxstop_research.openers import frequent_openers, openings, sentences


def test_sentences_end_at_punctuation_and_lines_but_not_inside_numbers():
    text = "Wait, 3.5 is it. Hold on\n\n- **But** so: hmm… 等等，我们再看。不对\n7 * 2 = 3\n1. Let's go!"

    assert list(sentences(text)) == [
        "Wait, 3.5 is it", "Hold on", "But** so", "hmm", "等等，我们再看", "不对", "Let's go!"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Wait let me see", ["wait", "wait let", "wait let me"]),
        ("Hold on, yes", ["hold", "hold on"]),
        ("Let's see", ["let's", "let's see"]),
        ("等等，我们", ["等", "等等"]),
        ("不对不对不对", ["不", "不对", "不对不", "不对不对"]),
        ("待って。", ["待", "待っ", "待って"]),
        ("잠깐 다시", ["잠깐", "잠깐 다시"]),
        ("Подожди, да", ["подожди"]),
        ("İyi", ["i̇yi"]),
    ],
)
def test_openings_are_units_of_the_script(sentence, expected):
    assert openings(sentence) == expected


def test_a_beginning_that_goes_on_alike_gives_way():
    thoughts = ["Hold on. Wait now. Wait then. Wait here. 等等，是。等等，不。"] * 3

    assert frequent_openers(thoughts) == ["hold on", "wait", "等等"]


def test_rare_openers_and_those_of_one_trace_are_left_out():
    thoughts = ["Wait."] * 50 + ["Hmm. Hmm. Hmm."]

    assert frequent_openers(thoughts) == ["wait"]
    assert frequent_openers(thoughts * 2, least=0.01) == ["wait", "hmm"]
