"""The curve says what more problems bring, and is not fooled by those that the probe has seen."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from lynxstop.cli import app
from lynxstop.errors import ConfigError, DataError
from lynxstop.report.learning import learning_report
from lynxstop.workflows.learning_curve import LearningCurve, Size, Spread, learning_curve
from tests.support.made_data import data_set


def whole(**options):
    """Made data with what a certificate needs: parsed answers and token counts."""
    problems, cues = options.get("problems", 60), options.get("cues", 4)
    count = problems * cues
    place = np.tile(np.arange(1, cues + 1), problems)
    columns = {"trial_status": ["parsed"] * count, "thinking_at_exit": place * 10, "position": place * 10}
    data = data_set(**options, **columns)
    traces = data.traces()
    traces = traces.append_column("full_status", [["parsed"] * problems])
    traces = traces.append_column("full_right", [[True] * problems])
    traces = traces.append_column("thinking_tokens", [[cues * 10 + 10] * problems])
    data._content._tables["traces"] = traces
    return data


def test_more_problems_bring_a_better_probe_and_more_certified_savings():
    # given many noisy columns, so that a good probe takes many problems
    curve = learning_curve(
        whole(problems=800, hidden=30), risk=0.2, repeats=6, layers=(2,), sizes=[40, 150, 600]
    )
    small, _, large = curve.sizes
    # then both grow, with their spread, and what was certified holds on the problems set aside
    assert large.auc.mean > small.auc.mean + 0.03
    assert large.saved.mean > small.saved.mean
    assert small.auc.low < small.auc.mean < small.auc.high
    assert (small.gain, large.certified) == (None, 1.0)
    assert large.gain is not None
    assert large.gain.mean == pytest.approx(large.saved.mean - curve.sizes[1].saved.mean)
    assert large.risk.mean < 0.2
    assert (curve.test_problems, curve.layers, curve.C) == (200, (2,), curve.C)


def test_it_is_tested_on_problems_that_were_not_trained_on():
    curve = learning_curve(whole(problems=200, leak=True, hidden=20), repeats=4, layers=(1, 2, 4))
    assert all(size.auc.mean < 0.65 for size in curve.sizes)
    # nor certified on them: a probe that knows its own problems would pass there
    assert all(size.risk.mean <= 0.05 for size in curve.sizes)


def test_sizes_are_halves_down_to_twenty():
    curve = learning_curve(whole(problems=53), repeats=1, layers=(2,))
    assert [size.problems for size in curve.sizes] == [20, 40]


def test_problems_of_one_outcome_teach_nothing_and_certify_nothing():
    # given a single problem to learn from, whose four cues often have one outcome
    (one,) = learning_curve(whole(), repeats=20, layers=(2,), sizes=[2]).sizes
    assert one.auc.low == 0.5
    assert (one.certified, one.saved.mean, one.risk.mean) == (0, 0, 0)


def test_the_loss_is_that_of_the_target():
    # given answers that agree and are wrong
    data = whole()
    cues = data.cues()
    wrong = [not value for value in cues["agrees"].to_pylist()]
    data._content._tables["cues"] = cues.set_column(cues.column_names.index("right"), "right", [wrong])
    curves = [
        learning_curve(data, risk=0.9, repeats=2, layers=(2,), sizes=[40], target=target)
        for target in ("agrees", "right")
    ]
    assert [curve.loss for curve in curves] == ["disagree", "wrong"]
    # then layer 2, which knows one, knows the other
    assert all(curve.sizes[0].auc.mean > 0.8 for curve in curves)


def test_equal_seeds_draw_equally():
    first, second = (learning_curve(whole(), repeats=2, layers=(2,), sizes=[40], seed=3) for _ in range(2))
    assert first == second


def size(problems, saved, certified, gain):
    none = Spread(0.9, 0.8, 1.0)
    return Size(problems, problems, none, Spread(saved, 0, 1), none, certified, gain)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([size(50, 0.0, 0.2, None)], "a higher risk"),
        ([size(50, 0.5, 1.0, None)], "One size"),
        ([size(50, 0.5, 1.0, None), size(100, 0.6, 1.0, Spread(0.1, 0.05, 0.15))], "likely to help"),
        ([size(50, 0.5, 1.0, None), size(100, 0.5, 1.0, Spread(0.001, -0.01, 0.01))], "unlikely"),
    ],
)
def test_it_says_when_to_stop(sizes, said):
    curve = LearningCurve(tuple(sizes), (2,), 0.1, 0.05, 0.95, "disagree", 9, 30)
    assert said in curve.advice
    page = learning_report(curve)
    assert page.count("<svg") == 2
    assert said in page


@pytest.mark.parametrize(
    ("data", "options", "error"),
    [
        (whole(problems=30), {}, DataError),
        (whole(), {"sizes": [50]}, ConfigError),
        (whole(), {"repeats": 0}, ConfigError),
        (whole(), {"layers": (9,)}, DataError),
    ],
)
def test_what_gives_no_curve_is_refused(data, options, error):
    with pytest.raises(error):
        learning_curve(data, **options)


def test_the_command_prints_writes_and_emits(recorded, tmp_path):
    page = tmp_path / "curve.html"
    options = ["--risk", "0.2", "--repeats", "3", "--layers", "3", "--json", "--report", str(page)]
    done = CliRunner().invoke(app, ["curve", str(recorded.path), *options])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [one["problems"] for one in found["sizes"]] == sorted(one["problems"] for one in found["sizes"])
    assert found["advice"] in page.read_text().replace("&#x27;", "'")
