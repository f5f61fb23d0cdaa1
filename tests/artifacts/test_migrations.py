"""Files of older schema versions load; those of newer ones are refused by name."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from lynxstop.artifacts.migrations import CERTIFICATE, META, POLICY, upgrade
from lynxstop.artifacts.policy_file import read_policy
from lynxstop.calibration.certificate import Certificate
from lynxstop.errors import BundleError, CalibrationError, DataError, LynxstopError
from lynxstop.recordings.meta_file import read_meta
from lynxstop.recordings.store import store_at

OLD = Path(__file__).parent / "old"


def test_a_policy_of_the_first_version_loads(tmp_path: Path) -> None:
    shutil.copy(OLD / "policy-1.json", tmp_path / "policy.json")

    policy = read_policy(tmp_path)

    assert policy.schema_version == len(POLICY) + 1
    assert (policy.cut, policy.files) == ("after", {})
    assert not policy.stop_policy().thinned
    assert [level.risk for level in policy.levels] == [0.01, 0.02, 0.05, 0.1]
    assert policy.engine == "transformers"


def test_recordings_of_the_first_version_keep_their_identity(tmp_path: Path) -> None:
    shutil.copy(OLD / "meta-1.json", tmp_path / "meta.json")
    raw = json.loads((OLD / "meta-1.json").read_text())

    meta = read_meta(store_at(tmp_path))

    assert (meta.engine, meta.cut) == ("transformers", "after")
    # the key that the first version wrote into every shard
    settings = {name: value for name, value in raw.items() if name not in ("provenance", "digests")}
    assert meta.key == hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    assert meta.model_copy(update={"cut": "before"}).key != meta.key


def test_a_certificate_of_the_first_version_loads() -> None:
    certificate = Certificate.load(OLD / "certificate-1.json")

    assert (certificate.risk, certificate.fingerprint["engine"]) == (0.1, "transformers")


@pytest.mark.parametrize(
    ("sample", "error"),
    [("policy", BundleError), ("meta", DataError), ("certificate", CalibrationError)],
)
@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        (99, "this lynxstop reads up to"),
        (0, "never existed"),
        ("1", "never existed"),
        (None, "never existed"),
        (True, "never"),
    ],
)
def test_other_versions_are_refused(
    tmp_path: Path, sample: str, error: type[LynxstopError], version: object, complaint: str
) -> None:
    content = json.loads((OLD / f"{sample}-1.json").read_text()) | {"schema_version": version}
    path = tmp_path / f"{sample}.json"
    path.write_text(json.dumps(content))

    with pytest.raises(error, match=complaint):
        {
            "policy": lambda: read_policy(tmp_path),
            "meta": lambda: read_meta(store_at(tmp_path)),
            "certificate": lambda: Certificate.load(path),
        }[sample]()


def test_steps_are_pure_and_applied_in_order() -> None:
    first = {"schema_version": 1, "a": [1]}
    chain = (lambda c: c | {"b": 2}, lambda c: c | {"c": c["b"] + 1})

    assert upgrade(first, chain, "it", DataError) == {"schema_version": 3, "a": [1], "b": 2, "c": 3}
    assert upgrade({"schema_version": 2, "b": 5}, chain, "it", DataError)["c"] == 6
    assert first == {"schema_version": 1, "a": [1]}
    for steps, sample in ((POLICY, "policy"), (META, "meta"), (CERTIFICATE, "certificate")):
        content = json.loads((OLD / f"{sample}-1.json").read_text())
        before = json.dumps(content)
        upgrade(content, steps, "it", DataError)
        assert json.dumps(content) == before
