"""The report on a request, in numbers that a client may add up."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lynxstop.core.exits import Exit, Reason
from lynxstop.remote.report import report


def taken(**more: Any) -> Any:
    made = {"reason": "score", "cue": 2, "score": 1.5, "threshold": 0.5, **more}
    return Exit(Reason(made.pop("reason")), seen_at=39, thinking_tokens=38, **made)


def reported(
    exit: Exit | None, thinking: int = 38, *, stopped: bool = True, share: float | None = None
) -> Any:
    return report(exit, thinking, stopped=stopped, saved_share=share, certificate="certificates/a.json")


def test_a_request_without_an_exit_has_no_comparison() -> None:
    assert reported(None, 100, stopped=False, share=0.5) == {
        "exit": None, "stopped": False, "thinking_tokens": 100, "certificate": "certificates/a.json",
    }  # fmt: skip


def test_an_exit_is_reported_with_its_score_and_threshold() -> None:
    assert reported(taken()) == {
        "exit": "score", "stopped": True, "thinking_tokens": 38, "certificate": "certificates/a.json",
        "cue": 2, "score": 1.5, "threshold": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(("share", "saved"), [(0.0, 0), (0.5, 38), (0.75, 114), (1.0, None), (None, None)])
def test_what_was_saved_stands_to_what_was_thought_as_when_it_was_certified(
    share: float | None, saved: int | None
) -> None:
    found = reported(taken(), share=share)
    assert found.get("saved_estimate") == saved
    if saved is not None and share is not None:
        assert saved / (saved + 38) == pytest.approx(share)


def test_what_json_cannot_say_is_null_and_a_guard_has_no_cue() -> None:
    found = reported(taken(reason="budget", cue=-1, score=math.nan, threshold=-math.inf))
    assert (found["exit"], found["cue"], found["score"], found["threshold"]) == ("budget", None, None, None)


def test_an_exit_from_a_loop_has_no_certificate() -> None:
    found = reported(taken(reason="loop", cue=-1, score=math.nan))
    assert (found["exit"], found["certificate"], found["cue"]) == ("loop", None, None)
