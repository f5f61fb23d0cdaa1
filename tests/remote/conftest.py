"""A small vocabulary of streamed texts, and what is watched in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lynxstop.core.cues import CueSet
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.stream import StreamWatch
from lynxstop.core.thinking import Delimiters
from lynxstop.remote.stream_config import StreamConfig
from lynxstop.rules.served import serve
from lynxstop.rules.table import rule_named

CUES = CueSet(("wait", "hmm", "hold on"), paragraph=True)
THINK = Delimiters(("<think>",), ("</think>",))
EXIT = "\n</think>\n\nThe answer is "


def make_config(
    threshold: float = -100.0, *, before: bool = True, rule: str = "thinkbrake", **policy
) -> StreamConfig:
    levels = (Level(0.05, threshold),)
    watch = StreamWatch(CUES, THINK)
    return StreamConfig(
        watch, StopPolicy((5,), levels, rule=serve(rule_named(rule)), **policy), EXIT, THINK.close, before
    )


@pytest.fixture(scope="session", name="make_config")
def _make_config() -> Callable[..., StreamConfig]:
    return make_config
