"""Every name of vLLM that is reached into, and the versions of vLLM in which these names are known.

vLLM promises nothing about most of them. So they are listed here alone, looked up before anything is patched,
and compared with the sources of the oldest and the newest version (`tests/vllm/test_compat.py`).
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
from typing import Any, NamedTuple

from lynxstop.errors import ConfigError

OLDEST, BEYOND = (0, 32), (0, 34)
"""Versions of vLLM that are supported: from the first on, and below the second."""

REQUIREMENT = "vllm>={}.{},<{}.{}".format(*OLDEST, *BEYOND)
"""The same as a requirement for pip."""


class Callee(NamedTuple):
    """A function, method or class that is imported, wrapped or called.

    Parameters
    ----------
    module : str
    name : str
        Dotted for a method; "" is the module alone.
    parameters : tuple of str
        What it has to take first, after `self`.
    """

    module: str
    name: str
    parameters: tuple[str, ...] = ()


class Fields(NamedTuple):
    """Attributes that are read from the objects of a class."""

    module: str
    name: str
    attributes: tuple[str, ...]


_FIRST = "vllm.v1.worker.gpu_model_runner"
_SECOND = "vllm.v1.worker.gpu.model_runner"
FIRST_PROCESSORS = "vllm.v1.sample.logits_processor.interface"
SECOND_PROCESSORS = "vllm.v1.worker.gpu.sample.logits_processor.interface"
"""Modules of the interfaces for logits processors, of the first and of the second runner."""

_PROCESSOR_METHODS = (("validate_params", ("sampling_params",)), ("apply", ("logits",)))

CALLEES = (
    # Wrapped, by `attach`.
    Callee(_FIRST, "GPUModelRunner.load_model"),
    Callee("vllm.v1.worker.cpu_model_runner", "CPUModelRunner.load_model"),
    Callee(_SECOND, "GPUModelRunner.load_model"),
    Callee(_SECOND, "GPUModelRunner.finish_requests", ("scheduler_output",)),
    Callee(_SECOND, "GPUModelRunner.add_requests", ("scheduler_output",)),
    Callee(_SECOND, "GPUModelRunner.sample", ("hidden_states", "input_batch")),
    Callee("vllm.v1.engine.input_processor", "InputProcessor.__init__", ("vllm_config",)),
    # Called.
    Callee(_FIRST, "GPUModelRunner.get_model"),
    Callee(_SECOND, "GPUModelRunner.get_model"),
    Callee("vllm.tokenizers", "cached_tokenizer_from_config", ("model_config",)),
    Callee("vllm.exceptions", "VLLMValidationError"),
    Callee("vllm.distributed.parallel_state", "get_tensor_model_parallel_rank"),
    Callee("vllm.distributed.parallel_state", "get_pp_group"),
    Callee("vllm.config.model", "ModelConfig.try_get_generation_config"),
    Callee("vllm.platforms", "current_platform"),
    Callee("vllm.entrypoints.openai.api_server", ""),
    Callee("vllm.entrypoints.llm", "LLM", ("model",)),
    Callee("vllm.sampling_params", "SamplingParams"),
    # Implemented, by `processor`; the second runner calls `apply` with its context.
    *(Callee(FIRST_PROCESSORS, f"LogitsProcessor.{name}", taken) for name, taken in _PROCESSOR_METHODS),
    Callee(FIRST_PROCESSORS, "LogitsProcessor.is_argmax_invariant"),
    Callee(FIRST_PROCESSORS, "LogitsProcessor.update_state", ("batch_update",)),
    *(Callee(SECOND_PROCESSORS, f"LogitsProcessor.{name}", taken) for name, taken in _PROCESSOR_METHODS),
    Callee(SECOND_PROCESSORS, "LogitsProcessor.add_request", ("req_idx", "sampling_params")),
)

FIELDS = (
    # The first runner.
    Fields(
        _FIRST,
        "GPUModelRunner",
        ("device", "discard_request_mask", "input_batch", "input_ids", "max_model_len", "max_num_reqs",
        "query_start_loc", "requests", "vllm_config"),
    ),
    Fields(
        "vllm.v1.worker.gpu_input_batch",
        "CachedRequestState",
        ("lora_request", "num_prompt_tokens", "output_token_ids"),
    ),
    Fields("vllm.v1.worker.gpu_input_batch", "InputBatch", ("logitsprocs",)),
    Fields("vllm.v1.sample.logits_processor.state", "LogitsProcessors", ("all",)),
    Fields(FIRST_PROCESSORS, "BatchUpdate", ("removed", "added", "moved")),
    Fields(FIRST_PROCESSORS, "MoveDirectionality", ("SWAP",)),
    Fields("vllm.v1.utils", "CpuGpuBuffer", ("gpu", "np")),
    # The second runner.
    Fields(
        _SECOND,
        "GPUModelRunner",
        ("device", "max_model_len", "max_num_reqs", "req_states", "sampler", "vllm_config"),
    ),
    Fields("vllm.v1.worker.gpu.sample.sampler", "Sampler", ("logits_processors",)),
    Fields(
        "vllm.v1.worker.gpu.states",
        "RequestState",
        ("index_to_req_id", "prefill_len", "prompt_len", "req_id_to_index", "total_len"),
    ),
    Fields("vllm.v1.worker.gpu.buffer_utils", "UvaBackedTensor", ("np",)),
    Fields(
        "vllm.v1.worker.gpu.input_batch",
        "InputBatch",
        ("cu_num_logits_np", "idx_mapping_np", "logits_indices"),
    ),
    Fields("vllm.v1.worker.gpu.buffer_utils", "StagedWriteTensor", ("gpu",)),
    Fields(
        SECOND_PROCESSORS,
        "LogitsContext",
        ("idx_mapping_np", "input_ids", "pos", "seq_lens_upper_bound_np"),
    ),
    Fields(
        "vllm.v1.core.sched.output",
        "SchedulerOutput",
        ("finished_req_ids", "preempted_req_ids", "scheduled_new_reqs"),
    ),
    Fields(
        "vllm.v1.core.sched.output",
        "NewRequestData",
        ("lora_request", "prefill_token_ids", "prompt_len", "req_id"),
    ),
    Fields("vllm.distributed.parallel_state", "GroupCoordinator", ("is_last_rank",)),
    # Configuration and requests.
    Fields(
        "vllm.entrypoints.openai.chat_completion.protocol",
        "ChatCompletionRequest",
        ("priority", "return_token_ids", "stream_options", "vllm_xargs"),
    ),
    Fields("vllm.v1.engine.input_processor", "InputProcessor", ("validate_logits_processors_params",)),
    Fields(
        "vllm.config.vllm",
        "VllmConfig",
        ("additional_config", "cache_config", "load_config", "model_config", "parallel_config",
        "scheduler_config", "speculative_config", "use_v2_model_runner"),
    ),
    Fields(
        "vllm.config.model",
        "ModelConfig",
        ("dtype", "hf_overrides", "hf_text_config", "model", "model_arch_config", "quantization", "revision",
        "runner_type", "served_model_name", "skip_tokenizer_init", "tokenizer", "tokenizer_revision"),
    ),
    Fields(
        "vllm.config.parallel",
        "ParallelConfig",
        ("enable_batch_sharded_sampling", "pipeline_parallel_size", "prefill_context_parallel_size",
        "use_ubatching"),
    ),
    Fields(
        "vllm.config.speculative",
        "SpeculativeConfig",
        ("enable_adaptive_verification", "num_speculative_tokens"),
    ),
    Fields("vllm.config.model_arch", "ModelArchitectureConfig", ("quantization_config",)),
    Fields("vllm.config.cache", "CacheConfig", ("cache_dtype",)),
    Fields("vllm.config.load", "LoadConfig", ("download_dir",)),
    Fields("vllm.tokenizers.mistral", "MistralTokenizer", ("IS_MISTRAL_TOKENIZER",)),
    Fields("vllm.config.scheduler", "SchedulerConfig", ("max_num_batched_tokens",)),
    Fields(
        "vllm.sampling_params",
        "SamplingParams",
        ("allowed_token_ids", "bad_words", "eos_token_id", "extra_args", "frequency_penalty", "ignore_eos",
        "logit_bias", "max_tokens", "min_p", "min_tokens", "presence_penalty", "repetition_detection",
        "repetition_penalty", "stop", "stop_token_ids", "structured_outputs", "temperature",
        "thinking_token_budget", "top_k", "top_p", "watermarking"),
    ),
)  # fmt: skip


@functools.cache
def problem() -> str | None:
    """Say why lynxstop cannot work in the installed vLLM; None when it can."""
    import vllm

    version = str(vllm.__version__)
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or not OLDEST <= (int(found[1]), int(found[2])) < BEYOND:
        return f"lynxstop does not know vLLM {version}."
    for callee in CALLEES:
        if trouble := _look_up(callee):
            return f"lynxstop does not fit this vLLM ({version}): {trouble}."
    return None


def check_version() -> None:
    """Refuse a vLLM whose inner workings are not known.

    Raises
    ------
    ConfigError
        Names what to install.
    """
    if trouble := problem():
        raise ConfigError(trouble, hint=f'Install "{REQUIREMENT}", or a newer lynxstop.')


def check_fields(thing: Any) -> None:
    """Refuse an object of vLLM that lacks an attribute that is read from it.

    Raises
    ------
    ConfigError
        Names the attribute and what to install.
    """
    known = {(row.module, row.name): row.attributes for row in FIELDS}
    for kind in type(thing).__mro__:
        missing = [a for a in known.get((kind.__module__, kind.__qualname__), ()) if not hasattr(thing, a)]
        if missing:
            raise ConfigError(
                f"lynxstop does not fit this vLLM: its {kind.__qualname__} has no {', '.join(missing)}.",
                hint=f'Install "{REQUIREMENT}", or a newer lynxstop.',
            )


def _look_up(callee: Callee) -> str | None:
    """Say what is wrong with a name, None if nothing is."""
    full = f"{callee.module}.{callee.name}"
    if callee.module.startswith("vllm.entrypoints."):
        # Nothing of the servers is needed in a worker, and it takes a while to import.
        return None if importlib.util.find_spec(callee.module) else f"there is no {callee.module}"
    try:
        found: Any = importlib.import_module(callee.module)
        for part in callee.name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return f"{full} is missing"
    if not callee.parameters:
        return None
    taken = [name for name in inspect.signature(found).parameters if name not in ("self", "cls")]
    wanted = list(callee.parameters)
    return None if taken[: len(wanted)] == wanted else f"{full} takes {', '.join(taken)}"
