"""From settings and the engine's configuration to everything that is served; or a clear refusal."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.certified import Certified
from lynxstop.artifacts.fingerprint import (
    Fingerprint,
    fingerprint,
    require_same,
    require_same_tokenizer,
)
from lynxstop.artifacts.probe import Probe
from lynxstop.artifacts.setup import Setup, setup_from_bundle, setup_from_recipe
from lynxstop.core.conditions import Uncertified
from lynxstop.core.policy import StopPolicy
from lynxstop.core.watch import check_exit
from lynxstop.engines.torch.layers import layer_numbers
from lynxstop.engines.vllm.engine import VllmEngine, served_tokenizer
from lynxstop.engines.vllm.product_automaton import ProductAutomaton, product
from lynxstop.engines.vllm.request_options import RequestOptionsReader
from lynxstop.engines.vllm.settings import PluginSettings
from lynxstop.engines.vllm.tool_calls import guard_tool_calls
from lynxstop.errors import BundleError, ConfigError, ModelError

logger = logging.getLogger("vllm.lynxstop")


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """A bundle ready to be served.

    Parameters
    ----------
    closed : int
        Number of exit tokens after which the thinking block is closed.
    depth : int
        Decoder layers of the model; the hidden state of this number is the one after the final norm.
    end_ids : tuple of int
        Tokens that end a text.
    """

    settings: PluginSettings
    name: str
    probe: Probe
    setup: Setup
    automaton: ProductAutomaton
    options: RequestOptionsReader
    closed: int
    depth: int
    end_ids: tuple[int, ...] = ()


def check_engine(config: Any, settings: PluginSettings) -> None:
    """Refuse what the plugin cannot serve, before anything is loaded.

    Raises
    ------
    ConfigError
        Names what is in the way and what to do.
    """
    remedy = "Switch it off, or serve without lynxstop."
    parallel = config.parallel_config
    obstacles = {
        **_speculation(config, settings),
        "batch-sharded sampling": bool(getattr(parallel, "enable_batch_sharded_sampling", False)),
        "prefill context parallelism": getattr(parallel, "prefill_context_parallel_size", 1) > 1,
        "pooling": config.model_config.runner_type == "pooling",
        "skip_tokenizer_init": bool(config.model_config.skip_tokenizer_init),
    }
    for name, present in obstacles.items():
        if present:
            raise ConfigError(f"lynxstop does not work together with {name}.", hint=remedy)


def _speculation(config: Any, settings: PluginSettings) -> dict[str, bool]:
    """What prevents speculative decoding: it needs the second runner."""
    speculation = config.speculative_config
    if speculation is None:
        return {}
    if not config.use_v2_model_runner:
        return {"speculative decoding on the first model runner (set VLLM_USE_V2_MODEL_RUNNER=1)": True}
    adaptive = bool(getattr(speculation, "enable_adaptive_verification", False))
    return {
        "adaptive verification of drafts": adaptive,
        "recording under speculative decoding": settings.record is not None,
        "close_open_thinking under speculative decoding": settings.close_open_thinking,
    }


def read_request_options(settings: PluginSettings) -> RequestOptionsReader:
    """Load what is needed to check the arguments of requests.

    Raises
    ------
    LynxstopError
        When the bundle cannot be loaded, or the default risk is not certified.
    """
    if settings.bundle is None:
        return RequestOptionsReader(settings, StopPolicy(exit_ids=(0,)), None)
    policy = Bundle.load(settings.bundle).policy
    return RequestOptionsReader(settings, policy.stop_policy(), policy.default_risk)


def load_served(config: Any, settings: PluginSettings) -> ServedBundle:
    """Load a bundle, or a recipe to record by, for an engine.

    Parameters
    ----------
    config : vllm.config.VllmConfig
        The engine's configuration.
    settings : PluginSettings
        What the operator asked for.

    Raises
    ------
    FingerprintError
        When the bundle belongs to another model.
    ConfigError
        When the engine does something the plugin cannot serve, or the default risk is not certified.
    BundleError
        When the bundle is damaged or its probe does not fit the model.
    TokenizerError
        When the exit text holds a token that ends a text.
    """
    check_engine(config, settings)
    model = config.model_config
    depth, width = model.hf_text_config.num_hidden_layers, model.hf_text_config.hidden_size
    tokenizer = served_tokenizer(model)
    if settings.bundle is not None:
        bundle = Bundle.load(settings.bundle)
        recorded, what = bundle.policy.fingerprint, f"The bundle {settings.bundle}"
        require_same(recorded, served_fingerprint(config), what)
        if Path(model.tokenizer).is_dir():
            require_same_tokenizer(recorded, Path(model.tokenizer), what)
        name, setup = bundle.policy.name, setup_from_bundle(bundle, tokenizer)
        probe = bundle.probe or _silent((depth,), width)
        default_risk = bundle.policy.default_risk
        dtype = data_type(config)
        certified = Certified.of(bundle, engine=VllmEngine, dtype=dtype, grace=settings.grace)
        _warn(bundle, certified, settings, dtype, model.max_model_len)
    else:
        assert settings.recipe is not None
        recipe = settings.recipe
        if not recipe.probe.layers:
            raise ConfigError(
                "Inside vLLM hidden states are recorded at decision points, and none are named.",
                hint="Name layers in the recipe's [probe] section.",
            )
        layers = layer_numbers(recipe.probe.layers, depth)
        name, probe, setup = (
            "a recipe",
            _silent(layers, width),
            setup_from_recipe(recipe, tokenizer),
        )
        default_risk = certified = None
    setup.require_cut_after()
    ends = _end_ids(model, tokenizer)
    check_exit(setup.watch, setup.policy.exit_ids, ends)
    if settings.close_open_thinking:
        require_one_close(setup)
    if settings.loop_guard is not None:
        setup = replace(setup, policy=replace(setup.policy, loop_guard=settings.loop_guard))
    if probe.width != width * len(probe.layers) or probe.layers[-1] > depth:
        raise BundleError(
            f"The probe takes {probe.width} features of hidden states {probe.layers}; the model has states "
            f"0..{depth} of {width} numbers.",
            hint="Serve the model that the bundle was made for.",
        )
    if probe.layers != (depth,) and config.parallel_config.pipeline_parallel_size > 1:
        raise ConfigError(
            "The probe reads layers that lie on other pipeline stages.",
            hint="Serve without pipeline parallelism, or train a probe on the last layer.",
        )
    if probe.layers != (depth,) and config.parallel_config.use_ubatching:
        raise ConfigError(
            "The probe reads layers inside the model, and microbatching computes a step in parts, whose "
            "hidden states would overwrite each other.",
            hint="Serve without --enable-dbo and --ubatch-size, or train a probe on the last layer.",
        )
    written = exit_texts(tokenizer, setup.policy.exit_ids)
    options = RequestOptionsReader(settings, setup.policy, default_risk, certified, written)
    automaton = product(guard_tool_calls(setup.watch, tokenizer))
    return ServedBundle(
        settings,
        name,
        probe,
        setup,
        automaton,
        options,
        closing(setup),
        depth,
        ends,
    )


def data_type(config: Any) -> str:
    """Say what an engine computes in: a data type, and what its flags change of the model in the folder.

    Weights that are quantised while they are loaded, a cache of another type and an overridden configuration
    make other hidden states, and other answers, of the same files. What the files themselves say of
    quantisation is part of the fingerprint.
    """
    model, cache = config.model_config, config.cache_config.cache_dtype
    parts = [str(model.dtype).removeprefix("torch.")]
    if model.quantization is not None and model.model_arch_config.quantization_config is None:
        parts.append(f"{model.quantization} weights")
    if cache not in ("auto", parts[0]):
        parts.append(f"{cache} cache")
    if model.hf_overrides:
        parts.append(f"configuration {json.dumps(model.hf_overrides, sort_keys=True, default=str)}")
    return ", ".join(parts)


def exit_texts(tokenizer: Any, exit_ids: Sequence[int]) -> tuple[str, ...]:
    """Return what an exit writes, as requests see it: with special tokens, and without."""
    return tuple(tokenizer.decode(exit_ids, skip_special_tokens=skip) for skip in (False, True))


def _end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a text, by the generation settings, the model's configuration and its tokenizer."""
    generation = model.try_get_generation_config() or {}
    sources = (generation.get("eos_token_id"), getattr(model.hf_text_config, "eos_token_id", None))
    found: set[int] = set()
    for ids in (*sources, getattr(tokenizer, "eos_token_id", None)):
        found.update(ids if isinstance(ids, list | tuple) else () if ids is None else (ids,))
    return tuple(sorted(found))


