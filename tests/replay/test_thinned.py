"""Data collected under guards say the same as all data replayed under them, from fewer forced exits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.recording import record
from lynxstop.core.policy import StopPolicy
from lynxstop.demo import held_out
from lynxstop.errors import ConfigError, DataError, FingerprintError
from lynxstop.recordings.storage import Recording
from lynxstop.replay.exits import read_exits
from lynxstop.replay.points import read_points
from lynxstop.rules.table import rule_named
from lynxstop.workflows.calibrate_bundle import check_same
from lynxstop.workflows.make_bundle import make_bundle
from lynxstop.workflows.train_rule import train_rule

GUARDS = {"min_tokens": 20, "cooldown": 25, "stride": 2, "max_points": 3}
SIGNALS = ("entropy", "min_logprob", "mean_logprob", "tokens", "step", "cues")
SAME = ["trace_id", "cue", "kind", "index", "seen_at", "thinking_at_exit", "trial_text", "right", "agrees"]
"""Columns without numbers that depend on the batch in their last bits."""

Collect = Callable[..., Recording]


@pytest.fixture(scope="module")
def collect(tmp_path_factory: pytest.TempPathFactory) -> Collect:
    """Record 12 traces of the shipped model with the guards of a recipe."""

    def collected(options: CollectOptions, points: dict[str, object], **guards: int) -> Recording:
        recipe = Recipe.load(shipped.BUNDLE / "recipe.toml")
        content = recipe.model_dump()
        content["guards"] |= guards
        content["points"] |= points
        out = tmp_path_factory.mktemp("thinned") / "data"
        record(shipped.MODEL, held_out.problems(12, 5), out, Recipe.read(content), options)
        return Recording.open(out)

    return collected


@pytest.fixture(scope="module", params=[{}, {"boundaries": True, "every": 16}], ids=["cues", "all kinds"])
def both(request: pytest.FixtureRequest, collect: Collect) -> tuple[Recording, Recording]:
    options = CollectOptions(seed=3)
    return collect(options, request.param), collect(options, request.param, **GUARDS)


def policy(data: Recording, **guards: Any) -> StopPolicy:
    return StopPolicy(data.meta.exit_ids, points=data.meta.points, every=data.meta.every, **guards)


def test_the_same_exits_from_fewer_labels(both: tuple[Recording, Recording]) -> None:
    # given the same traces, recorded with all their decision points, and only with those that guards let exit
    full, thinned = both
    assert thinned.whole
    assert 0 < len(thinned.cues()) < len(full.cues()) / 2

    # when all are replayed under these guards
    expected, found = read_exits(full, policy(full, **GUARDS)), read_exits(thinned, policy(full, **GUARDS))

    # then the exits are the same, row by row, and without guards those of the recording hold
    assert full.cues(SAME).take(expected.rows).to_pylist() == thinned.cues(SAME).to_pylist()
    assert (
        found.rows.tolist() == read_exits(thinned, policy(full)).rows.tolist() == list(range(len(found.rows)))
    )
    assert found.tokens.tolist() == expected.tokens.tolist()


def test_signals_count_the_points_that_were_left_out(both: tuple[Recording, Recording]) -> None:
    full, thinned = both
    tables = [
        read_points(data, SIGNALS, np.full(len(data.cues()), np.nan, np.float32), policy(full, **GUARDS))
        for data in both
    ]
    expected, found = (
        [[point.position, *point.signals.values()] for own in table.points for point in own]
        for table in tables
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert max(row[-1] for row in found) >= 2
    assert len(found) == len(thinned.cues())


def test_a_bundle_takes_the_guards_of_its_data(collect: Collect, tmp_path: Path) -> None:
    # given data under guards, when a bundle is made of them
    full, thinned = collect(CollectOptions(seed=3), {}), collect(CollectOptions(seed=3), {}, **GUARDS)
    trained = train_rule(thinned, rule_named("logprob-probe"), folds=2)
    made = make_bundle(thinned, trained, tmp_path / "bundle", "b")

    # then it is served under them, and neither it nor the replay takes others
    served = Bundle.load(tmp_path / "bundle").policy
    assert {name: getattr(served, name) for name in GUARDS} == GUARDS
    check_same(made.policy, thinned.meta)
    check_same(made.policy, full.meta)
    with pytest.raises(ConfigError, match="other guards: stride"):
        make_bundle(thinned, trained, tmp_path / "other", "b", guards={"stride": 3, "cooldown": 25})
    with pytest.raises(DataError, match="min_tokens 20, cooldown 25, stride 2, max_points 3"):
        read_exits(thinned, policy(full, cooldown=25))
    plain = make_bundle(full, trained, tmp_path / "plain", "b", tilt=0.0)
    with pytest.raises(FingerprintError, match="min_tokens, cooldown, stride, max_points differ"):
        check_same(plain.policy, thinned.meta)


def test_guards_and_a_limit_of_cues_do_not_mix(collect: Collect) -> None:
    with pytest.raises(ConfigError, match="Leave --max-cues out") as refused:
        collect(CollectOptions(seed=3, max_cues=2), {}, stride=2)
    assert refused.value.hint
