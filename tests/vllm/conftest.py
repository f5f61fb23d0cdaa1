"""Tiny random models in which cues are frequent, bundles for them, and engines in this process."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


from lynxstop.artifacts import atomic  # noqa: E402
from lynxstop.artifacts.bundle import (  # noqa: E402
    Bundle,
    CertifiedLevel,
    Policy,
    ServedSampling,
    TrainingScores,
    write_bundle,
)
from lynxstop.artifacts.fingerprint import fingerprint  # noqa: E402
from lynxstop.artifacts.probe import Probe  # noqa: E402
from lynxstop.artifacts.provenance import provenance  # noqa: E402
from lynxstop.artifacts.setup import setup_from_bundle  # noqa: E402
from lynxstop.core.types import Request, Sampling  # noqa: E402
from lynxstop.engines.transformers import TransformersEngine  # noqa: E402
from lynxstop.engines.vllm.tool_calls import guard_tool_calls  # noqa: E402
from tests.support.tiny_vocabulary import PLAIN, make_tokenizer  # noqa: E402

SPECIAL = ("<think>", "</think>", "<|end|>", "<tool_call>", "</tool_call>")
HIDDEN, DEPTH = 64, 3
EXIT_TEXT = "\n</think>=3"
INSTALLED = importlib.util.find_spec("vllm") is not None

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and "make_llm" in getattr(item, "fixturenames", ()):
            item.add_marker(
                pytest.mark.skipif(not INSTALLED, reason="vLLM is not installed (extra vllm or vllm-cpu)")
            )
            # vLLM and what it imports warn a lot; ours are errors in the other tests.
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def _heard() -> None:
    """Let pytest hear what is logged: once an engine was made, vLLM keeps it to its own handlers."""
    logging.getLogger("vllm").propagate = True


COMMON = {
    "vocab_size": len(SPECIAL) + len(PLAIN), "hidden_size": HIDDEN, "num_hidden_layers": DEPTH,
    "intermediate_size": 64,
    "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.3,
    "max_position_embeddings": 512,
    "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
# Sizes that vLLM's attention kernel for the CPU is made for, and the scaled positions of the real models: the
# plain ones go through a kernel for the CPU that rotates other numbers than it is given.
LATENT = {
    "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 32, "v_head_dim": 32,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 128, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.707,
    "mscale_all_dim": 0.707},
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {"head_dim": 32},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32},
    "Qwen3Moe": {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "norm_topk_prob": True},
    "Gemma": {"head_dim": 32, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"},
    "Gemma2": {"head_dim": 32, "tie_word_embeddings": True},
    "DeepseekV2": LATENT | {"q_lora_rank": None, "n_group": 1, "topk_group": 1},
    "DeepseekV3": LATENT | {"q_lora_rank": 32, "n_group": 2, "topk_group": 1, "topk_method": "noaux_tc",
    "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5},
}  # fmt: skip


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a random model folder: `make_model(kind, ending=..., **config)`; unlikely to end by itself."""
    made: dict[str, Path] = {}

    def make(kind: str = "Qwen3", **config: Any) -> Path:
        name = f"{kind}-{hashlib.sha256(repr(sorted(config.items())).encode()).hexdigest()[:8]}"
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            torch.manual_seed(2)
            options = COMMON | KINDS[kind] | config
            network = getattr(transformers, f"{kind}ForCausalLM")(
                getattr(transformers, f"{kind}Config")(**options)
            )
            with torch.no_grad():
                # Special tokens come seldom by themselves, cues often.
                network.lm_head.weight[: len(SPECIAL)] *= 0.1
                network.lm_head.weight[len(SPECIAL) : len(SPECIAL) + 4] *= 1.3
            network.eval().save_pretrained(folder)
            make_tokenizer(SPECIAL).save_pretrained(folder)
            made[name] = folder
        return made[name]

    return make


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """Write a bundle with a random probe: two certified levels, 0.05 and 0.2."""

    def make(
        model: Path, layers: tuple[int, ...] = (DEPTH,), *, width: int = HIDDEN, thresholds: tuple[float,
        float] = (2.0, -8.0),
        seed: int = 0, exit_text: str = EXIT_TEXT, scale: float = 1.0, **policy: Any
    ) -> Bundle:  # fmt: skip
        folder = tmp_path_factory.mktemp("bundle")
        weight = np.random.default_rng(seed).normal(size=(1, width * len(layers))).astype(np.float32) * scale
        levels = []
        for risk, threshold in zip((0.05, 0.2), thresholds, strict=True):
            content: dict[str, Any] = {
                "risk": risk,
                "confidence": 0.9,
                "loss": "disagree",
                "method": "test",
                "threshold": threshold,
            }
            name, text = f"certificates/{risk}.json", json.dumps({"schema_version": 2} | content)
            atomic.write_text(folder / name, text)
            digest = hashlib.sha256(text.encode()).hexdigest()
            levels.append(CertifiedLevel(**content, certificate=name, sha256=digest))
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        settings: dict[str, Any] = {
            "name": "tiny", "fingerprint": fingerprint(model), "engine": "transformers", "dtype": "float32",
            "sampling": ServedSampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=8, answer_tokens=64),
            "cue_words": ("wait", "hmm"), "cue_paragraph": False, "think_open": ("<think>",),
            "think_close": ("</think>",),
            "exit_text": exit_text, "exit_ids": tuple(tokenizer.encode(exit_text, add_special_tokens=False)),
            "target": "agrees", "probe_sha256": "", "training_problems_sha256": "0",
            "training_data_sha256": "0",
            "provenance": provenance(), "default_risk": 0.05, "levels": tuple(levels),
        }  # fmt: skip
        scores = TrainingScores(scores=np.zeros(2, np.float32), problems=("a", "b"))
        probe = Probe(layers, ((weight, np.zeros(1, np.float32)),))
        return write_bundle(folder, Policy(**(settings | policy)), probe, scores, {})

    return make


