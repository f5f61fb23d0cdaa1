"""What the plugin refuses or leaves alone, said at start-up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from lynxstop import shipped
from lynxstop.artifacts.fingerprint import fingerprint
from lynxstop.artifacts.recipe import Recipe
from lynxstop.artifacts.setup import setup_from_bundle, setup_from_recipe
from lynxstop.core.conditions import Conditions
from lynxstop.core.exits import Mode
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.thinking import detect_delimiters
from lynxstop.engines.vllm.request_options import RequestOptionsReader
from lynxstop.engines.vllm.settings import PluginSettings, read_settings
from lynxstop.errors import BundleError, ConfigError, FingerprintError, ModelError, TokenizerError
from tests.support.byte_vocabulary import byte_tokenizer
from tests.support.tekken import write_tekken

POLICY = StopPolicy((1,), (Level(0.05, 2.0), Level(0.2, 0.0)), budget=9)


def engine(**obstacles: Any) -> SimpleNamespace:
    """What `check_engine` looks at of an engine's configuration."""
    parallel = {"enable_batch_sharded_sampling": False, "prefill_context_parallel_size": 1} | obstacles
    model = SimpleNamespace(runner_type=obstacles.get("runner", "generate"), skip_tokenizer_init=False)
    return SimpleNamespace(
        parallel_config=SimpleNamespace(**parallel),
        model_config=model,
        speculative_config=obstacles.get("speculative"),
        use_v2_model_runner=obstacles.get("second", False),
    )


@pytest.mark.parametrize(
    ("obstacle", "name"),
    [
        ({"speculative": object()}, "speculative decoding on the first model runner"),
        ({"speculative": SimpleNamespace(enable_adaptive_verification=True), "second": True}, "adaptive"),
        ({"enable_batch_sharded_sampling": True}, "batch-sharded sampling"),
        ({"prefill_context_parallel_size": 2}, "prefill context parallelism"),
        ({"runner": "pooling"}, "pooling"),
    ],
)
def test_engines_that_cannot_be_served_are_refused(obstacle: dict[str, Any], name: str) -> None:
    # given an engine with something the plugin cannot follow
    pytest.importorskip("torch")
    from lynxstop.engines.vllm.served_bundle import check_engine

    check_engine(engine(), PluginSettings(Path("b")))
    # when a bundle is configured, then the error names it
    with pytest.raises(ConfigError, match=name):
        check_engine(engine(**obstacle), PluginSettings(Path("b")))


def test_speculation_on_the_second_runner_is_served_but_not_recorded() -> None:
    # given an engine that drafts tokens on the second runner
    pytest.importorskip("torch")
    from lynxstop.engines.vllm.served_bundle import check_engine

    drafting = engine(speculative=SimpleNamespace(enable_adaptive_verification=False), second=True)
    # when a bundle is served, then it starts; with recording the error says why not
    check_engine(drafting, PluginSettings(Path("b")))
    with pytest.raises(ConfigError, match="recording under speculative decoding"):
        check_engine(drafting, PluginSettings(Path("b"), record=Path("r")))


@pytest.mark.parametrize("marks", [[], ["<think>", "</think>"]])
def test_open_thinking_is_closed_by_one_token_or_not_at_all(marks: list[str]) -> None:
    # given a tokenizer that spells the end of thinking out of pieces, or has a token for it
    pytest.importorskip("torch")
    from lynxstop.engines.vllm.served_bundle import require_one_close

    thinking = {"open": ["<think>"], "close": ["</think>"], "special": bool(marks)}
    setup = setup_from_recipe(Recipe.read({"thinking": thinking}), byte_tokenizer(marks))
    # when an end of text is to become an end of thinking, then that is refused where one token cannot be it
    if marks:
        require_one_close(setup)
    else:
        with pytest.raises(ConfigError, match="writes </think> in several") as refused:
            require_one_close(setup)
        assert refused.value.hint == "Leave close_open_thinking out."


