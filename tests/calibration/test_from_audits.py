"""Certificates from audits: each level at its own threshold, and nothing that audits do not say."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from lynxstop.artifacts.bundle import Bundle
from lynxstop.calibration.certificate import Certificate
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.cli import _output, app
from lynxstop.errors import CalibrationError, ConfigError, DataError
from lynxstop.monitor.entries import Audit, Begun, Reset
from lynxstop.monitor.journal import FileJournal
from lynxstop.monitor.levels import JOURNAL
from lynxstop.recordings.shadow_files import TABLE
from lynxstop.workflows.audited_traffic import read_audits
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, install
from lynxstop.workflows.calibrate_samplings import calibrate_samplings
from lynxstop.workflows.shadow_traffic import ShadowTraffic, calibrate_from_shadow, read_shadow
from lynxstop.workflows.verify_bundle import verify_path
from tests.support.tiny_bundle import recorded


@pytest.fixture
def served(bundle, data):
    """A bundle that serves 5% and 20%."""
    return install(bundle, calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.05, 0.2])))


@pytest.fixture
def audit(served):
    """Return a maker of audits of one level."""

    def make(risk, losses, exited=True, **more):
        [threshold] = [level.threshold for level in served.policy.pooled if level.risk == risk]
        score = threshold + 1.0 if exited else None
        one = Audit("m", None, risk, exited=exited, loss=0.0, threshold=threshold, exit_score=score)
        return [replace(one, loss=loss, **more) for loss in losses]

    return make


def journal(folder, *entries):
    made = FileJournal(folder / JOURNAL)
    for entry in entries:
        made.append(entry)
    return folder


def call(bundle, state, *words, status=0):
    result = CliRunner().invoke(
        app, ["calibrate", str(bundle.path), "--from-audit", str(state), *words, "--json"]
    )
    assert result.exit_code == status, result.output + str(result.exception)
    return json.loads(result.stdout)


def failing(bundle, state, *words):
    return (
        CliRunner().invoke(app, ["calibrate", str(bundle.path), "--from-audit", str(state), *words]).exception
    )


def test_a_level_that_still_holds_is_certified_at_its_own_threshold(served, audit, tmp_path):
    before = {level.risk: level for level in served.policy.pooled}
    losses = [1.0] * 9 + [0.0] * 91
    state = journal(tmp_path / "state", *audit(0.2, losses), *audit(0.2, [0.0] * 100, exited=False))

    found = call(served, state)

    [row] = found["levels"]
    assert (row["risk"], row["n"], row["k"], row["refused"]) == (0.2, 200, 9, False)
    assert row["threshold"] == before[0.2].threshold
    assert 9 / 200 < row["bound"] < 0.2
    # what it replaced is beside it
    assert [one["risk"] for one in found["replaced"]] == [0.05, 0.2]
    after = {level.risk: level for level in Bundle.load(served.path).policy.pooled}
    assert after[0.05] == before[0.05]
    assert after[0.2].sha256 != before[0.2].sha256
    assert verify_path(served.path).holds


def test_a_level_that_audits_refute_never_exits(served, audit, tmp_path):
    state = journal(tmp_path / "state", *audit(0.05, [1.0, 0.0] * 100))

    [row] = call(served, state)["levels"]

    assert row["refused"]
    [strict, lenient] = Bundle.load(served.path).policy.pooled
    assert strict.threshold == float("inf")
    assert lenient == served.policy.pooled[1]
    assert verify_path(served.path).holds


def test_a_risk_that_rose_lately_is_said(served, audit, tmp_path):
    steady = audit(0.05, [1.0, *[0.0] * 49] * 40)
    state = journal(tmp_path / "steady", *steady)
    assert call(served, state)["changed"] == {}
    rising = journal(tmp_path / "rising", *steady, *audit(0.05, [1.0] * 12))
    result = CliRunner().invoke(app, ["calibrate", str(served.path), "--from-audit", str(rising)])
    assert "seems to have risen above 0.05 recently" in result.output
    found = call(served, rising)
    assert not found["levels"][0]["refused"]
    assert found["changed"]["0.05"].endswith("52 losses in 2012 audits.")


def test_too_few_audits_change_nothing(served, audit, tmp_path):
    state = journal(tmp_path / "state", *audit(0.05, [0.0] * 20))
    before = (served.path / "policy.json").read_bytes()

    error = failing(served, state)

    assert isinstance(error, CalibrationError)
    assert "about" in error.message
    assert "more" in error.message
    assert (served.path / "policy.json").read_bytes() == before
    # beside a level that has enough, it stays as it is
    found = call(served, journal(state, *audit(0.2, [0.0] * 100)))
    assert [row["risk"] for row in found["levels"]] == [0.2]
    assert list(found["too_few"]) == ["0.05"]


def test_audits_without_an_exit_say_nothing(served, audit, tmp_path):
    error = failing(served, journal(tmp_path / "state", *audit(0.2, [0.0] * 300, exited=False)))

    assert isinstance(error, CalibrationError)
    assert "an audited request that exits" in error.message


def test_audits_at_one_level_say_nothing_about_another(served, audit, tmp_path):
    state = journal(tmp_path / "state", *audit(0.2, [0.0] * 300))

    error = failing(served, state, "--risk", "5%")

    assert isinstance(error, ConfigError)
    assert "No audited request was served at 0.05" in error.message


@pytest.mark.parametrize("change", [{"threshold": -7.5}, {"threshold": None}])
def test_audits_at_another_threshold_are_refused(served, audit, tmp_path, change):
    state = journal(tmp_path / "state", *audit(0.2, [0.0] * 300), *audit(0.2, [0.0], **change))

    error = failing(served, state)

    assert isinstance(error, DataError)
    assert "monitor reset" in str(error.hint)


def test_what_was_lost_is_a_loss_and_a_reset_starts_anew(served, audit, tmp_path):
    early = [*audit(0.2, [1.0] * 50), Reset(), *audit(0.2, [0.0] * 150)]
    killed = Begun("a", "m", None, 0.2)
    given_up = Audit("m", None, 0.2, exited=True, loss=1.0, id="b")
    state = journal(tmp_path / "state", *early, killed, Begun("b", "m", None, 0.2), given_up)
    (state / JOURNAL).write_bytes((state / JOURNAL).read_bytes() + b"garbled\n")
    journal(state, *audit(0.2, [1.0], repeat=True))

    [row] = call(served, state)["levels"]

    assert (row["n"], row["k"]) == (153, 3)


def test_damage_from_before_the_reset_of_a_level_is_not_its_own(audit, tmp_path):
    state = journal(tmp_path / "state", *audit(0.2, [0.0]), *audit(0.05, [0.0]))
    (state / JOURNAL).write_bytes((state / JOURNAL).read_bytes() + b"garbled\n")
    journal(state, Reset(risk=0.2), *audit(0.2, [0.0]))

    levels = read_audits(FileJournal(state / JOURNAL)).levels

    assert {key.risk: audits.lost for key, audits in levels.items()} == {0.05: 1, 0.2: 0}


def test_each_sampling_is_tested_on_its_own_audits(bundle, data, simulated, tmp_path):
    # given a bundle that is certified at its own sampling and at temperature 1.3
    hot = recorded(simulated(500, 3, start="h"))
    hot = replace(hot, meta=SimpleNamespace(**{**vars(hot.meta), "temperature": 1.3}))
    own, further = calibrate_samplings(bundle, [data, hot], CalibrationOptions(risks=[0.2]))
    served = install(bundle, own, None, [further])
    [mine, far] = served.policy.levels
    assert (mine.served.whose, far.served.whose) == (None, "temperature 1.3")
    # when requests of both were audited, and those at 1.3 often lost
    audits = []
    for level, losses in ((mine, [0.0] * 190 + [1.0] * 10), (far, [1.0, 0.0] * 100)):
        one = Audit("m", level.served.whose, 0.2, exited=True, loss=0.0, threshold=level.threshold)
        audits += [replace(one, loss=loss, exit_score=level.threshold + 1.0) for loss in losses]
    state = journal(tmp_path / "state", *audits)
    found = call(served, state)
    # then each has its own verdict, names its sampling, and the bundle still verifies
    assert [(row["n"], row["k"], row["refused"]) for row in found["levels"]] == [
        (200, 10, False),
        (200, 0, True),
    ]
    assert found["audits"] == {"0.2": 200, "0.2 at temperature 1.3": 200}
    [kept, gone] = Bundle.load(served.path).policy.levels
    assert (kept.threshold, gone.threshold) == (mine.threshold, float("inf"))
    assert gone.sampling == far.sampling
    assert [Certificate.load(served.path / one.certificate).at for one in (kept, gone)] == [
        "temperature 0.8",
        "temperature 1.3",
    ]
    assert verify_path(served.path).holds


def test_old_and_new_stand_side_by_side_at_every_sampling(bundle, data, simulated, tmp_path, monkeypatch):
    monkeypatch.setattr(_output.console, "width", 200)
    hot = recorded(simulated(500, 3, start="h"))
    hot = replace(hot, meta=SimpleNamespace(**{**vars(hot.meta), "temperature": 1.3}))
    own, further = calibrate_samplings(bundle, [data, hot], CalibrationOptions(risks=[0.2]))
    far = install(bundle, own, None, [further]).policy.levels[1]
    one = Audit("m", far.served.whose, 0.2, exited=True, loss=0.0, threshold=far.threshold)
    state = journal(tmp_path / "state", *[replace(one, exit_score=far.threshold + 1.0)] * 150)
    words = ["calibrate", str(bundle.path), "--from-audit", str(state)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "before, and now" in result.output
    assert "0.2 at temperature 1.3" in result.output


def test_levels_of_groups_are_left_to_shadow_traffic(bundle, simulated, tmp_path):
    grouped = recorded(simulated(500, 3, groups=True))
    served = install(bundle, calibrate_bundle(bundle, grouped, CalibrationOptions(risks=[0.2], by="family")))
    error = failing(served, journal(tmp_path / "state", Audit("m", None, 0.2, exited=False, loss=0.0)))
    assert isinstance(error, ConfigError)
    assert "--by" in str(error.hint)


def test_only_what_was_measured_is_promised(served, audit, simulated, tmp_path):
    state = journal(tmp_path / "state", *audit(0.2, [0.0] * 100))
    for words in (("--loss", "wrong"), ("--unit", "problem"), ("--by", "family")):
        assert isinstance(failing(served, state, *words), ConfigError), words
    error = failing(served, state, "--default-risk", "0.2", "--report", str(tmp_path / "page.html"))
    assert error.hint == "Leave out --report, --default-risk."
    traffic = ShadowTraffic(tmp_path, simulated(200, start="q"), ("m",), 0, {})
    with pytest.raises(ConfigError, match="measures the loss 'disagree'"):
        calibrate_from_shadow(served, traffic, CalibrationOptions(risks=[0.2], loss="wrong"))


def test_damaged_shadow_traffic_is_one_clear_error(tmp_path):
    head = "trace_id,problem_id,cue,score,loss,tokens,full_tokens,model,answer_tokens"
    (tmp_path / TABLE).write_text(f"{head}\nt,p,0,1.0,0,5,9,m,many\n")
    with pytest.raises(DataError, match=r"is damaged.*'many'"):
        read_shadow(tmp_path)


def test_what_the_proxy_recorded_for_its_own_user_is_not_called_absent(tmp_path, monkeypatch):
    def denied(path, encoding):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(DataError, match=r"scores\.csv cannot be read: Permission denied"):
        read_shadow(tmp_path)


def test_repeated_prompts_and_those_of_calibration_are_counted(served, audit, tmp_path):
    seen = audit(0.2, [0.0] * 3, prompt="x") + audit(0.2, [0.0], prompt="y", calibrated=True)

    found = call(served, journal(tmp_path / "state", *audit(0.2, [0.0] * 100), *seen))

    assert (found["repeated_prompts"], found["calibration_prompts"]) == (2, 1)


def test_nothing_to_test_is_an_error_that_says_where_to_look(served, tmp_path, audit):
    assert "[monitor] state" in str(failing(served, tmp_path))
    other = journal(tmp_path / "b", *audit(0.2, [0.0]), *audit(0.2, [0.0], model="other"))
    assert "several models" in str(failing(served, other))