@pytest.fixture(scope="module")
def make_llm() -> Iterator[Callable[..., Any]]:
    """Start vLLM in this process: `make_llm(model, bundle, **options)`; only one lives at a time."""
    alive: list[Any] = []

    def stop() -> None:
        while alive:
            alive.pop().llm_engine.engine_core.shutdown()
        gc.collect()

    def make(
        model: Path, bundle: Bundle | None = None, *, settings: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        from vllm import LLM

        stop()
        given = {"bundle": str(bundle.path)} if bundle is not None else {}
        config = given | (settings or {})
        defaults = {
            "dtype": "float32", "enforce_eager": True, "max_model_len": 256, "max_num_seqs": 8,
            "enable_prefix_caching": False,
            "disable_log_stats": False, "seed": 0,
        }  # fmt: skip
        if config:
            defaults["additional_config"] = {"lynxstop": config}
        alive.append(LLM(str(model), **(defaults | options)))
        return alive[-1]

    yield make
    stop()


@pytest.fixture(scope="session")
def runner_of() -> Callable[[Any], Any]:
    return lambda llm: llm.llm_engine.model_executor.driver_worker.worker.model_runner


@pytest.fixture(scope="session")
def adapter_of(runner_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Reach the plugin in an engine of this process."""

    def find(llm: Any) -> Any:
        from lynxstop.engines.vllm.processor import LynxstopProcessor

        runner = runner_of(llm)
        first = hasattr(runner, "input_batch")
        everyone = runner.input_batch.logitsprocs.all if first else runner.sampler.logits_processors
        return next(p.adapter for p in everyone if isinstance(p, LynxstopProcessor) and p.adapter is not None)

    return find


@pytest.fixture(scope="session")
def counts_of(adapter_of: Callable[[Any], Any]) -> Callable[[Any], dict[str, int]]:
    def count(llm: Any) -> dict[str, int]:
        adapter = adapter_of(llm)
        adapter.metrics.fetch()
        return dict(adapter.metrics.totals)

    return count


@pytest.fixture(scope="session")
def generate() -> Callable[..., list[list[int]]]:
    """Generate greedily from token ids; `params` may be given per prompt."""

    def run(
        llm: Any, prompts: list[list[int]], *, tokens: int = 48, xargs: Any = None, **options: Any
    ) -> list[list[int]]:
        from vllm import SamplingParams

        options = {"temperature": 0.0, "max_tokens": tokens, "detokenize": True} | options
        given = xargs if isinstance(xargs, list) else [xargs] * len(prompts)
        params = [SamplingParams(extra_args=args, **options) for args in given]
        results = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        return [list(result.outputs[0].token_ids) for result in results]

    return run


@pytest.fixture(scope="session")
def reference() -> Callable[..., list[Any]]:
    """Generate the same requests with the transformers engine."""

    def run(
        model: Path, bundle: Bundle, prompts: list[list[int]], *, risk: float | None = 0.05, tokens: int = 48,
        sampling: Sampling | None = None, forced: bool = False, **options: Any,
    ) -> Any:  # fmt: skip
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        setup = setup_from_bundle(bundle, tokenizer)
        watch = guard_tool_calls(setup.watch, tokenizer)
        engine = TransformersEngine(network, tokenizer, watch, setup.policy, probe=bundle.probe)
        requests = [Request(str(i), tuple(prompt), risk) for i, prompt in enumerate(prompts)]
        sampling = sampling or Sampling(max_tokens=tokens, answer_tokens=tokens)
        done = sorted(engine.generate(requests, sampling, **options), key=lambda made: int(made.request.id))
        return (done, engine.force_exits(done, sampling)) if forced else done

    return run


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Prompts that open a thinking block."""
    draw = np.random.default_rng(1)
    return [[*draw.integers(5, 22, size=int(size)).tolist(), 0] for size in draw.integers(2, 30, size=16)]
