"""Bundles load as written, and refuse everything else with a message of their own."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from lynxstop.artifacts.bundle import Bundle, CertifiedLevel, write_bundle
from lynxstop.artifacts.seal import seal
from lynxstop.errors import BundleError, ConfigError, StepError


def level(
    risk: float = 0.05, threshold: float = 1.25, claims: dict[str, object] | None = None
) -> tuple[CertifiedLevel, dict[str, str]]:
    """A level and the certificate it names."""
    claim = {"risk": risk, "confidence": 0.95, "loss": "disagree", "method": "ltt"}
    limit = "never" if threshold == math.inf else threshold
    text = json.dumps(claim | {"schema_version": 1, "threshold": limit} | (claims or {}))
    digest = hashlib.sha256(text.encode()).hexdigest()
    name = f"certificates/{risk}.json"
    made = CertifiedLevel.model_validate(
        claim | {"threshold": threshold, "certificate": name, "sha256": digest}
    )
    return made, {name: text}


def certify(bundle: Bundle, risk: float = 0.05, threshold: float = 1.25) -> Bundle:
    made, certificate = level(risk, threshold)
    return bundle.with_levels([made], certificate, risk)


def grouped(column: str, risk: float = 0.05) -> tuple[CertifiedLevel, dict[str, str]]:
    """A level of the group "chat" in a column."""
    made, certificate = level(risk, claims={"group": {"column": column, "value": "chat"}})
    return made.model_copy(update={"column": column, "group": "chat"}), certificate


def test_a_bundle_loads_as_it_was_written(bundle: Bundle) -> None:
    loaded = Bundle.load(bundle.path)

    assert loaded.policy == bundle.policy
    assert loaded.probe is not None
    assert bundle.probe is not None
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


def test_a_level_that_is_certified_again_is_replaced(bundle: Bundle) -> None:
    certify(certify(certify(bundle, 0.05, 1.0), 0.1, 0.5), 0.05, 2.0)

    assert [(v.risk, v.threshold) for v in Bundle.load(bundle.path).policy.levels] == [
        (0.05, 2.0),
        (0.1, 0.5),
    ]


def test_the_groups_of_a_bundle_come_from_one_column(bundle: Bundle) -> None:
    made, certificate = grouped("route")
    routed = bundle.with_levels([made], certificate, None)
    before = (bundle.path / "policy.json").read_bytes()

    made, certificate = grouped("tenant", 0.1)
    with pytest.raises(ConfigError, match="from one column"):
        routed.with_levels([made], certificate, None)

    assert (bundle.path / "policy.json").read_bytes() == before


def test_levels_that_could_not_be_written_whole_are_not_there(bundle: Bundle) -> None:
    made, certificate = level()
    (bundle.path / "certificates" / "0.05.json").mkdir(parents=True)

    with pytest.raises(OSError, match="directory"):
        bundle.with_levels([made], certificate, 0.05)

    assert Bundle.load(bundle.path).policy == bundle.policy


def test_a_bundle_that_was_half_replaced_is_none(bundle: Bundle) -> None:
    with pytest.raises(TypeError):
        write_bundle(
            bundle.path, bundle.policy, bundle.probe, bundle.training_scores(), {"not JSON": object()}
        )

    with pytest.raises(StepError, match=r"policy\.json is missing"):
        Bundle.load(bundle.path)


def test_a_missing_bundle_names_the_step_before(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="lynxstop train"):
        Bundle.load(tmp_path / "nowhere")


def test_a_bundle_that_cannot_be_looked_into_is_refused(tmp_path: Path) -> None:
    """As one of another user's, which the tests, where they run as root, may look into all the same."""
    with pytest.raises(BundleError, match="cannot be read: File name too long"):
        Bundle.load(tmp_path / ("x" * 300))


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
    (line,) = certify(Bundle.load(path)).policy.levels
    edit(path, levels=[line.model_dump(mode="json") | {"threshold": 0.25}])


def default_to_nothing(path: Path) -> None:
    certify(Bundle.load(path))
    edit(path, default_risk=0.3)


def point_outside(path: Path) -> None:
    made, (text,) = level()[0], level()[1].values()
    (path.parent / "evil.json").write_text(text)
    outside = made.model_copy(update={"certificate": "../evil.json"})
    edit(path, levels=[outside.model_dump(mode="json")])


def edit(path: Path, **changes: object) -> None:
    """Change the policy as somebody would who knows of its digest."""
    policy = json.loads((path / "policy.json").read_text())
    (path / "policy.json").write_text(json.dumps(seal(policy | changes)))


def edit_by_hand(path: Path) -> None:
    policy = json.loads((path / "policy.json").read_text())
    (path / "policy.json").write_text(json.dumps(policy | {"min_tokens": 7}))


def drop_digest(path: Path) -> None:
    policy = json.loads((path / "policy.json").read_text())
    del policy["digest"]
    (path / "policy.json").write_text(json.dumps(policy))


def serve_otherwise(path: Path) -> None:
    made, certificate = level(claims={"fingerprint": {"min_tokens": 3}, "digests": {}})
    Bundle.load(path).with_levels([made], certificate, 0.05)


def swap_the_probe(path: Path) -> None:
    made, certificate = level(claims={"fingerprint": {"min_tokens": 0}, "digests": {"probe": "another"}})
    Bundle.load(path).with_levels([made], certificate, 0.05)


def serve_what_no_certificate_foresaw(path: Path) -> None:
    # one that is older than the choice of where to cut
    probe = json.loads((path / "policy.json").read_text())["probe_sha256"]
    made, certificate = level(claims={"fingerprint": {"min_tokens": 0}, "digests": {"probe": probe}})
    Bundle.load(path).with_levels([made], certificate, 0.05)
    assert Bundle.load(path).policy.levels
    edit(path, cut="before")


