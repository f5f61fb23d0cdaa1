"""Bundles load as written, and refuse everything else with a message of their own."""

import hashlib
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lynxstop.artifacts.bundle import Bundle, CertifiedLevel
from lynxstop.errors import BundleError, LynxstopError, StepError


def level(risk: float = 0.05, threshold: float = 1.25) -> tuple[CertifiedLevel, dict[str, str]]:
    """A level and the certificate it names."""
    claim = {"risk": risk, "confidence": 0.95, "loss": "disagree", "method": "ltt"}
    text = json.dumps(claim | {"threshold": "never" if threshold == math.inf else threshold})
    digest = hashlib.sha256(text.encode()).hexdigest()
    name = f"certificates/{risk}.json"
    made = CertifiedLevel.model_validate(
        claim | {"threshold": threshold, "certificate": name, "sha256": digest}
    )
    return made, {name: text}


def certify(bundle: Bundle, risk: float = 0.05, threshold: float = 1.25) -> Bundle:
    made, certificate = level(risk, threshold)
    return bundle.with_levels([made], certificate, risk)


def test_a_bundle_loads_as_it_was_written(bundle: Bundle) -> None:
    loaded = Bundle.load(bundle.path)

    assert loaded.policy == bundle.policy
    assert np.array_equal(loaded.probe.affines[0][0], bundle.probe.affines[0][0])
    assert loaded.training_scores().problems == ("p1", "p2")
    assert loaded.training_scores().scores.tolist() == [0.5, -0.5]


def test_levels_are_merged_in_order_and_thresholds_keep_every_bit(bundle: Bundle) -> None:
    exact = float(np.float32(0.1) + np.float32(0.2))

    certify(certify(bundle, 0.10, exact), 0.02, math.inf)

    loaded = Bundle.load(bundle.path).policy
    assert [(v.risk, v.threshold) for v in loaded.levels] == [(0.02, math.inf), (0.10, exact)]
    assert '"threshold": "never"' in (bundle.path / "policy.json").read_text()
    assert loaded.stop_policy().level(0.02).threshold == math.inf


def test_a_missing_bundle_names_the_step_before(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="lynxstop train"):
        Bundle.load(tmp_path / "nowhere")


def break_digest(path: Path) -> None:
    content = bytearray((path / "probe.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "probe.safetensors").write_bytes(bytes(content))


def drop_probe(path: Path) -> None:
    (path / "probe.safetensors").unlink()


def next_version(path: Path) -> None:
    edit(path, schema_version=99)


def unknown_key(path: Path) -> None:
    edit(path, surprise=1)


def not_an_object(path: Path) -> None:
    (path / "policy.json").write_text("[]")


def truncate(path: Path) -> None:
    text = (path / "policy.json").read_text()
    (path / "policy.json").write_text(text[: len(text) // 2])


def outgrow(path: Path) -> None:
    (path / "policy.json").write_bytes(b" " * (5 << 20))


def change_certificate(path: Path) -> None:
    certify(Bundle.load(path))
    (path / "certificates" / "0.05.json").write_text("{}")


def loosen_threshold(path: Path) -> None:
    certify(Bundle.load(path))
    text = (path / "policy.json").read_text()
    (path / "policy.json").write_text(text.replace('"threshold": 1.25', '"threshold": 0.25'))


def default_to_nothing(path: Path) -> None:
    certify(Bundle.load(path))
    edit(path, default_risk=0.3)


def point_outside(path: Path) -> None:
    made, (text,) = level()[0], level()[1].values()
    (path.parent / "evil.json").write_text(text)
    outside = made.model_copy(update={"certificate": "../evil.json"})
    policy = json.loads((path / "policy.json").read_text())
    policy["levels"] = [outside.model_dump(mode="json")]
    (path / "policy.json").write_text(json.dumps(policy))


def edit(path: Path, **changes: object) -> None:
    policy = json.loads((path / "policy.json").read_text())
    (path / "policy.json").write_text(json.dumps(policy | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_digest, "digest differs"),
        (drop_probe, "is missing"),
        (next_version, "schema version 99"),
        (unknown_key, "surprise"),
        (not_an_object, "does not hold a policy"),
        (truncate, "is damaged"),
        (outgrow, "larger than a policy"),
        (change_certificate, "changed after certification"),
        (point_outside, "is missing from"),
        (loosen_threshold, "threshold differs"),
        (default_to_nothing, "default risk 0.3"),
    ],
)
def test_damage_is_refused_by_name(bundle: Bundle, damage: Callable[[Path], None], message: str) -> None:
    damage(bundle.path)

    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle.path)


def test_random_damage_never_loads_as_something_else(bundle: Bundle) -> None:
    rng = random.Random(0)
    for name in ("policy.json", "probe.safetensors"):
        whole = (bundle.path / name).read_bytes()
        for _ in range(150):
            content = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            (bundle.path / name).write_bytes(
                bytes(content[: rng.choice((len(content), rng.randrange(len(content))))])
            )
            try:
                loaded = Bundle.load(bundle.path)
            except LynxstopError:
                continue
            assert np.array_equal(loaded.probe.affines[0][0], bundle.probe.affines[0][0])
        (bundle.path / name).write_bytes(whole)
