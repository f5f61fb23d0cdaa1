"""Recorded cues come as arrays whose rows are what they say."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from lynxstop.collect.runner import collect
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL
from lynxstop.errors import ConfigError, DataError
from lynxstop.probes.data import load
from lynxstop.probes.trainer import ProbeTrainer
from lynxstop.rules.learned import LogprobProbe
from tests.support.made_data import HIDDEN, LAYERS, data_set
from tests.support.scripted import SAMPLING, BlackBoxEngine, ScriptedSource, problems


def test_rows_belong_to_their_cues_and_problems():
    # given a data set in which some targets are unknown
    right = [None, True, False, True] * 60
    data = data_set(right=right)
    # when two layers are loaded
    points = load(data, layers=(4, 1), target="right")
    # then the rows are the known ones, in the order of the layers
    assert points.rows.tolist() == [i for i in range(240) if i % 4]
    assert points.y.tolist() == [right[i] for i in points.rows]
    assert points.groups.tolist() == [f"p{i // 4}" for i in points.rows]
    assert points.trace_ids.tolist() == [f"p{i // 4}#0" for i in points.rows]
    np.testing.assert_array_equal(points.X, data.features((1, 4))[points.rows])
    assert (points.layers, points.names[0], points.names[-1]) == (
        (1, 4),
        "hidden:1:0",
        f"hidden:4:{HIDDEN - 1}",
    )
    assert points.X.dtype == np.float32


def test_cues_alone_are_loaded():
    # given boundaries and intervals beside cues, some of them both
    points = load(data_set(kind=np.tile([CUE, BOUNDARY, CUE | BOUNDARY, INTERVAL], 60)))
    assert points.rows.tolist() == [i for i in range(240) if i % 2 == 0]


def test_a_signal_that_is_not_finite_is_a_gap(tmp_path):
    # given an engine in which nothing comes second at the first cue
    class Sure(BlackBoxEngine):
        def _think(self, request, sampling):
            generation = super()._think(request, sampling)
            for event in generation.events[:1]:
                generation.tokens.statistics[event.index, 1] = np.inf
            return generation

    data = collect(ScriptedSource(Sure()), problems(20), tmp_path / "data", sampling=SAMPLING)
    points = load(data, features="logprobs")
    first = data.cues()["cue"].to_numpy()[points.rows] == 0
    gap = points.X[:, points.names.index("top_gap")]
    assert np.isnan(gap[first]).all()
    assert np.isfinite(gap[~first]).all()
    assert not np.isinf(points.X).any()


def test_the_arrow_table_holds_the_same():
    points = load(data_set())
    table = points.arrow()
    assert table["X"].type == pa.list_(pa.float32(), HIDDEN * len(LAYERS))
    np.testing.assert_array_equal(np.stack(table["X"].to_numpy()), points.X)
    assert table["problem_id"].to_pylist() == points.groups.tolist()
    assert table["y"].to_pylist() == points.y.tolist()
    assert table.schema.metadata[b"names"].decode().split(",") == list(points.names)


def test_signals_are_those_that_rules_see(recorded):
    # given real traces
    both, signals = load(recorded, features="both"), load(recorded, features="logprobs")
    # then the columns are the rule's, beside the hidden states
    count = len(LogprobProbe.keys)
    assert signals.names == LogprobProbe.keys == both.names[-count:]
    assert signals.layers == ()
    np.testing.assert_array_equal(both.X[:, -count:], signals.X)
    np.testing.assert_array_equal(both.X[:, :-count], load(recorded).X)
    # and the entropy is the one that was recorded at the cue
    recorded_entropy = recorded.cues()["entropy"].to_numpy()[signals.rows]
    np.testing.assert_allclose(signals.X[:, 0], recorded_entropy, atol=1e-5)


def test_unknown_choices_and_targets_are_refused():
    with pytest.raises(ConfigError, match="features"):
        load(data_set(), features="attention")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="target"):
        load(data_set(), target="help")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="not known"):
        load(data_set(right=pa.array([None] * 240, pa.bool_())), target="right")
    with pytest.raises(DataError, match="no hidden states"):
        load(data_set(), layers=())
    with pytest.raises(DataError, match="recorded"):
        load(data_set(), layers=(3,))


@pytest.mark.parametrize("splitter", [GroupKFold(4), StratifiedGroupKFold(4)])
def test_searches_keep_problems_whole(splitter):
    # given features that name the problem and nothing else
    points = load(data_set(leak=True, hidden=20))
    # then a split by cue finds a high AUC, and a grid search with groups none
    by_cue = KFold(5, shuffle=True, random_state=0)
    naive = cross_val_score(ProbeTrainer(C=1.0), points.X, points.y, scoring="roc_auc", cv=by_cue)
    assert naive.mean() > 0.85
    search = GridSearchCV(ProbeTrainer(), {"C": [1e-3, 1.0]}, scoring="roc_auc", cv=splitter)
    assert search.fit(points.X, points.y, groups=points.groups).best_score_ < 0.65


def test_the_trainer_chooses_its_penalty_by_groups():
    points = load(data_set(problems=100, hidden=30))
    chosen = ProbeTrainer(C="cv").fit(points.X, points.y, groups=points.groups)
    assert chosen.C_ in (1e-4, 1e-3, 1e-2, 1e-1)
    torch = ProbeTrainer(C="cv", backend="torch").fit(points.X, points.y, groups=points.groups)
    assert torch.C_ == chosen.C_
    plain = ProbeTrainer(C=chosen.C_).fit(points.X, points.y)
    np.testing.assert_array_equal(chosen.decision_function(points.X), plain.decision_function(points.X))
    with pytest.raises(ConfigError, match="groups"):
        ProbeTrainer(C="cv").fit(points.X, points.y)


def test_signals_with_gaps_train_after_an_imputer(recorded):
    points = load(recorded, features="both")
    model = make_pipeline(SimpleImputer(), ProbeTrainer())
    score = cross_val_score(
        model, points.X, points.y, groups=points.groups, cv=GroupKFold(4), scoring="roc_auc"
    )
    assert score.mean() > 0.85