def serve_all_to_a_group(path: Path) -> None:
    certify(Bundle.load(path))
    (line,) = json.loads((path / "policy.json").read_text())["levels"]
    edit(path, levels=[line | {"column": "route", "group": "chat"}], default_risk=None)


def default_to_a_group(path: Path) -> None:
    made, certificate = grouped("route")
    Bundle.load(path).with_levels([made], certificate, None)
    assert Bundle.load(path).policy.levels
    edit(path, default_risk=0.05)


def take_the_probe_away(path: Path) -> None:
    edit(path, probe_sha256=None)


def outgrow_the_probe(path: Path) -> None:
    with (path / "probe.safetensors").open("r+b") as file:
        file.truncate(1 << 40)


def no_number(path: Path) -> None:
    text = (path / "policy.json").read_text()
    (path / "policy.json").write_text(text.replace('"temperature": 0.8', '"temperature": NaN'))


def nest(path: Path) -> None:
    (path / "policy.json").write_text("[" * 200_000)


def two_levels_of_one_risk(path: Path) -> None:
    made, certificate = level()
    Bundle.load(path).with_levels([made], certificate, None)
    line = made.model_dump(mode="json")
    edit(path, levels=[line, line])


def no_cue(path: Path) -> None:
    edit(path, cue_words=[" "])


def unknown_rule(path: Path) -> None:
    edit(path, rule={"name": "magic"})


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
        (edit_by_hand, "changed by hand"),
        (drop_digest, "changed by hand"),
        (serve_otherwise, "says: min_tokens"),
        (swap_the_probe, "probe differs"),
        (serve_what_no_certificate_foresaw, "says: cut differs"),
        (serve_all_to_a_group, "says: column, group differ"),
        (default_to_a_group, "default risk 0.05"),
        (take_the_probe_away, "names no probe"),
        (outgrow_the_probe, "larger than 256 MiB"),
        (no_number, "NaN is not a number"),
        (nest, "is damaged"),
        (two_levels_of_one_risk, "distinct"),
        (no_cue, "Cue words"),
        (unknown_rule, "no rule 'magic'"),
    ],
)
def test_damage_is_refused_by_name(bundle: Bundle, damage: Callable[[Path], None], message: str) -> None:
    damage(bundle.path)

    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle.path)


def otherwise(bundle: Bundle) -> str:
    """All that a bundle says, as text."""
    scores = bundle.training_scores()
    return repr((bundle.policy, bundle.training(), scores.scores.tobytes(), scores.problems))


DAMAGE = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.floats(0, 1, exclude_max=True), st.just(0)),
    st.tuples(st.just("grow"), st.integers(1, 64), st.integers(0, 255)),
    st.tuples(st.just("digit"), st.floats(0, 1, exclude_max=True), st.integers(0, 9)),
)


def damaged(whole: bytes, steps: list[tuple[str, float, int]]) -> bytes:
    content = bytearray(whole)
    for what, where, value in steps:
        if what == "grow":
            content += bytes([value]) * int(where)
        elif content:
            place = int(where * len(content))
            if what == "flip":
                content[place] ^= value
            elif what == "cut":
                del content[place:]
            else:
                digits = [i for i, byte in enumerate(content) if 48 <= byte < 58]
                if digits:
                    content[digits[int(where * len(digits))]] = 48 + value
    return bytes(content)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=st.lists(DAMAGE, min_size=1, max_size=4))
@pytest.mark.parametrize(
    "name",
    ["policy.json", "probe.safetensors", "scores.safetensors", "training.json", "certificates/0.05.json"],
)
def test_a_damaged_file_is_refused_or_says_the_same(
    bundle: Bundle, name: str, steps: list[tuple[str, float, int]]
) -> None:
    if not bundle.policy.levels and not (bundle.path / "certificates").exists():
        certify(bundle)
    whole, before = (bundle.path / name).read_bytes(), otherwise(Bundle.load(bundle.path))
    try:
        (bundle.path / name).write_bytes(damaged(whole, steps))
        loaded = Bundle.load(bundle.path)
        assert otherwise(loaded) == before
        assert loaded.probe is not None
        assert bundle.probe is not None
        assert np.array_equal(loaded.probe.affines[0][0], bundle.probe.affines[0][0])
    except BundleError:
        pass
    finally:
        (bundle.path / name).write_bytes(whole)


@pytest.mark.parametrize("name", ["scores.safetensors", "training.json"])
def test_files_beside_the_probe_are_checked_where_they_are_read(bundle: Bundle, name: str) -> None:
    bundle.check()
    content = bytearray((bundle.path / name).read_bytes())
    content[-3] ^= 1
    (bundle.path / name).write_bytes(bytes(content))
    with pytest.raises(BundleError, match="digest differs"):
        Bundle.load(bundle.path).check()
    (bundle.path / name).unlink()
    with pytest.raises(BundleError, match="is missing"):
        Bundle.load(bundle.path).check()


def test_scores_of_another_kind_are_refused(bundle: Bundle) -> None:
    tensors: dict[str, np.ndarray] = {
        "scores": np.zeros((2, 2), np.float32),
        "problems": np.zeros(3, np.uint8),
    }
    (bundle.path / "scores.safetensors").write_bytes(save(tensors))
    edit(bundle.path, files={})
    with pytest.raises(BundleError, match="other numbers"):
        Bundle.load(bundle.path).training_scores()