def test_settings_come_from_the_configuration_first_and_the_environment_second() -> None:
    # given both
    environment = {"LYNXSTOP_BUNDLE": "/e", "LYNXSTOP_RISK": "0.2", "LYNXSTOP_MODE": "shadow"}
    # when they are read, then the configuration wins, and without either the plugin is off
    found = read_settings({"lynxstop": {"bundle": "/c", "risk": "off"}}, environment)
    assert found == PluginSettings(bundle=Path("/c"), risk="off", mode=Mode.SHADOW)
    assert read_settings({}, environment) == PluginSettings(bundle=Path("/e"), risk=0.2, mode=Mode.SHADOW)
    assert read_settings({}, {}) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bundel": "x"}, "bundel"),
        ({"risk": 0.1}, "no bundle"),
        ({"bundle": "b", "risk": "low"}, "number"),
        ({"bundle": "b", "mode": "halt"}, "stop, shadow"),
        ({"bundle": 3}, "path"),
        ({"bundle": "b", "recipe": "r"}, "a bundle and a recipe"),
        ({"recipe": "r"}, "recorded by"),
        ([], "not an object"),
    ],
)
def test_wrong_settings_are_refused(given: Any, message: str) -> None:
    # given settings with a mistake, when they are read, then the error says which
    with pytest.raises(ConfigError, match=message):
        read_settings({"lynxstop": given}, {})


def test_a_misspelt_variable_is_refused_and_those_of_the_proxy_are_not() -> None:
    # given a variable that is nearly one of the plugin's, when settings are read, then it is named
    with pytest.raises(ConfigError, match=r"LYNXSTOP_BUNDEL sets nothing") as caught:
        read_settings({}, {"LYNXSTOP_BUNDEL": "/b"})
    assert "LYNXSTOP_BUNDLE" in str(caught.value)
    # and the proxy's own may stand beside them
    theirs = {
        "LYNXSTOP_POLICY_UNCERTIFIED": "stop",
        "LYNXSTOP_RECORD_FOLDER": "/f",
        "LYNXSTOP_SERVE_PORT": "1",
    }
    assert read_settings({}, theirs) is None


def test_a_default_risk_must_be_certified() -> None:
    # given a server whose default nobody certified, when it starts, then the certified levels are listed
    with pytest.raises(ConfigError, match=r"certified levels: 0\.05, 0\.2"):
        RequestOptionsReader(PluginSettings(Path("b"), risk=0.1), POLICY, None)
    assert not RequestOptionsReader(PluginSettings(Path("b")), POLICY, None).read(None).watched


def test_off_frees_a_request_of_its_budget_too() -> None:
    # given a policy with a budget, when a request is off, then nothing of it is watched
    reader = RequestOptionsReader(PluginSettings(Path("b")), POLICY, 0.05)
    assert reader.read(None).budget == 9
    assert not reader.read({"lynxstop_risk": "off"}).watched


def test_a_group_gets_its_own_threshold_and_an_unknown_one_that_of_all() -> None:
    # given a level of all requests and one of a group
    levels = (Level(0.05, 1.0), Level(0.05, 3.0, "legal"))
    reader = RequestOptionsReader(PluginSettings(Path("b")), StopPolicy(exit_ids=(1,), levels=levels), 0.05)
    # when requests name their groups, then each is stopped by its own level
    assert reader.read({"lynxstop_group": "legal"}).threshold == 3.0
    assert reader.read({"lynxstop_group": "other"}).threshold == reader.read(None).threshold == 1.0
    with pytest.raises(ConfigError, match="lynxstop_group is a text"):
        reader.read({"lynxstop_group": 3})


