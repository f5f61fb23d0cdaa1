"""The cost of a collection is counted with the guards that will be served."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from lynxstop.cli import app
from lynxstop.collect.cost import cost
from lynxstop.core.policy import StopPolicy
from lynxstop.errors import ConfigError


def plan(*options):
    return CliRunner().invoke(app, ["plan", "--risk", "0.05", *options])


def test_a_thousand_hard_problems():
    # given 1,000 problems with 160 and with 537 cues, as AIME has
    given = ["--problems", "1000", "--cues", "160", "--cues", "537", "--thinking-tokens", "16000", "--json"]

    every = json.loads(plan(*given).stdout)["costs"]
    thinned = json.loads(plan(*given, "--stride", "4", "--max-points", "30").stdout)["costs"]
    spread = json.loads(plan(*given, "--cooldown", "400").stdout)["costs"]

    # then an exit is forced at each cue, or where the guards let one happen
    assert [row["forced_exits"] for row in every] == [160_000, 537_000]
    assert [row["kept"] for row in thinned] == [30, 30]
    # cues lie 99 and 29 tokens apart, so a gap of 400 keeps every fifth and every fourteenth
    assert [row["kept"] for row in spread] == [32, 39]
    assert every[0]["answer_tokens"] == 160_000 * 32
    assert every[0]["hours"] == pytest.approx((16e6 + 160_000 * 32) / 1000 / 3600)


def test_the_table_names_exits_tokens_and_hours():
    shown = plan("--problems", "1000", "--cues", "160").stderr
    for text in ("160,000", "12,000,000", "5,120,000", "4.8", "959,920,000"):
        assert text in shown


def test_needed_problems_are_costed_by_default():
    found = json.loads(plan("--cues", "20", "--json").stdout)
    assert found["costs"][0]["forced_exits"] == 20 * found["problems"]


def test_what_cannot_be_is_refused():
    assert isinstance(plan("--stride", "4").exception, (ConfigError, SystemExit))
    for wrong in ({"traces": 0}, {"cues": -1}, {"cues": 11}, {"tokens_per_second": 0.0}):
        given: dict[str, Any] = {"traces": 1, "guards": StopPolicy((0,)), "cues": 1, "thinking_tokens": 10}
        with pytest.raises(ConfigError):
            cost(**given | wrong)
