"""What every rule decides on small, hand-made traces, and what they have in common."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynxstop.errors import ConfigError, StepError
from lynxstop.rules import Point, Rule, Training, Trial
from lynxstop.rules.base import run
from lynxstop.rules.either import Either, _scale
from lynxstop.rules.learned import _folds
from lynxstop.rules.served import serve
from lynxstop.rules.table import RULES, rule_from, rule_named
from lynxstop.signals.table import SIGNALS

KEYS = sorted({key for rule in RULES.values() for key in rule.signals})


def trial(answer="7", confidence=0.9, entropy=0.1, text=""):
    return Trial(answer, text, 5, confidence, confidence, confidence, entropy)


def point(position=0, logit=0.0, made=None, **signals):
    return Point(
        {key: signals.get(key, math.nan) for key in {*KEYS, *signals}}, logit, position, made or trial()
    )


def scores(name, points, **constants):
    rule = rule_from(name, {**rule_named(name).constants(), **constants})
    return run(rule, points)


def population(seed=0, traces=60):
    """Points whose logit, entropy and position all say a little about the loss."""
    draw = np.random.default_rng(seed)
    made, losses = [], []
    for _ in range(traces):
        size = int(draw.integers(0, 6))
        bad = draw.random(size) < 0.3
        made.append(
            [
                Point(
                    {key: float(draw.normal() - b) for key in KEYS},
                    float(draw.normal() - 2 * b),
                    50 * (place + 1),
                    trial(str(int(b)), float(draw.uniform(0.2, 1) - 0.2 * b)),
                )
                for place, b in enumerate(bad)
            ]
        )
        losses.append(bad.astype(float))
    return Training(made, losses, [f"p{i}" for i in range(traces)], [400] * traces, 400)


TRAINING = population()


def test_deer_takes_ten_trials_and_pays_for_them():
    values, costs = scores("deer", [point(made=trial(confidence=0.5 + 0.01 * i)) for i in range(12)])
    assert values[:10] == pytest.approx(0.5 + 0.01 * np.arange(10))
    assert np.isnan(values[10:]).all()
    assert costs.tolist() == [5] * 10 + [0, 0]


def test_convergence_counts_equal_answers_in_a_row():
    values, _ = scores("convergence", [point(made=trial(a)) for a in ("1", "1", "2", "", "", "2", "2", "2")])
    assert values.tolist() == [1, 2, 1, 0, 0, 1, 2, 3]


def test_dynasor_asks_every_64_tokens_and_hears_whole_hedges_only():
    points = [
        point(70, made=trial("1", text="I know 1")),
        point(100, made=trial("1")),
        point(140, made=trial("1", text="north 1")),
        point(210, made=trial("1", text="No, 1")),
        point(280, made=trial("2")),
    ]
    values, costs = scores("dynasor", points)
    assert [None if math.isnan(v) else v for v in values] == [1, None, 2, 0, 1]
    assert costs.tolist() == [5, 0, 5, 5, 5]


def test_dynasor_needs_the_answers_to_be_equal():
    values, _ = scores("dynasor", [point(64 * i, made=trial(str(i))) for i in range(1, 9)])
    assert max(values) <= rule_named("dynasor").published  # the published check would exit here


def test_puma_confirms_only_what_redundancy_proposes():
    points = [
        point(made=trial(confidence=0.99), redundancy=0.1, step=30),
        point(made=trial(confidence=0.99), redundancy=0.9, step=30),
        point(made=trial(confidence=0.99), redundancy=0.9, step=5),
        point(made=trial(confidence=0.985), redundancy=0.9, step=30),
        point(made=trial("8"), redundancy=0.9, step=30),
    ]
    values, costs = scores("puma", points)
    assert [None if math.isnan(v) else v for v in values] == [None, None, None, 0.985, None]
    assert costs.tolist() == [0, 5, 0, 5, 5]


def test_thinkbrake_exits_near_the_end_of_thinking():
    values, _ = scores("thinkbrake", [point(end_margin=m) for m in (3.0, 0.2, 0.0)])
    assert (values > rule_named("thinkbrake").published).tolist() == [False, True, True]


def test_eat_waits_for_the_entropy_to_settle_at_one_token_a_look():
    values, costs = scores("eat", [point(made=trial(entropy=e)) for e in (2.0, *[0.5] * 20)])
    assert math.isnan(values[0])
    assert values[1] < -0.3 < -0.05 < values[-1]
    assert costs.tolist() == [1] * 21


def test_sched_relaxes_with_progress():
    values, _ = scores("sched", [point(p, top_gap=5.0) for p in (0, 50, 100, 500)], budget=100)
    assert values.tolist() == [-2.5, 0.0, 2.5, 2.5]


def test_sched_takes_the_budget_of_the_recording():
    assert rule_named("sched").fit(TRAINING).constants()["budget"] == 400


def test_a_scale_is_the_risk_with_one_loss_more_and_prefers_what_saves_more():
    class Known(Training):
        def risks(self, scores, thresholds):
            return np.array([0.5, 0.0, 0.2, 0.0]), np.array([0.9, 0.5, 0.6, 0.1])

    grid, values = _scale([np.array([1.0, 2.0]), np.array([3.0, math.nan, 4.0])], Known([], [], [], [], 0))
    # two traces: the shares of losses become (2 * share + 1) / 3, and never rise with the threshold
    expected = [(2 * 0.5 + 1) / 3, (2 * 0.2 + 1) / 3, (2 * 0.2 + 1) / 3, 1 / 3]
    saved = [0.9, 0.6, 0.6, 0.1]
    assert (grid[0], grid[-1]) == (1.0, 4.0)
    wanted = [-(risk + 1e-3 * more) for risk, more in zip(expected, saved, strict=True)]
    assert values[:4] == pytest.approx(wanted)


def test_the_window_is_that_which_parts_good_from_bad_whatever_is_unknown():
    # given a window that parts them at the few points where it is known, and others that say nothing
    def one(bad, known):
        says = {f"rpdi:{window}": 0.1 for window in (16, 32, 128)}
        return point(**says, **{"rpdi:64": -float(bad) if known else math.nan})

    made = [[one(place % 2, place < 4)] for place in range(8)]
    losses = [np.array([float(place % 2)]) for place in range(8)]
    training = Training(made, losses, list("abcdefgh"), [400] * 8, 400)
    assert rule_named("rpdi-short").fit(training).constants()["window"] == 64


def test_a_learned_rule_takes_what_is_unknown_for_average():
    rule = rule_named("logprob-probe")
    key = rule.signals[0]
    made = [[point(**{key: value})] for value in (1.0, 3.0, math.nan, 8.0)]
    losses = [np.array([bad]) for bad in (0.0, 1.0, 0.0, 1.0)]
    constants = rule.fit(Training(made, losses, list("abcd"), [400] * 4, 400)).constants()
    assert constants["means"][0] == 4.0
    assert constants["scales"][0] == pytest.approx(math.sqrt((9 + 1 + 16) / 3))


@pytest.mark.parametrize(("losses", "bias"), [([0.0, 0.0], 1.0), ([1.0, 1.0], -1.0)])
def test_a_learned_rule_that_saw_one_outcome_expects_that(losses, bias):
    made = [[point()] for _ in losses]
    training = Training(made, [np.array([loss]) for loss in losses], ["p"] * len(losses), [400], 400)
    fitted = rule_named("logprob-probe").fit(training).constants()
    assert (fitted["bias"], set(fitted["weights"])) == (bias, {0.0})


def test_folds_hold_out_whole_problems_and_learn_from_both_outcomes():
    good, groups = np.array([True, False] * 6), np.array(list("aabbccddeeff"))
    folds = _folds(good, groups)
    assert len(folds) == 5
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
        assert len(set(good[train].tolist())) == 2
    assert _folds(good, np.array(["a"] * 12)) == []


def test_q_exit_accumulates():
    values, _ = scores("q-exit", [point(logit=-1.0)] * 4)
    gone = 1 - (1 - 1 / (1 + math.e)) ** np.arange(1, 5)
    assert (values > rule_named("q-exit").published).tolist() == (gone > 0.5).tolist()


def test_cascade_pays_only_inside_the_window():
    values, costs = scores("cascade", [point(logit=v) for v in (-5.0, 0.0, 9.0)], low=-1.0, high=4.0)
    assert costs.tolist() == [0, 5, 0]
    assert values[0] < 0 < values[1] <= 1 < values[2]


def test_smoothing_takes_the_last_ten():
    values, _ = scores("thought-calibration", [point(logit=float(i)) for i in range(20)])
    assert values[0] == 0
    assert values[-1] == pytest.approx(np.mean(range(10, 20)))


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_fitted_rule_survives_json_and_scores_alike(name):
    rule = rule_named(name).fit(TRAINING)
    again = rule_from(name, json.loads(json.dumps(rule.constants())))
    for points in TRAINING.traces:
        np.testing.assert_array_equal(run(rule, points)[0], run(again, points)[0])
        costs = run(rule, points)[1]
        assert ("trial" in rule.needs) or not costs.any()


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_never_looks_ahead(name):
    rule = rule_named(name).fit(TRAINING)
    for points in TRAINING.traces[:20]:
        whole = run(rule, points)[0]
        for stop in range(len(points)):
            np.testing.assert_array_equal(run(rule, points[:stop])[0], whole[:stop])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_risks_are_those_of_first_exits(seed):
    training = population(seed, 12)
    own = training.scores(rule_named("lynx"))
    thresholds = np.array([-1.0, 0.0, 1.0])
    risk, saved = training.risks(own, thresholds)
    for place, threshold in enumerate(thresholds):
        first = [next((i for i, s in enumerate(t) if s > threshold), None) for t in own]
        lost = [losses[i] for i, losses in zip(first, training.losses, strict=True) if i is not None]
        assert risk[place] == pytest.approx(sum(lost) / 12)
        tokens = [400 - 50 * (i + 1) for i in first if i is not None]
        assert saved[place] == pytest.approx(sum(tokens) / 4800)


def of_either(*names):
    """Score of a combination at a point where nothing is said, and where only the last member is sure."""
    rule = Either(tuple(rule_named(name) for name in names)).fit(TRAINING)
    for x, y in rule.scales:
        assert np.all(np.diff(x) > 0)
        assert np.all(np.diff(y) >= 0)
    loud = {"lynx": (dict.fromkeys(KEYS, -9.0), 99.0), "rpdi-short": (dict.fromkeys(KEYS, 99.0), -9.0)}
    points = (Point(dict.fromkeys(KEYS, -9.0), -9.0, 1), Point(*loud[names[-1]], 1))
    return [run(rule, [point])[0][0] for point in points]


def test_a_combination_exits_when_either_member_is_sure():
    quiet, loud = of_either("redundancy", "lynx")
    assert loud > quiet + 0.1


def test_a_member_that_earns_nothing_is_kept_silent():
    quiet, loud = of_either("lynx", "rpdi-short")
    assert loud == quiet


def test_combining_ranks_better_than_each_part():
    def separation(name):
        rule = rule_named(name).fit(TRAINING)
        values, good = np.concatenate(population(1, 300).scores(rule)), population(1, 300).good
        return values[good].mean() - values[~good].mean(), np.mean(values[good][:, None] > values[~good])

    areas = {name: separation(name)[1] for name in ("lynx", "logprob-probe", "run-probe", "combined")}
    assert areas["combined"] > max(areas[name] for name in ("lynx", "logprob-probe", "run-probe"))


def test_constants_that_are_not_the_rules_are_refused():
    with pytest.raises(ConfigError, match="damaged"):
        rule_from("deer", {"tau": 0.9, "evil": 1})
    with pytest.raises(ConfigError, match="lynx, "):
        rule_named("nonsense")


def test_rules_on_trials_are_replayed_but_not_served():
    with pytest.raises(ConfigError, match="trial"):
        serve(rule_named("deer"))
    with pytest.raises(StepError, match="none were recorded"):
        run(rule_named("deer"), [Point({}, 0.0, 1)])
    with pytest.raises(StepError, match="fitted"):
        run(rule_named("combined"), [point()])


def test_a_learned_rule_abstains_without_the_logit_it_was_promised():
    for name, abstains in (("combined", True), ("logprob-probe", False)):
        score = rule_named(name).fit(TRAINING).start()
        values = [score(point(50, logit)) for logit in (1.0, math.nan, 1.0)]
        assert [math.isnan(value) for value in values] == [False, abstains, False]


def test_every_rule_says_what_it_needs():
    of_probabilities = {
        "entropy",
        "top_gap",
        "end_margin",
        "min_logprob",
        "mean_logprob",
        "rpdi",
        "transitions",
        "sure_run",
    }
    for rule in RULES.values():
        assert isinstance(rule, Rule)
        names = {key.split(":")[0] for key in rule.signals}
        assert names <= set(SIGNALS)
        assert ("statistics" in rule.needs) == bool(names & of_probabilities), rule.name


def test_probes_fit_where_hardly_any_point_is_bad():
    few = population(2, 30)
    losses = [np.zeros_like(own) for own in few.losses]
    next(own for own in losses if len(own))[0] = 1.0
    rule = rule_named("combined").fit(Training(few.traces, losses, few.problems, few.tokens, few.budget))
    assert all(np.isfinite(own).all() for own in few.scores(rule))
