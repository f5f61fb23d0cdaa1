"""The measurements, on traces made by hand."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from lynxstop.demo.problems import GeneratedProblem, draw
from lynxstop_research.reasoner.measure import dynamics, first_exit, out_of_fold
from lynxstop_research.reasoner.sampling import CueRecord, Sampled


def _trace(problem: GeneratedProblem, stands: str, right_at_the_end: bool) -> Sampled:
    """Make a trace of ten tokens a cue; ``r`` and ``w`` tell what stands at each."""
    cues = [
        CueRecord(
            position=10 * (i + 1),
            answer=problem.answer if mark == "r" else "?",
            confidence=1.0,
            entropy=1.0,
            lowest=-1.0,
            text="",
            margin=0.0,
            hidden=np.zeros((2, 3), np.float32),
        )
        for i, mark in enumerate(stands)
    ]
    answer = problem.answer if right_at_the_end else "?"
    return Sampled(problem, answer, 10 * (len(stands) + 1), "", cues)


@pytest.fixture
def traces() -> list[Sampled]:
    problems = draw(24, 1)
    kinds = [("rrr", True), ("wrr", True), ("rww", False), ("www", False)]
    return [_trace(p, *kinds[i % 4]) for i, p in enumerate(problems)]


def test_damage_and_repair_are_counted_by_problem(traces: list[Sampled]) -> None:
    report = dynamics(traces)
    assert report["damaged"] == 0.25
    assert report["repaired"] == 0.25
    assert report["damaged_from_last_cue"] == 0.0


def test_the_oracle_stops_at_the_first_right_exit(traces: list[Sampled]) -> None:
    report = dynamics(traces)
    kept = (10 + 20 + 10 + 40) / 4
    assert report["oracle_saves"] == pytest.approx(1 - kept / 40)


def test_first_exit_never_stops_when_no_threshold_is_safe(traces: list[Sampled]) -> None:
    report = first_exit(traces, np.zeros(sum(len(t.cues) for t in traces)), level=0.0)
    assert report == {"saves": 0.0, "disagrees": 0.0}


def test_first_exit_finds_a_perfect_score(traces: list[Sampled]) -> None:
    ending_right = [t for t in traces if t.answer == t.problem.answer]
    right = [cue.answer == t.answer for t in ending_right for cue in t.cues]
    report = first_exit(ending_right, np.array(right, dtype=np.float64))
    assert report["disagrees"] == 0.0
    assert isinstance(report["saves"], float)
    assert report["saves"] > 0.3


def test_a_probe_scored_out_of_fold_learns_a_linear_label() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 6))
    right = features[:, 0] > 0
    scores = out_of_fold(features, right, np.arange(400) // 4)
    assert np.mean((scores > 0) == right) > 0.9
