"""Certificates: what is written down can be recomputed, and any change is found."""

import html
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lynxstop.artifacts.seal import seal
from lynxstop.calibration.certificate import Certificate
from lynxstop.calibration.methods import METHODS
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.verify import differences, verify
from lynxstop.errors import CalibrationError, DataError


def plain(certificate):
    """The content of a certificate's file, without the digest of itself."""
    return {name: value for name, value in json.loads(certificate.to_json()).items() if name != "digest"}


@pytest.fixture
def made(simulated):
    """A certificate and its evidence."""
    table = simulated(300)
    return calibrate(table, CalibrationOptions(risks=[0.05])).certificates[0], table


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_recomputed(simulated, tmp_path, method):
    # given certificates of two levels and three groups, written and read
    options: dict[str, Any] = {"loss": "wrong|exit"} if method == "selective" else {}
    weights = np.linspace(0.5, 1.5, 400) if method == "weighted" else None
    table, train = simulated(400, 1, groups=True), simulated(150, 2, start="t")
    asked = CalibrationOptions(risks=[0.02, 0.2], method=method, by="topic", **options)
    result = calibrate(table, asked, train_scores=train, weights=weights)
    assert len(result.certificates) == 6
    for certificate in result.certificates:
        (tmp_path / "c.json").write_text(certificate.to_json())
        read = Certificate.load(tmp_path / "c.json")
        # then reading loses nothing and the evidence gives the same
        assert read == certificate
        verify(read, table)


@given(st.data())
def test_any_changed_number_is_found(data):
    certificate, table = _once()
    content = plain(certificate)
    shares = ["p_value", "bound", "saved"]
    counts = ["losses", "n", "observed", "exits", "problems", "traces", "cues", "unknown"]
    name = data.draw(st.sampled_from(shares + counts))
    content[name] += data.draw(st.sampled_from([1e-6, -1e-6] if name in shares else [1, -1]))
    assert differences(Certificate.model_validate(content), table)


@cache
def _once():
    rng = np.random.default_rng(0)
    table = TraceTable.from_arrays(
        problem_ids=[f"p{i}" for i in range(200)],
        lengths=np.full(200, 3),
        scores=rng.normal(size=600),
        losses=rng.random(600) < 0.1,
        tokens=np.tile([1, 2, 3], 200),
        full_tokens=np.full(200, 5),
    )
    return calibrate(table, CalibrationOptions(risks=[0.1])).certificates[0], table


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.25, "threshold_hex": (0.25).hex()},
        {"promise": "Everything will be fine."},
        {"not_promised": ""},
        {"risk": 0.06},
        {"confidence": 0.99},
        {"kind": "expectation"},
        {"method": "crc"},
        {"loss": "harm"},
        {"evidence_sha256": "0" * 64},
    ],
)
def test_any_changed_statement_is_found(made, change):
    certificate, table = made
    changed = Certificate.model_validate({**plain(certificate), **change})
    with pytest.raises(CalibrationError, match="does not hold"):
        verify(changed, table)


def test_a_shortened_sequence_is_found(made):
    certificate, table = made
    content = plain(certificate)
    content["tested"] = {name: column[:-1] for name, column in content["tested"].items()}
    assert differences(Certificate.model_validate(content), table) == ["tested differs."]


def test_changed_evidence_is_found(made, simulated):
    certificate, _ = made
    assert "digest differs" in differences(certificate, simulated(300, 1))[0]


@pytest.mark.parametrize(("name", "value"), [("tried", 2), ("by", "topic")])
def test_settings_that_the_evidence_does_not_confirm_are_found(simulated, name, value):
    table = simulated(300)
    content = plain(calibrate(table, CalibrationOptions(risks=[0.2], method="crc")).certificates[0])
    content["settings"][name] = value
    assert f"settings.{name}" in differences(Certificate.model_validate(content), table)[0]


@pytest.mark.parametrize(("name", "value"), [("levels", []), ("levels", [0.0]), ("importance", [])], ids=str)
def test_settings_that_cannot_be_are_refused(simulated, name, value):
    table = simulated(300)
    content = plain(calibrate(table, CalibrationOptions(risks=[0.2])).certificates[0])
    content["settings"][name] = value
    with pytest.raises((ValidationError, DataError)):
        differences(Certificate.model_validate(content), table)


def test_the_sentence_says_how_surely_it_holds(simulated):
    asked = CalibrationOptions(risks=[0.05, 0.1], tried=3)
    promise = calibrate(simulated(300), asked).certificates[0].promise
    whole = "together with 1 other, for the best of 3 that were tried, at most"
    assert f". With confidence 95%, {whole}" in promise


def test_the_sentence_says_when_it_ends_and_is_held_to_it(simulated):
    table, end = simulated(300), datetime(2100, 5, 6, 7, 8, 9, tzinfo=UTC)
    made = calibrate(table, CalibrationOptions(risks=[0.2], expires=end)).certificates[0]
    assert made.promise.endswith(" Valid until 2100-05-06T07:08+00:00.")
    content = plain(made)
    assert differences(Certificate.model_validate(content), table) == []
    for other in (None, "2100-05-07T07:08:09Z"):
        changed = Certificate.model_validate(content | {"expires": other})
        assert "promise differs" in differences(changed, table)[0]
    # and certificates of before this was said still hold
    older = content | {"promise": made.promise.removesuffix(" Valid until 2100-05-06T07:08+00:00.")}
    assert differences(Certificate.model_validate(older), table) == []