def test_a_bundle_of_another_model_is_refused_at_start(
    make_llm: Any, make_model: Any, make_bundle: Any
) -> None:
    # given a bundle made for other weights
    bundle = make_bundle(make_model("Qwen3", attention_dropout=0.5))
    # when an engine starts with it, then the error names what differs
    with pytest.raises(FingerprintError, match="config"):
        make_llm(make_model("Qwen3"), bundle)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("flags", "computes"),
    [
        ({}, "float32"),
        ({"kv_cache_dtype": "fp8"}, "float32, fp8 cache"),
        ({"dtype": "bfloat16", "quantization": "fp8"}, "bfloat16, fp8 weights"),
        (
            {"hf_overrides": {"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}}},
            'float32, configuration {"rope_parameters": {"rope_theta": 9.0, "rope_type": "default"}}',
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_flags_that_change_what_the_files_compute_depart(
    flags: dict[str, Any], computes: str, make_model: Any, make_bundle: Any
) -> None:
    # given an engine that quantises what the model's files do not, or overrides their configuration
    pytest.importorskip("vllm")
    from vllm.engine.arg_utils import EngineArgs

    from lynxstop.engines.vllm.served_bundle import data_type, load_served

    model = make_model("Qwen3")
    given = {"dtype": "float32", "max_model_len": 256} | flags
    config = EngineArgs(model=str(model), **given).create_engine_config()
    # when bundles that were made without it, and with it, are served
    assert data_type(config) == computes
    departs = []
    for dtype in ("float32", computes):
        served = load_served(config, PluginSettings(make_bundle(model, dtype=dtype, engine="vllm").path))
        departs.append(served.options.read(None, served=Conditions(0.0, max_tokens=8)).departures)
    # then the requests of the former depart, and only they
    assert departs == [("dtype",) if flags else (), ()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", [(1,), (3,)], ids=["inner layer", "last layer"])
def test_microbatches_do_not_go_together_with_inner_layers(
    layers: tuple[int, ...], make_model: Any, make_bundle: Any
) -> None:
    # given an engine that computes a step in parts, each of which writes its states from the first row on
    pytest.importorskip("vllm")
    from vllm.engine.arg_utils import EngineArgs

    from lynxstop.engines.vllm.served_bundle import load_served

    model = make_model("Qwen3")
    config = EngineArgs(model=str(model), dtype="float32", max_model_len=256).create_engine_config()
    config.parallel_config.enable_dbo = True
    settings = PluginSettings(make_bundle(model, layers).path)
    # when a bundle is served, then one whose states lie inside the model is refused, and no other
    if layers == (3,):
        assert load_served(config, settings).probe.layers == layers
        return
    with pytest.raises(ConfigError, match="microbatching"):
        load_served(config, settings)


@pytest.mark.filterwarnings("ignore")
def test_mistral_models_are_read_in_the_format_of_transformers(tmp_path: Path) -> None:
    # given a model that vLLM serves with mistral-common
    pytest.importorskip("vllm")
    from vllm.engine.arg_utils import EngineArgs
    from vllm.tokenizers import cached_tokenizer_from_config

    from lynxstop.engines.vllm.engine import served_tokenizer

    model = write_tekken(tmp_path / "model")
    config = EngineArgs(model=str(model), tokenizer_mode="mistral").create_model_config()
    assert type(cached_tokenizer_from_config(config)).__name__ == "MistralTokenizer"
    # when the plugin takes its tokenizer, then its special tokens are known
    tokenizer = served_tokenizer(config)
    assert detect_delimiters(tokenizer).open == ("[THINK]",)
    assert len(tokenizer.encode("[/THINK]", add_special_tokens=False)) == 1


def test_weights_in_a_cache_of_their_own_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a model of the hub: its weights lie where --download-dir says, and the rest where it is usual
    pytest.importorskip("torch")
    constants = pytest.importorskip("huggingface_hub.constants")
    from lynxstop.engines.vllm.served_bundle import served_fingerprint

    usual, own, whole = (tmp_path / name for name in ("usual", "own", "whole"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(usual))
    for cache in (usual, own):
        (refs := cache / "models--maker--model" / "refs").mkdir(parents=True)
        (refs / "main").write_text("c0ffee")
        (cache / "models--maker--model" / "snapshots" / "c0ffee").mkdir(parents=True)
    shutil.copytree(shipped.MODEL, whole)
    for path in whole.iterdir():
        cache = own if path.suffix == ".safetensors" else usual
        shutil.copy(path, cache / "models--maker--model" / "snapshots" / "c0ffee")
    model = SimpleNamespace(model="maker/model", revision=None)
    config = SimpleNamespace(model_config=model, load_config=SimpleNamespace(download_dir=str(own)))
    # when it is compared with a bundle, then it is the model that it is in one folder
    assert served_fingerprint(config) == fingerprint(whole)
    # and: weights that are not there are missed where they should be
    config.load_config.download_dir = None
    with pytest.raises(ModelError, match=r"usual.* has no safetensors weights"):
        served_fingerprint(config)


def test_a_damaged_bundle_is_refused_at_start(
    make_llm: Any, make_model: Any, make_bundle: Any, tmp_path: Path
) -> None:
    # given a bundle whose probe was cut short
    model = make_model("Qwen3")
    broken = tmp_path / "bundle"
    shutil.copytree(make_bundle(model).path, broken)
    probe = broken / "probe.safetensors"
    probe.write_bytes(probe.read_bytes()[:-7])
    # when an engine starts with it, then the error says so
    with pytest.raises(BundleError, match="probe"):
        make_llm(model, settings={"bundle": str(broken)})


def test_a_probe_of_another_width_is_refused_at_start(
    make_llm: Any, make_model: Any, make_bundle: Any
) -> None:
    # given a probe for states of 32 numbers, and a model with 64
    model = make_model("Qwen3")
    with pytest.raises(BundleError, match=r"0\.\.3 of 64"):
        make_llm(model, make_bundle(model, width=32))


def test_an_exit_that_would_end_the_text_is_refused_at_start(
    make_llm: Any, make_model: Any, make_bundle: Any, tmp_path: Path
) -> None:
    # given a model whose generation settings end a text at "=", which the exit text holds
    model = tmp_path / "model"
    shutil.copytree(make_model("Qwen3"), model)
    settings = model / "generation_config.json"
    sign = (tokenizer := transformers.AutoTokenizer.from_pretrained(model)).convert_tokens_to_ids("=")
    settings.write_text(
        json.dumps(json.loads(settings.read_text()) | {"eos_token_id": [tokenizer.eos_token_id, sign]})
    )
    # when an engine starts with its bundle, or it is compiled with a tokenizer that ends a text there
    # then the error says so: every exit would end without an answer
    bundle = make_bundle(model)
    with pytest.raises(TokenizerError, match="ends a text"):
        make_llm(model, bundle)
    tokenizer.eos_token = "="
    with pytest.raises(TokenizerError, match="ends a text"):
        setup_from_bundle(bundle, tokenizer)


def test_cues_that_no_token_can_write_are_refused_at_start(
    make_llm: Any, make_model: Any, make_bundle: Any
) -> None:
    # given a cue in letters that the vocabulary does not have
    model = make_model("Qwen3")
    with pytest.raises(TokenizerError, match="zzz"):
        make_llm(model, make_bundle(model, cue_words=("zzz",)))
    # and an exit that leaves the block open
    with pytest.raises(TokenizerError, match="does not close"):
        make_llm(model, make_bundle(model, exit_text="=3"))


def test_without_a_bundle_nothing_is_changed(
    make_llm: Any, make_model: Any, generate: Any, runner_of: Any
) -> None:
    # given the package installed beside vLLM and no bundle
    from lynxstop.engines.vllm.processor import LynxstopProcessor

    llm = make_llm(make_model("Qwen3"))
    runner = runner_of(llm)
    # when an engine runs, then ours sits idle where greedy sampling does not even call it, and the model is
    # as it was
    ours = [p for p in runner.input_batch.logitsprocs.all if isinstance(p, LynxstopProcessor)]
    assert [p.adapter for p in ours] == [None]
    assert ours[0] not in runner.input_batch.logitsprocs.non_argmax_invariant
    assert "compute_logits" not in runner.get_model().__dict__
    assert len(generate(llm, [[5, 0]])[0]) == 48
    # and arguments of ours are refused instead of ignored
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="serves no lynxstop bundle"):
        generate(llm, [[5, 0]], xargs={"lynxstop_risk": 0.05})


def test_by_flag_and_by_environment(
    make_llm: Any,
    make_model: Any,
    make_bundle: Any,
    prompts: Any,
    generate: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given the tokens of an engine switched on by its configuration
    model = make_model("Qwen3")
    bundle = make_bundle(model)
    expected = generate(make_llm(model, bundle), prompts)
    # when the bundle comes from the environment, and the class by flag beside its entry point
    monkeypatch.setenv("LYNXSTOP_BUNDLE", str(bundle.path))
    name = "lynxstop.engines.vllm.processor:LynxstopProcessor"
    # then the tokens are the same
    assert generate(make_llm(model, logits_processors=[name]), prompts) == expected


def test_missing_seams_disable_the_plugin_and_say_so(
    make_model: Any,
    make_llm: Any,
    make_bundle: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # given a process in which vLLM was told not to load the plugin
    from vllm.config import VllmConfig  # noqa: F401

    from lynxstop.engines.vllm import patches, processor

    monkeypatch.setattr(patches, "installed", lambda: False)
    config = SimpleNamespace(
        additional_config={"lynxstop": {"bundle": "/b"}},
        model_config=SimpleNamespace(served_model_name="off"),
    )
    # when the processor is made all the same
    with caplog.at_level("ERROR"):
        made = processor.LynxstopProcessor(config, None, False)
    # then it is idle, one line says what to do, and the metric shows it
    assert made.is_argmax_invariant()
    assert "VLLM_PLUGINS" in caplog.text
    from prometheus_client import REGISTRY

    assert REGISTRY.get_sample_value("lynxstop:disabled_total", {"model_name": "off"}) == 1
