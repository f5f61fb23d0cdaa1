"""Tables of subgroups: what was observed of parts of the calibration problems, which promises nothing."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from lynxstop.artifacts.expiry import NO_GRACE
from lynxstop.calibration.bounds import clopper_pearson_upper
from lynxstop.calibration.certificate import Certificate
from lynxstop.calibration.evidence import read_evidence, write_evidence
from lynxstop.calibration.ledger import attempt
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.calibration.subgroups import MIX
from lynxstop.calibration.verify import differences
from lynxstop.cli import app
from lynxstop.errors import DataError
from lynxstop.proxy.promise import Promise
from lynxstop.report.calibration import calibration_report
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, evidence_name, install
from lynxstop.workflows.verify_bundle import verify_path
from tests.support.first_exit import first_exit


class Routed:
    """Recorded traces whose problems had a difficulty, and a route in their metadata."""

    def __init__(self, data):
        self._data = data

    def __getattr__(self, name):
        return getattr(self._data, name)

    def traces(self):
        table = self._data.traces()
        count = table.num_rows
        routes = [json.dumps({"route": "ab"[i % 2]} if i % 5 else {}) for i in range(count)]
        return table.append_column("difficulty", pa.array([i % 3 for i in range(count)])).append_column(
            "metadata", pa.array(routes)
        )


@pytest.fixture
def routed(data):
    return Routed(data)


def test_losses_are_counted_for_each_value(bundle, data, routed):
    # when traces with a family, a difficulty and a route are certified
    options = CalibrationOptions(risks=[0.05, 0.2], subgroups=["route"])
    (strict, level) = calibrate_bundle(bundle, routed, options).certificates
    # then each value has its problems, exits and losses, as a walk over every trace counts them
    found = {(one.column, one.value): one for one in level.subgroups}
    assert [key for key in found if key[0] == "difficulty"] == [("difficulty", v) for v in "012"]
    assert {v for column, v in found if column == "route"} == {"", "a", "b"}
    table = data.table
    counts = {key: np.zeros(3) for key in found}
    for trace in range(table.traces):
        part = slice(table.offsets[trace], table.offsets[trace + 1])
        hit = first_exit(table.scores[part], np.ones(table.lengths[trace], bool), level.threshold)
        lost = hit >= 0 and table.losses[part][hit]
        for key in (("difficulty", str(trace % 3)), ("family", str(table.groups[trace]))):
            counts[key] += (1, hit >= 0, lost)
    for key, (n, exits, losses) in counts.items():
        if key[0] != "route":
            one = found[key]
            assert (one.problems, one.exits, one.losses) == (n, exits, losses)
            assert one.interval is not None
            assert one.interval[1] == pytest.approx(clopper_pearson_upper(losses, n, 0.025))
            assert one.interval[0] <= losses / n <= one.interval[1]
    for column in ("family", "difficulty", "route"):
        mine = [one for key, one in found.items() if key[0] == column]
        assert sum(one.problems for one in mine) == level.problems
        assert sum(one.losses for one in mine) == level.observed
    # and the promise is the same with and without them
    plain = calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.05, 0.2])).certificates[1]
    assert (plain.threshold, plain.promise) == (level.threshold, level.promise)
    assert strict.subgroups != level.subgroups


def test_they_are_recomputed_from_the_evidence(bundle, routed):
    options = CalibrationOptions(risks=[0.2], by="family", subgroups=["route"])
    made = install(bundle, calibrate_bundle(bundle, routed, options))
    assert verify_path(made.path).holds
    path = made.path / made.policy.levels[0].certificate
    certificate = Certificate.load(path)
    evidence = read_evidence(path.parent / evidence_name(certificate), certificate)
    # given a certificate that makes a subgroup look better, and one without any
    first, *others = certificate.subgroups
    better = (first.model_copy(update={"losses": first.losses - 1}), *others)
    for changed in (better, ()):
        said = differences(certificate.model_copy(update={"subgroups": changed}), evidence)
        assert any(one.startswith("subgroups differs") for one in said)
    assert evidence.subgroups is not None
    # and evidence that labels its traces otherwise
    assert differences(certificate, replace(evidence, subgroups=evidence.subgroups[::-1]))


def test_the_page_of_a_proxy_shows_them(bundle, routed):
    made = calibrate_bundle(bundle, routed, CalibrationOptions(risks=[0.05, 0.2]))
    shown = Promise(install(bundle, made), NO_GRACE)
    assert shown.subgroups(0.2) == [one.model_dump(mode="json") for one in made.certificates[1].subgroups]
    assert shown.subgroups(None) == shown.subgroups(0.1) == Promise(None, NO_GRACE).subgroups(0.2) == []


def test_what_people_read_says_what_a_level_is_not(bundle, routed, data):
    made = calibrate_bundle(bundle, routed, CalibrationOptions(risks=[0.05, 0.2]))
    page = calibration_report(made)
    assert MIX in page
    assert "difficulty 2" in page
    assert "lost at 0.2" in page
    flat = replace(data, table=replace(data.table, groups=None))
    assert MIX not in calibration_report(calibrate_bundle(bundle, flat, CalibrationOptions(risks=[0.2])))


def test_evidence_gives_back_values_that_hold_an_equals_sign(simulated, tmp_path):
    table = replace(simulated(3), subgroups=np.array([["route=a=b"], ["route=c"], ["route="]]))
    write_evidence(table, tmp_path / "evidence.parquet")
    found = read_evidence(tmp_path / "evidence.parquet").subgroups
    assert found is not None
    assert found.tolist() == [["route=a=b"], ["route=c"], ["route="]]


def test_a_score_table_counts_the_columns_that_are_named(tmp_path):
    rows = "".join(f"t{i},p{i},0,{i / 200},{int(i % 20 == 0)},{'xy'[i % 2]}\n" for i in range(200))
    path = tmp_path / "scores.csv"
    path.write_text("trace_id,problem_id,cue,score,loss,route\n" + rows)
    words = ["calibrate", "--scores", str(path), "--risk", "0.2", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--subgroup", "route"])
    assert done.exit_code == 0, done.output
    assert "route x" in done.output
    (found,) = (Certificate.load(one) for one in (tmp_path / "out").glob("risk-*.json"))
    assert [(one.value, one.losses) for one in found.subgroups] == [("x", 10), ("y", 0)]
    assert verify_path(tmp_path / "out").holds
    # and it is found in the table itself
    assert differences(found, read_evidence(path, found)) == []


def test_columns_that_make_no_subgroups_are_refused(bundle, routed):
    with pytest.raises(DataError, match="no column 'tenant'"):
        calibrate_bundle(bundle, routed, CalibrationOptions(risks=[0.2], subgroups=["tenant"]))
    with pytest.raises(DataError, match="500 values"):
        calibrate_bundle(bundle, routed, CalibrationOptions(risks=[0.2], subgroups=["trace_id"]))


def test_to_count_subgroups_is_no_further_attempt(bundle, routed, data):
    options = CalibrationOptions(risks=[0.2])
    one, other = (calibrate_bundle(bundle, given, options).evidence for given in (data, routed))
    assert one.digest() != other.digest()
    assert attempt(one, options).same(attempt(other, options))


def test_means_of_samples_have_no_exact_interval(simulated):
    table = simulated(200)
    labels = np.array([[f"half={i % 2}"] for i in range(200)])
    ids = np.array([f"p{i // 2}" for i in range(200)])
    table = replace(table, problem_ids=ids, subgroups=labels)
    asked = CalibrationOptions(risks=[0.3], method="hoeffding_bentkus")
    (found,) = calibrate(table, asked).certificates
    assert not found.refused
    assert [one.problems for one in found.subgroups] == [50, 50]
    assert [one.interval for one in found.subgroups] == [None, None]