def test_dates(simulated):
    table = simulated(200)
    now, day = datetime.now(UTC), timedelta(days=1)
    for created, expires, expected in (
        (now, now + day, []),
        (now - 2 * day, now - day, ["It expired on"]),
        (now - day, now - 2 * day, ["It expired before it was made", "It expired on"]),
        (now + 3 * day, now + 4 * day, ["which is to come"]),
    ):
        asked = CalibrationOptions(risks=[0.1], expires=expires)
        made = calibrate(table, asked, created=created).certificates[0]
        found = differences(made, table)
        assert len(found) == len(expected)
        assert all(text in line for text, line in zip(expected, found, strict=True))
        assert made.expired == (expires < now)


@pytest.mark.parametrize(
    "grid",
    [[], [1.0, 2.0], [2.0, 1.0, 1.5], [1.0, 1.0], [0.1], [float("inf"), 0.0], [1.0, float("nan")]],
    ids=str,
)
def test_thresholds_that_were_no_fixed_sequence_are_refused(made, grid):
    content = plain(made[0])
    content["settings"]["grid"] = grid
    with pytest.raises(ValidationError, match="grid"):
        Certificate.model_validate(content)


def test_refusal_is_a_certificate(simulated, tmp_path):
    # given too few problems
    table = simulated(20)
    certificate = calibrate(table, CalibrationOptions(risks=[0.01])).certificates[0]
    text = certificate.to_json()
    # then the level is there, never exits, and says so
    assert json.loads(text)["threshold"] == "never"
    assert certificate.refused
    assert "think to the end" in certificate.promise
    (tmp_path / "c.json").write_text(text)
    verify(Certificate.load(tmp_path / "c.json"), table)


def test_a_notebook_shows_a_certificate_and_a_refusal(simulated):
    made = calibrate(simulated(300), CalibrationOptions(risks=[0.05])).certificates[0]
    refused = calibrate(simulated(20), CalibrationOptions(risks=[0.01])).certificates[0]
    assert made.bound is not None
    for certificate in (made, refused):
        shown = certificate._repr_html_()
        assert certificate.promise in html.unescape(shown)
        saved = "" if certificate.saved is None else f"{certificate.saved:.1%}"
        limit = "" if certificate.bound is None else f"{certificate.bound:.2%}"
        plain_cells = re.sub(r"<td[^>]*>", "<td>", shown)
        cells = dict(re.findall(r"<td>([^<]*)</td><td>([^<]*)</td>", plain_cells))
        assert (cells["upper limit"], cells["thinking tokens saved"]) == (limit, saved)


@pytest.mark.parametrize(
    "content", ["", "[1]", "{}", '{"schema_version": 2}', "\x00", "[" * 100_000], ids=range(6)
)
def test_files_that_are_no_certificates_are_refused(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(CalibrationError):
        Certificate.load(tmp_path / "c.json")
    with pytest.raises(CalibrationError):
        Certificate.load(tmp_path / "absent.json")


def test_threshold_and_its_hex_agree_or_are_refused(made, tmp_path):
    content = plain(made[0])
    changed = seal({**content, "threshold": content["threshold"] + 1e-9})
    (tmp_path / "c.json").write_text(json.dumps(changed))
    with pytest.raises(CalibrationError, match="differ"):
        Certificate.load(tmp_path / "c.json")


def test_threshold_is_a_float32(made):
    assert float(np.float32(made[0].threshold)) == made[0].threshold


def test_groups_have_their_own_numbers_beside_those_of_all_requests(simulated):
    table = simulated(600, groups=True)
    certificates = calibrate(table, CalibrationOptions(risks=[0.1], by="topic")).certificates
    of = {one.group.value if one.group else None: one for one in certificates}
    assert (of["code"].problems, of[None].problems) == (200, 600)
    assert "of group 'code'" in of["code"].promise


def test_a_problem_in_two_groups_is_refused(simulated):
    table = simulated(20, groups=True)
    same = replace(table, problem_ids=np.full(20, "p"))
    with pytest.raises(DataError, match="several groups"):
        calibrate(same, CalibrationOptions(risks=[0.1], by="topic"))


def test_promise_says_what_and_what_not(made):
    certificate, _ = made
    assert certificate.promise.startswith("Calibrated on 300 problems (20")
    assert (
        "With confidence 95%, at most 5% of requests drawn like these get an answer different"
        in certificate.promise
    )
    assert f"Observed {certificate.observed:g}/300" in certificate.promise
    assert "one given request" in certificate.not_promised


def test_the_sentence_promises_no_more_than_was_certified(simulated):
    options = CalibrationOptions(risks=[0.12345], confidence=0.9996)
    promise = calibrate(simulated(300), options).certificates[0].promise

    assert "With confidence 99.96%, at most 12.345% of requests" in promise