def _silent(layers: tuple[int, ...], width: int) -> Probe:
    """Return a probe that gives 0 everywhere: for recipes, and for rules that read no hidden states."""
    return Probe(layers, ((np.zeros((1, width * len(layers)), np.float32), np.zeros(1, np.float32)),))


def _warn(bundle: Bundle, certified: Certified, settings: PluginSettings, dtype: str, context: int) -> None:
    """Say once what keeps requests from being stopped under a certificate."""
    policy = bundle.policy
    what = "think to the end" if settings.uncertified is Uncertified.THINK else "are stopped uncertified"
    if "engine" in certified.always:
        logger.warning(
            "lynxstop: the bundle was certified with %s in %s, which has not been shown to decide as vLLM "
            "does: all requests %s. Collect the calibration data with --engine vllm.",
            policy.engine,
            policy.dtype,
            what,
        )
    elif "dtype" in certified.always:
        logger.warning(
            "lynxstop: the bundle was certified in %s, and this engine computes in %s: all requests %s. "
            "Serve in %s, or calibrate again here.",
            policy.dtype,
            dtype,
            what,
            policy.dtype,
        )
    levels = [level.sampling or policy.sampling for level in policy.levels]
    if (least := min((one.max_tokens for one in levels), default=0)) >= context:
        logger.warning(
            "lynxstop: the bundle is certified for up to %d output tokens, and the context has %d, "
            "the prompt included: all requests %s. Raise max_model_len where the model allows it, "
            "or calibrate again with a smaller max_tokens.",
            least,
            context,
            what,
        )
    gone = [level for level in policy.levels if certified.dates.expired(level.risk, level.served.whose)]
    if gone:
        names = ", ".join(f"{level.risk:g} ({level.whose})" for level in gone)
        logger.warning(
            "lynxstop: the certificates of risk %s have expired: requests at them %s. Calibrate again.",
            names,
            what,
        )


