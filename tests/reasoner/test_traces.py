"""The writer of traces: what it states, and what it leaves out."""

import random

from lynxstop.demo.problems import draw
from lynxstop_research.reasoner.traces import CUES, PARAGRAPH, PHRASES, Rates, TraceWriter

FAULTLESS = Rates(slip=(0.0,) * 7, check_slip=0.0, wishful=0.0)


def test_without_slips_every_answer_is_right_and_every_check_passes() -> None:
    writer = TraceWriter(random.Random(0), FAULTLESS)
    for problem in draw(150, 1):
        trace = writer.write(problem)
        assert all(p.answer == problem.answer and p.passed for p in trace.paragraphs)
        assert all(p.text.endswith(" ok.") for p in trace.paragraphs)


def test_a_right_solution_is_found_to_fail_only_by_a_slip() -> None:
    writer = TraceWriter(random.Random(0), Rates(check_slip=0.0, wishful=0.0))
    for problem in draw(300, 2, hard=True):
        for paragraph in writer.write(problem).paragraphs:
            assert paragraph.passed == (paragraph.answer == problem.answer)


def test_the_number_of_cues_keeps_to_its_bounds() -> None:
    rates = Rates()
    writer = TraceWriter(random.Random(0), rates)
    counts = [len(writer.write(problem).cues) for problem in draw(300, 3)]
    assert min(counts) >= rates.least_cues
    assert max(counts) <= rates.cap


def test_the_text_up_to_a_cue_is_a_prefix_of_the_thinking() -> None:
    writer = TraceWriter(random.Random(0))
    for problem in draw(50, 4):
        trace = writer.write(problem)
        thinking = trace.thinking()
        assert thinking.count(PARAGRAPH) == len(trace.cues)
        for index, cue in enumerate(trace.cues):
            before = trace.until(index)
            assert before.endswith(PARAGRAPH + cue)
            assert thinking.startswith(before + trace.phrases[index])


def test_cues_and_phrases_are_one_set_for_right_and_wrong_answers() -> None:
    writer = TraceWriter(random.Random(0))
    seen: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for problem in draw(600, 5, hard=True):
        trace = writer.write(problem)
        for cue, phrase, last in zip(trace.cues, trace.phrases, trace.paragraphs, strict=False):
            seen[last.answer == problem.answer].append((cue, phrase))
    for rows in seen.values():
        assert {cue for cue, _ in rows} == set(CUES)
        assert {phrase for _, phrase in rows} == set(PHRASES)
    shares = [sum(cue == "Wait" for cue, _ in rows) / len(rows) for rows in seen.values()]
    assert abs(shares[0] - shares[1]) < 0.06
