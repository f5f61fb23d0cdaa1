"""What of the conditions that a bundle was certified under its engine departs from, in every request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import pytest

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.certified import Certified, ServingEngine
from lynxstop.engines.transformers.engine import TransformersEngine
from lynxstop.engines.transformers.loading import load_engine
from lynxstop.engines.vllm import served_bundle
from lynxstop.engines.vllm.engine import VllmEngine
from lynxstop.engines.vllm.settings import PluginSettings

ENGINES: tuple[type[ServingEngine], ...] = (TransformersEngine, VllmEngine)


def made_with(bundle: Bundle, engine: str, dtype: str = "float32") -> Bundle:
    policy = bundle.policy.model_copy(update={"engine": engine, "dtype": dtype})
    return replace(bundle, policy=policy)


@pytest.mark.parametrize(
    ("certified", "dtype", "served", "departs"),
    [
        ("transformers", "float32", TransformersEngine, ()),
        # test_vllm_collects_the_data_of_transformers compares these two, and in float32 only
        ("transformers", "float32", VllmEngine, ()),
        ("vllm", "float32", TransformersEngine, ()),
        ("transformers", "bfloat16", VllmEngine, ("engine",)),
        ("vllm", "bfloat16", TransformersEngine, ("engine",)),
        ("vllm", "bfloat16", VllmEngine, ()),
        # a server's stream shows rounded statistics of its top tokens
        ("openai", "server", VllmEngine, ("engine", "dtype")),
        ("mine", "float32", TransformersEngine, ("engine",)),
    ],
)
def test_an_engine_departs_unless_it_was_shown_to_decide_alike(
    bundle: Bundle, certified: str, dtype: str, served: type[ServingEngine], departs: tuple[str, ...]
) -> None:
    given = made_with(bundle, certified, dtype)
    kind = "float32" if dtype == "server" else dtype
    found = Certified.of(given, engine=served, dtype=kind)
    assert found.always == departs


def test_a_server_that_is_part_of_the_fingerprint_is_not_compared(bundle: Bundle) -> None:
    assert Certified.of(made_with(bundle, "openai", "server")).always == ()


def test_deciding_alike_is_mutual() -> None:
    said = {(e.id, other, kind) for e in ENGINES for kind, likes in e.decides_like.items() for other in likes}
    assert said == {(other, id, kind) for id, other, kind in said}
    assert {id for id, _, _ in said} <= {engine.id for engine in ENGINES}


def test_an_engine_of_ones_own_says_what_it_decides_like(bundle: Bundle) -> None:
    class Mine:
        id: ClassVar[str] = "mine"
        decides_like: ClassVar[Mapping[str, tuple[str, ...]]] = {"float32": ("transformers",)}

    assert Certified.of(bundle, engine=Mine).always == ()


@pytest.mark.skipif(not (shipped.MODEL / "model.safetensors").exists(), reason="no shipped model")
def test_a_loaded_engine_compares_itself() -> None:
    loaded = Bundle.load(shipped.BUNDLE)
    for name, departs in (("vllm", ()), ("mine", ("engine",))):
        found = load_engine(shipped.MODEL, made_with(loaded, name)).engine.certified
        assert found is not None
        assert found.always == departs


CONTEXT = 1 << 20


@pytest.mark.parametrize(("spare", "warns"), [(0, True), (1, False)])
def test_an_operator_is_told_that_the_context_is_too_short(
    monkeypatch: pytest.MonkeyPatch, spare: int, warns: bool
) -> None:
    # given a context that has not one token for the prompt beside the certified output, or just one
    said: list[str] = []
    monkeypatch.setattr(served_bundle.logger, "warning", lambda text, *given: said.append(text % given))
    given = Bundle.load(shipped.BUNDLE)
    certified = Certified.of(given, engine=VllmEngine, dtype="float32")
    context = given.policy.sampling.max_tokens + spare
    served_bundle._warn(given, certified, PluginSettings(), "float32", context)
    # then that is said in the first case
    assert [f"up to {context} output tokens" in text for text in said] == [True] * warns


@pytest.mark.parametrize(
    ("engine", "dtype", "says"),
    [
        ("openai", "server", "Collect the calibration data with --engine vllm."),
        ("transformers", "float32", "Serve in float32, or calibrate again here."),
    ],
)
def test_an_operator_is_told_what_to_do_about_the_engine(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, engine: str, dtype: str, says: str
) -> None:
    # given a bundle that another engine was calibrated with, when vLLM serves it in bfloat16
    said: list[str] = []
    monkeypatch.setattr(served_bundle.logger, "warning", lambda text, *given: said.append(text % given))
    given = made_with(bundle, engine, dtype)
    certified = Certified.of(given, engine=VllmEngine, dtype="bfloat16")
    served_bundle._warn(given, certified, PluginSettings(), "bfloat16", CONTEXT)
    # then there is one advice; a data type that only a server has is not advised
    assert len(said) == 1
    assert said[0].endswith(says)
