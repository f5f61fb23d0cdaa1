"""Several samplings in one bundle: each has its own thresholds, and a request gets those of its sampling."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.certified import Certified
from lynxstop.calibration.certificate import Certificate
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.cli import app
from lynxstop.core.conditions import Conditions
from lynxstop.errors import CalibrationError, ConfigError, FingerprintError
from lynxstop.recordings.storage import Recording
from lynxstop.report.calibration import calibration_report
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, install
from lynxstop.workflows.calibrate_samplings import calibrate_samplings
from lynxstop.workflows.verify_bundle import verify_path
from tests.support.tiny_bundle import recorded

OPTIONS = CalibrationOptions(risks=[0.05, 0.2])


def at(data, **sampling):
    """The same data set, recorded at another sampling."""
    return replace(data, meta=SimpleNamespace(**{**vars(data.meta), **sampling}))


@pytest.fixture
def hot(simulated):
    """Traces of other problems at temperature 1.3, whose scores are worth less."""
    table = simulated(500, 3, start="h", groups=True)
    noise = np.random.default_rng(4).normal(0, 2, len(table.scores)).astype(np.float32)
    return at(recorded(replace(table, scores=table.scores + noise)), temperature=1.3, top_p=0.95)


@pytest.fixture
def certified(bundle, data, hot):
    own, further = calibrate_samplings(bundle, [hot, data], OPTIONS)
    install(bundle, own, None, [further])
    return Bundle.load(bundle.path)


def test_each_sampling_is_served_at_its_own_threshold(bundle, data, hot, certified):
    # given a bundle certified at its own sampling and at a further one, and each of them certified alone
    alone = calibrate_bundle(bundle, data, OPTIONS)
    moved = replace(bundle, policy=bundle.policy.model_copy(update={"sampling": sampling(bundle, 1.3, 0.95)}))
    other = calibrate_bundle(moved, hot, OPTIONS)
    # when requests of both, and of a third sampling, are served
    policy, promises = certified.policy.stop_policy(), Certified.of(certified)
    own, far, third = (Conditions(0.8, max_tokens=64), Conditions(1.3, 0.95, max_tokens=64), Conditions(1.1))
    for risk, mine, others in zip((0.05, 0.2), alone.pooled, other.pooled, strict=True):
        assert policy.level(risk, "maths", own).threshold == mine.threshold
        assert policy.level(risk, None, far).threshold == others.threshold != mine.threshold
        # then the first two are inside their own certificate, and the third departs from the bundle's own
        assert promises.departures(own, policy.level(risk, None, own)) == ()
        assert promises.departures(far, policy.level(risk, None, far)) == ()
        assert promises.departures(third, policy.level(risk, None, third)) == ("temperature",)
        assert policy.level(risk, None, third).threshold == mine.threshold
    # and a limit or a penalty is looked at beside the sampling
    short = Conditions(1.3, 0.95, max_tokens=10, altered=("min_p",))
    assert promises.departures(short, policy.level(0.2, None, short)) == ("max_tokens", "min_p")


def sampling(bundle, temperature, top_p):
    return bundle.policy.sampling.model_copy(update={"temperature": temperature, "top_p": top_p})


def test_what_was_certified_is_said_everywhere(certified, bundle, data, hot):
    assert verify_path(certified.path).holds
    said = [level.whose for level in certified.policy.levels]
    assert said == ["all", "all, temperature 1.3, top_p 0.95"] * 2
    promises = [Certificate.load(certified.path / v.certificate).promise for v in certified.policy.levels]
    assert "of requests drawn like these at temperature 0.8 get an answer" in promises[0]
    assert "of requests drawn like these at temperature 1.3, top_p 0.95 get an answer" in promises[3]
    assert "together with 1 other, though not together with those of other samplings" in promises[3]
    assert "temperature-1.3" in certified.policy.levels[1].certificate
    assert all(promise in (certified.path / "README.md").read_text() for promise in promises)
    shown = CliRunner().invoke(app, ["inspect", str(certified.path), "--json"])
    assert [one["whose"] for one in json.loads(shown.stdout)["levels"]] == said
    page = calibration_report(*calibrate_samplings(bundle, [data, hot], OPTIONS))
    assert "What is promised at temperature 0.8?" in page
    assert "What is promised at temperature 1.3, top_p 0.95?" in page


def test_the_error_is_shared_among_samplings_where_all_hold_together(bundle, data, hot):
    options = CalibrationOptions(risks=[0.05, 0.2], by="family", together="all")
    own, further = calibrate_samplings(bundle, [data, hot], options)
    assert {c.settings.tests for made in (own, further) for c in made.certificates} == {2 * 2 * 3}
    assert "though not" not in own.certificates[0].promise
    assert "together with 11 others" in further.certificates[0].promise


def test_groups_are_certified_at_each_sampling(bundle, data, hot):
    options = CalibrationOptions(risks=[0.2], by="family")
    own, further = calibrate_samplings(bundle, [data, hot], options)
    policy = install(bundle, own, None, [further]).policy.stop_policy()
    far = Conditions(1.3, 0.95)
    for made, served in ((own, None), (further, far)):
        for certificate in made.certificates:
            group = certificate.group.value if certificate.group else "unknown"
            assert policy.level(0.2, group, served).threshold == certificate.threshold
    assert "not together with those of other groups or samplings" in further.certificates[1].promise
    assert policy.level(0.2, "maths", far).whose == "maths, temperature 1.3, top_p 0.95"


def test_calibrating_one_sampling_again_keeps_the_others(certified, data):
    again = install(certified, calibrate_bundle(certified, data, CalibrationOptions(risks=[0.2])))
    assert [level.whose for level in again.policy.levels] == [v.whose for v in certified.policy.levels]
    assert again.policy.levels[1] == certified.policy.levels[1]
    assert again.policy.levels[2] != certified.policy.levels[2]
    assert verify_path(Bundle.load(again.path).path).holds
    assert len(list((again.path / "certificates").glob("risk-*.json"))) == 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ([{}, {}], ConfigError, "in the same way: temperature 0.8"),
        ([{"temperature": 1.3}, {"temperature": 1.0}], ConfigError, "bundle's own sampling: temperature 0.8"),
        ([{}, {"temperature": 1.3, "max_tokens": 65}], FingerprintError, "max_tokens differ"),
        ([{}, {"temperature": 1.3, "dtype": "bfloat16"}], FingerprintError, "dtype differ"),
    ],
)
def test_recordings_that_are_no_samplings_of_one_bundle_are_refused(bundle, data, changes, error, message):
    with pytest.raises(error, match=message):
        calibrate_samplings(bundle, [at(data, **change) for change in changes], OPTIONS)


def test_a_certificate_that_does_not_say_its_sampling_is_none(certified):
    found = Certificate.load(certified.path / certified.policy.levels[0].certificate)
    with pytest.raises(CalibrationError, match="does not say which"):
        _ = found.model_copy(update={"fingerprint": {}}).at


def lynxstop(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout) if "--json" in words else None


@pytest.mark.timeout(600)
@pytest.mark.skipif(not (shipped.MODEL / "model.safetensors").exists(), reason="no shipped model")
def test_two_temperatures_from_recordings_to_requests(tmp_path):
    # given recordings of the shipped model at its own temperature and at 1.3
    text = (shipped.BUNDLE / "recipe.toml").read_text()
    places = []
    for temperature in (0.9, 1.3):
        recipe, place = tmp_path / f"{temperature}.toml", tmp_path / f"at-{temperature}"
        recipe.write_text(text.replace("temperature = 0.9", f"temperature = {temperature}"))
        lynxstop(
            "collect", shipped.MODEL, shipped.PROBLEMS / "test.jsonl", place, "--recipe", recipe, "--limit",
            "8", "--seed", "3", "--json",
        )  # fmt: skip
        places.append(place)
    bundle = tmp_path / "bundle"
    shutil.copytree(shipped.BUNDLE, bundle)
    # when both are certified in one run, at a level that 8 problems reach
    made = lynxstop("calibrate", bundle, *places, "--risk", "40%", "--json")
    # then there is one level for each, which verifies, and requests are inside at these two alone
    assert [row["sampling"] for row in made["levels"]] == ["temperature 0.9", "temperature 1.3"]
    lynxstop("verify", bundle)
    # and requests under the ids of the recorded traces, whose random numbers are those
    asked = [json.loads(line) for line in (shipped.PROBLEMS / "test.jsonl").read_text().splitlines()[:8]]
    names = {row["problem_id"]: row["trace_id"] for row in Recording.open(places[1]).traces().to_pylist()}
    lines = [json.dumps({**one, "id": names[str(one["id"])]}) + "\n" for one in asked]
    for temperature, count, departures in ((1.3, 8, []), (1.1, 1, ["temperature"])):
        few = tmp_path / "few.jsonl"
        few.write_text("".join(lines[:count]))
        found = lynxstop(
            "run", shipped.MODEL, bundle, "--problems", few, "--risk", "40%", "--temperature", temperature,
            "--seed", "3", "--json",
        )  # fmt: skip
        exits = [answer["exit"] for answer in found["answers"] if answer["exit"]]
        assert found["departures"] == departures
        # then they stop where calibration saw them stop; the threshold is the score of one that did not,
        # which other versions of torch round otherwise in a batch of another shape
        level = made["levels"][1]
        clear = [one["threshold"] for one in exits if one["score"] > level["threshold"] + 1e-4]
        assert clear == ([] if departures else [level["threshold"]] * round(8 * level["exits"]))
    # and a replay takes the threshold of the recording's sampling
    replayed = lynxstop("evaluate", places[1], "--bundle", bundle, "--json")["levels"]
    assert next(row for row in replayed if row["risk"] == 0.4)["exits"] == round(8 * level["exits"])
