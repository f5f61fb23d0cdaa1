"""Bundles: certified on recorded traces, and refused on anything else."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from lynxstop.artifacts.bundle import (
    Bundle,
    Policy,
    ServedRule,
)
from lynxstop.artifacts.served import served_as
from lynxstop.calibration.certificate import Certificate, Grading
from lynxstop.calibration.evidence import read_evidence
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.verify import verify
from lynxstop.errors import ConfigError, DataError, FingerprintError
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, evidence_name, install, measured
from tests.support.tiny_bundle import PRINT


def test_levels_are_certified_installed_and_verified(bundle, data):
    # given a bundle and traces of other problems
    made = calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.05, 0.2], by="family"))
    assert made.certificates[0].fingerprint["fingerprint"] == PRINT.model_dump()
    assert made.certificates[0].settings.grid is None
    # and a second comparator that confirms both pairs of different and of equal answers
    assert made.certificates[0].grading == Grading(pairs=2, contradicted=0)
    # when the certificates are installed
    install(bundle, made)
    loaded = Bundle.load(bundle.path)
    # then the bundle serves the certified thresholds, and each can be recomputed from its own folder
    assert [level.threshold for level in loaded.policy.pooled] == [c.threshold for c in made.pooled]
    served = loaded.policy.stop_policy()
    for certificate in made.certificates:
        group = certificate.group.value if certificate.group else "unknown"
        assert served.level(certificate.risk, group).threshold == certificate.threshold
    assert loaded.policy.default_risk == 0.05
    paths = list((bundle.path / "certificates").glob("risk-*.json"))
    assert len(paths) == 6
    for path in paths:
        certificate = Certificate.load(path)
        verify(certificate, read_evidence(path.parent / evidence_name(certificate)))


def test_calibrating_again_replaces_levels_of_the_same_risk(bundle, data, simulated):
    install(bundle, calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.2], by="family")))
    install(bundle, calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.05])))
    again = replace(data, table=simulated(400, 5, groups=True))
    install(Bundle.load(bundle.path), calibrate_bundle(bundle, again, CalibrationOptions(risks=[0.2, 0.3])))
    # then the bundle loads, with three levels on two sets of evidence
    loaded = Bundle.load(bundle.path)
    assert [level.risk for level in loaded.policy.levels] == [0.05, 0.2, 0.3]
    folder = bundle.path / "certificates"
    assert len(list(folder.glob("risk-*.json"))) == 3
    assert len(list(folder.glob("evidence-*.parquet"))) == 2


def test_the_default_is_the_strictest_level_that_exits_and_stays(bundle, data):
    # given a level that nothing can be certified at, and one that exits
    first = install(bundle, calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.001, 0.2])))
    assert [np.isfinite(level.threshold) for level in first.policy.levels] == [False, True]
    assert first.policy.default_risk == 0.2
    # when a stricter one is added, then the default stays unless another is named
    second = install(first, calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.1])))
    assert second.policy.default_risk == 0.2
    assert (
        install(
            second, calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.1])), 0.1
        ).policy.default_risk
        == 0.1
    )
    # and what is not certified cannot be named: nothing is written
    before = {path.name: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}
    with pytest.raises(
        ConfigError, match=r"0\.3 is not one of the bundle's levels: 0\.001, 0\.1, 0\.15, 0\.2"
    ):
        install(second, calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.15])), 0.3)
    assert before == {path.name: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}


def test_shares_on_the_card_have_exact_intervals(bundle, data):
    made = calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.2]))
    (shown,), (certificate,) = measured(install(bundle, made)), made.certificates
    for share, interval, count in (
        (shown.lost, shown.lost_interval, certificate.observed),
        (shown.exited, shown.exited_interval, certificate.exits),
    ):
        assert share == count / 500
        exact = binomtest(int(count), 500).proportion_ci(0.95, "exact")
        assert interval == pytest.approx((exact.low, exact.high))


def test_calibrating_changes_nothing_until_installed(bundle, data):
    before = {path.name: path.read_bytes() for path in bundle.path.iterdir()}
    calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.05]))
    assert {path.name: path.read_bytes() for path in bundle.path.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": PRINT.model_copy(update={"weights": "other"})},
        {"engine": "vllm"},
        {"dtype": "bfloat16"},
        {"exit_ids": (8,)},
        {"temperature": 0.6},
        {"budget": 10},
        {"cue_words": ("hmm",)},
        {"cue_paragraph": True},
        {"think_open": ("<thought>",)},
        {"think_close": ("</thought>",)},
        {"cut": "before"},
        {"top_p": 0.9},
        {"top_k": 20},
        {"max_tokens": 65},
        {"answer_tokens": 9},
    ],
)
def test_data_recorded_otherwise_are_refused_first(bundle, data, change):
    # given data that would also fail in their statistics
    other = replace(data, meta=SimpleNamespace(**{**vars(data.meta), **change}), whole=False)
    with pytest.raises(
        FingerprintError, match=next(iter(change)) if "fingerprint" not in change else "weights"
    ):
        calibrate_bundle(bundle, other, CalibrationOptions(risks=[0.05]))


def test_a_certificate_rests_on_all_that_is_served(bundle):
    # given a policy in which nothing is as it was before there was a choice
    chosen = {
        "cut": "before",
        "rule": ServedRule(name="budget"),
        "stride": 2,
        "max_points": 3,
        "tilt": 0.5,
        "grader": "choice",
    }
    policy = bundle.policy.model_copy(update=chosen)
    # then its certificates name every setting but those that change no request
    others = {
        "schema_version", "name", "target", "probe_sha256", "training_problems_sha256",
        "training_data_sha256", "default_risk", "levels", "files", "provenance",
    }  # fmt: skip
    assert served_as(policy).keys() == Policy.model_fields.keys() - others
    # and those of older bundles stay as they were
    assert served_as(bundle.policy).keys() == served_as(policy).keys() - chosen.keys()


def test_training_problems_are_refused(bundle, data):
    table = data.table
    seen = replace(table, problem_ids=np.where(np.arange(500) == 3, "t2", table.problem_ids))
    with pytest.raises(DataError, match="'t2'"):
        calibrate_bundle(bundle, replace(data, table=seen), CalibrationOptions(risks=[0.05]))


def test_certificates_are_plain_json(bundle, data):
    text = calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.05])).certificates[0].to_json()
    assert json.loads(text)["digests"]["data"] == "data"
