"""Rules trained on data without hidden states, and the bundles that hold them."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.policy_file import write_policy
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.cli import app
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from lynxstop.core.types import Request
from lynxstop.errors import BundleError, ConfigError, DataError, FingerprintError
from lynxstop.probes.train import train
from lynxstop.recordings.storage import Recording
from lynxstop.replay.serving import scores_of
from lynxstop.rules.table import rule_named
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, install
from lynxstop.workflows.make_bundle import make_bundle
from lynxstop.workflows.train_rule import train_rule
from tests.support.scripted import SAMPLING, BlackBoxEngine, ScriptedSource, problems


def recording(folder, some, source=None):
    source = source or ScriptedSource(BlackBoxEngine())
    return collect(source, some, folder, SAMPLING, CollectOptions(shard_size=64))


def final_answer(problem):
    return int(BlackBoxEngine()._think(Request(f"{problem.id}#0", (0,)), SAMPLING).output_ids[-2] - ord("0"))


@pytest.fixture(scope="module")
def black_box(tmp_path_factory):
    """150 traces of an engine that shows statistics only."""
    return recording(tmp_path_factory.mktemp("ruled") / "train", problems(150))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """400 problems more."""
    return recording(tmp_path_factory.mktemp("ruled") / "cal", problems(550)[150:])


def test_data_without_hidden_states_are_opened_and_sealed(black_box):
    opened = Recording.open(black_box.path)
    assert (opened.layers, opened.meta.hidden) == ((), 0)
    assert opened.features().shape == (len(opened.cues()), 0)
    assert opened.digest == black_box.digest


def test_a_rule_is_measured_on_problems_it_was_not_fitted_on(black_box):
    rule = rule_named("logprob-probe")
    trained = train_rule(black_box, rule)
    agrees = np.array(black_box.cues()["agrees"].to_pylist())
    assert trained.auc == pytest.approx(roc_auc_score(agrees, trained.scores))
    assert trained.auc > 0.95
    assert max(trained.rivals["position"], trained.rivals["entropy"]) < 0.65
    assert (trained.cues, trained.problems) == (
        len(agrees),
        len(set(black_box.cues()["trace_id"].to_pylist())),
    )
    # out of fold: other folds, other numbers
    assert not np.array_equal(trained.scores, train_rule(black_box, rule, seed=1).scores)
    assert trained.report()["rule"] == "logprob-probe"


def test_progress_ends_where_it_said(black_box):
    steps = []
    train_rule(black_box, rule_named("budget"), folds=3, progress=lambda *step: steps.append(step))
    assert steps == [(done, 5) for done in range(1, 6)]


def test_points_without_gold_are_left_out(tmp_path):
    # given problems every third of which has no gold answer
    some = [replace(one, answer=None) if i % 3 == 0 else one for i, one in enumerate(problems(150))]
    data = recording(tmp_path / "data", some)
    trained = train_rule(data, rule_named("logprob-probe"), target="right")
    known = np.array([value is not None for value in data.cues()["right"].to_pylist()])
    assert trained.cues == known.sum() < len(known)
    assert np.array_equal(np.isfinite(trained.scores), known)


def test_a_rule_learns_what_its_target_says(tmp_path):
    # given gold answers that the full trace never gives: what agrees is wrong
    some = [replace(one, answer=str((final_answer(one) + 1) % 3)) for one in problems(150)]
    data = recording(tmp_path / "data", some)
    assert not any(data.traces()["full_right"].to_pylist())
    for target in ("agrees", "right"):
        truth = np.array(data.cues()[target].to_pylist())
        trained = train_rule(data, rule_named("logprob-probe"), target=target)
        # then scores rise with the target, whichever it is
        assert trained.auc == pytest.approx(roc_auc_score(truth, trained.scores))
        assert trained.auc > 0.6


def test_the_bundle_has_no_probe_and_is_certified_like_any_other(black_box, others, tmp_path):
    trained = train_rule(black_box, rule_named("logprob-probe"), guards={"min_tokens": 6})
    made = make_bundle(black_box, trained, tmp_path / "b", "box", guards={"min_tokens": 6})
    assert (made.probe, made.policy.probe_sha256) == (None, None)
    assert not (tmp_path / "b" / "probe.safetensors").exists()
    # guards hold in training too
    early = black_box.cues()["position"].to_numpy() < 6
    assert np.isnan(trained.scores[early]).all()
    assert np.isfinite(trained.scores[~early]).all()
    # when levels are certified on other problems
    calibration = calibrate_bundle(made, others, CalibrationOptions(risks=[0.1]))
    install(made, calibration)
    loaded = Bundle.load(tmp_path / "b")
    # then the rule exits, and the card says what it is
    (certificate,) = calibration.certificates
    assert certificate.exits > 100
    assert "probe" not in certificate.digests
    assert loaded.policy.default_risk == 0.1
    assert np.isfinite(scores_of(loaded, others)[others.cues()["position"].to_numpy() >= 6]).all()
    text = (tmp_path / "b" / "README.md").read_text()
    assert "`logprob-probe`" in text
    assert "no hidden states" in text


def test_a_probe_that_was_there_before_goes(black_box, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "probe.safetensors").write_bytes(b"old")
    make_bundle(black_box, train_rule(black_box, rule_named("logprob-probe")), tmp_path / "b", "box")
    assert not (tmp_path / "b" / "probe.safetensors").exists()


def test_a_probe_cannot_be_left_out_of_a_bundle_whose_scores_need_one(black_box, tmp_path):
    made = make_bundle(black_box, train_rule(black_box, rule_named("logprob-probe")), tmp_path / "b", "box")
    write_policy(made.path, made.policy.model_copy(update={"rule": None}))
    with pytest.raises(BundleError, match="names no probe"):
        Bundle.load(made.path)


def test_a_cut_before_the_cue_is_another_recording(others, tmp_path):
    class Before(ScriptedSource):
        cut = "before"

    first = recording(tmp_path / "before", problems(150), Before(BlackBoxEngine()))
    assert Recording.open(first.path).meta.cut == "before"
    made = make_bundle(first, train_rule(first, rule_named("logprob-probe")), tmp_path / "b", "box")
    assert made.policy.cut == "before"
    with pytest.raises(FingerprintError, match="cut"):
        calibrate_bundle(made, others, CalibrationOptions(risks=[0.1]))
    with pytest.raises(ConfigError, match="other settings: cut"):
        recording(tmp_path / "before", problems(150))


def test_what_cannot_be_trained_is_refused_with_the_way_out(black_box, tmp_path):
    with pytest.raises(ConfigError, match="reads hidden states"):
        train_rule(black_box, rule_named("combined"))
    with pytest.raises(ConfigError, match="trial answers"):
        train_rule(black_box, rule_named("deer"))
    with pytest.raises(ConfigError, match="no hidden states"):
        train(black_box)
    # an engine without statistics gives thinkbrake nothing to score
    blind = recording(tmp_path / "blind", problems(60), ScriptedSource())
    with pytest.raises(DataError, match="scores 0 of"):
        train_rule(blind, rule_named("thinkbrake"))


def test_the_command_trains_a_rule_where_there_are_no_hidden_states(black_box, tmp_path):
    done = CliRunner().invoke(app, ["train", str(black_box.path), str(tmp_path / "b"), "--json"])
    assert done.exit_code == 0, done.output
    served = Bundle.load(tmp_path / "b").policy.rule
    assert served is not None
    assert served.name == "logprob-probe"
    done = CliRunner().invoke(
        app, ["evaluate", str(black_box.path), "--rules", "logprob-probe,budget", "--json"]
    )
    assert done.exit_code == 0, done.output


def test_a_named_rule_without_hidden_states_needs_no_probe_either(tmp_path):
    # given data with hidden states
    source = ScriptedSource()
    source.engine = type("Both", (BlackBoxEngine,), {})(layers=(1, 3), width=8)
    data = recording(tmp_path / "both", problems(150), source)
    assert data.layers == (1, 3)
    done = CliRunner().invoke(
        app, ["train", str(data.path), str(tmp_path / "b"), "--rule", "run-probe", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert Bundle.load(tmp_path / "b").probe is None
