"""Start vLLM on a model to record by a recipe, or to run with a bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.artifacts.recipe import Recipe
from lynxstop.artifacts.setup import Setup, setup_from_bundle, setup_from_recipe, with_budget
from lynxstop.artifacts.tokenizer import load_tokenizer
from lynxstop.core.policy import StopPolicy
from lynxstop.engines.context import check_recipe
from lynxstop.engines.torch.layers import layer_numbers
from lynxstop.engines.vllm.engine import VllmEngine
from lynxstop.engines.vllm.row_files import MEMORY
from lynxstop.errors import ConfigError, LynxstopError, MissingExtraError, ModelError
from lynxstop.extras import need

EXTENSION = "lynxstop.engines.vllm.worker.RecordingWorker"
"""For vLLM's `worker_extension_cls`: what `VllmEngine` asks of the workers."""


@dataclass(frozen=True, slots=True)
class LoadedVllm:
    """An engine and what it was made from."""

    engine: VllmEngine
    tokenizer: Any
    setup: Setup
    fingerprint: Fingerprint
    dtype: str

    def close(self) -> None:
        """Stop the engine."""
        self.engine.llm.llm_engine.engine_core.shutdown()


def load_engine(
    model: str,
    made_by: Bundle | Recipe,
    *,
    dtype: str | None = None,
    batch_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> LoadedVllm:
    """Start vLLM in this process, with lynxstop recording by a recipe or stopping by a bundle.

    One process schedules the same requests in the same way every time; the workers of tensor parallelism are
    processes of their own all the same.

    Parameters
    ----------
    model : str
        A model folder, or a name on the hub.
    made_by : Bundle or Recipe
        The layers of a recipe are recorded; a bundle stops requests that name a risk.
    dtype : str, optional
        As vLLM names it; float32 on a CPU, the model's own elsewhere.
    batch_size : int, optional
        Requests that run at once; vLLM's default.
    arguments : mapping, optional
        Further arguments of `vllm.LLM`.

    Raises
    ------
    MissingExtraError
        When vLLM is not installed.
    ConfigError
        When an argument is unknown to vLLM, or one that is set here, or `max_tokens` leaves no room for
        thinking, or a recipe's longest traces do not fit in the context.
    ModelError
        When vLLM cannot load the model.
    """
    if find_spec("vllm") is None:
        raise MissingExtraError("vllm", "vllm")
    given = dict(arguments or {})
    if reserved := sorted(given.keys() & {"additional_config", "worker_extension_cls", "model"}):
        raise ConfigError(f"lynxstop sets these arguments of vLLM itself: {', '.join(reserved)}.")
    try:
        tokenizer = load_tokenizer(model, "vllm")
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{model} cannot be loaded: {error}") from error
    setup, policy, lynxstop, layers = _settled(made_by, tokenizer)
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    vllm = need("vllm", "vllm")
    defaults = {
        "dtype": dtype or ("float32" if need("vllm.platforms", "vllm").current_platform.is_cpu() else "auto"),
        "enable_prefix_caching": True,
        "seed": 0,
        **({} if batch_size is None else {"max_num_seqs": batch_size}),
    }
    try:
        llm = vllm.LLM(
            model,
            additional_config={"lynxstop": {**lynxstop, "record": MEMORY}},
            worker_extension_cls=EXTENSION,
            **(defaults | given),
        )
    except LynxstopError:
        raise
    except TypeError as error:
        raise ConfigError(f"vLLM does not take these arguments: {error}.") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"vLLM cannot serve {model}: {error}") from error
    from lynxstop.engines.vllm.served_bundle import data_type, served_fingerprint

    config = llm.llm_engine.model_config
    depth = config.hf_text_config.num_hidden_layers
    counted = layer_numbers(layers, depth)
    loaded = LoadedVllm(
        engine=VllmEngine(llm, setup, counted, policy),
        tokenizer=tokenizer,
        setup=setup,
        fingerprint=served_fingerprint(llm.llm_engine.vllm_config),
        dtype=data_type(llm.llm_engine.vllm_config),
    )
    if isinstance(made_by, Recipe):
        try:
            remedy = "Raise max_model_len where the model allows it. "
            check_recipe(policy, made_by, config.max_model_len, remedy)
        except ConfigError:
            loaded.close()
            raise
    return loaded


def _settled(
    made_by: Bundle | Recipe, tokenizer: Any
) -> tuple[Setup, StopPolicy, dict[str, Any], tuple[int, ...]]:
    """Setup, policy, settings of the plugin and layers."""
    if isinstance(made_by, Bundle):
        setup = setup_from_bundle(made_by, tokenizer)
        layers = () if made_by.probe is None else made_by.probe.layers
        return setup, setup.policy, {"bundle": str(made_by.path)}, layers
    setup = setup_from_recipe(made_by, tokenizer)
    policy = with_budget(setup.policy, made_by)
    guards = made_by.guards.model_copy(update={"budget": policy.budget})
    written = made_by.model_copy(update={"guards": guards}).model_dump(mode="json")
    return setup, policy, {"recipe": written}, made_by.probe.layers
