"""A tiny vocabulary in which cues are frequent, and tiny random models that speak it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


from lynxstop.artifacts.probe import Probe  # noqa: E402
from lynxstop.core.cues import CueSet  # noqa: E402
from lynxstop.core.policy import Level, StopPolicy  # noqa: E402
from lynxstop.core.thinking import Delimiters  # noqa: E402
from lynxstop.core.types import Request  # noqa: E402
from lynxstop.core.watch import Watch, compile_watch  # noqa: E402
from lynxstop.engines.transformers import TransformersEngine  # noqa: E402
from tests.support.tiny_vocabulary import PLAIN, make_tokenizer  # noqa: E402

SPECIAL = ("<think>", "</think>", "<|end|>")
HIDDEN, DEPTH = 16, 3

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer(SPECIAL)


@pytest.fixture(scope="session")
def watch(tokenizer: Any) -> Watch:
    return compile_watch(tokenizer, CueSet(("wait", "hmm")), Delimiters(("<think>",), ("</think>",)))


def _tiny(kind: str = "Qwen3", seed: int = 0, bias: Mapping[int, float] | None = None) -> Any:
    """A random model with lively outputs; `bias` is added to the logits of some tokens."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(SPECIAL) + len(PLAIN), hidden_size=HIDDEN, num_hidden_layers=DEPTH,
        intermediate_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        initializer_range=0.6, max_position_embeddings=512, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=2, pad_token_id=2,
        **({"sliding_window": 8} if kind in ("Gemma2", "Gemma3Text") else {}),
    )  # fmt: skip
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config).eval()
    shift = torch.zeros(config.vocab_size)
    for token, value in ({0: -50.0, 1: -1.5, 2: -3.0, 6: -2.0} | dict(bias or {})).items():
        shift[token] = value
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + shift.to(output.device))
    return model


def _linear_probe(seed: int = 0, bias: float = 0.0, layers: tuple[int, ...] = (1, DEPTH)) -> Probe:
    weight = np.random.default_rng(seed).normal(size=(1, HIDDEN * len(layers))).astype(np.float32)
    return Probe(layers, ((weight, np.full(1, bias, np.float32)),))


@pytest.fixture
def tiny() -> Callable[..., Any]:
    return _tiny


@pytest.fixture
def linear_probe() -> Callable[..., Probe]:
    return _linear_probe


@pytest.fixture
def policy() -> StopPolicy:
    return POLICY


POLICY = StopPolicy(exit_ids=(1, 16), levels=(Level(0.05, 0.0), Level(0.2, -20.0)))


@pytest.fixture
def requests() -> list[Request]:
    prompts = [(8, 9, 0), (10, 0), (9, 9, 9, 8, 12, 0), (0, 10), (13, 8, 0), (0,), (9, 10, 11, 12, 0), (3, 0)]
    return [Request(id=f"r{number}", prompt_ids=prompt) for number, prompt in enumerate(prompts)]


@pytest.fixture
def engine(tokenizer: Any, watch: Watch) -> Callable[..., TransformersEngine]:
    def make(model: Any = None, policy: StopPolicy = POLICY, **options: Any) -> TransformersEngine:
        options.setdefault("probe", _linear_probe())
        return TransformersEngine(model or _tiny(), tokenizer, watch, policy, **options)

    return make