def closing(setup: Setup) -> int:
    """Count the exit tokens up to the one that closes the thinking block."""
    thinking = setup.watch.thinking
    state = thinking.opened
    for count, token in enumerate(setup.policy.exit_ids, start=1):
        state = thinking.step(state, token)
        if not thinking.inside(state):
            return count
    raise AssertionError("the setup checks that an exit leaves the block")


def require_one_close(setup: Setup) -> None:
    """Refuse to close open thinking where that takes more than one token.

    Raises
    ------
    ConfigError
    """
    thinking, last = setup.watch.thinking, setup.policy.exit_ids[closing(setup) - 1]
    if thinking.inside(thinking.step(thinking.opened, last)):
        raise ConfigError(
            f"close_open_thinking needs one token that ends the thinking; this tokenizer writes "
            f"{setup.delimiters.close[0]} in several.",
            hint="Leave close_open_thinking out.",
        )


def served_fingerprint(config: Any) -> Fingerprint:
    """Fingerprint the model of an engine's configuration.

    Of a name on the hub, vLLM keeps the weights in the cache that `--download-dir` names, and everything else
    in the usual one.

    Raises
    ------
    ModelError
        When its files are not there.
    """
    weights = config.load_config.download_dir
    folder = _model_folder(config.model_config)
    return fingerprint(folder, _model_folder(config.model_config, weights) if weights else None)


def _model_folder(model: Any, cache: str | None = None) -> Path:
    """Find the folder of a served model; a name on the hub is looked up in a local cache."""
    folder = Path(model.model)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(model.model, revision=model.revision, cache_dir=cache, local_files_only=True)
        )
    except (LocalEntryNotFoundError, ValueError) as error:
        raise ModelError(
            f"The files of {model.model} cannot be found to compare them with the bundle.",
            hint="Download the model to a folder and serve that folder.",
        ) from error
