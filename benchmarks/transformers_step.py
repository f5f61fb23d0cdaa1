"""What watching costs a decoding step of transformers: armed and never stopping, against not watching at all.

python benchmarks/transformers_step.py [--model data/reasoner | --shape 1024x8] [--batch 32] [--pairs 30]

Both arms run in one process on the same requests and draw the same tokens; their order alternates. The armed
arm reads every token, scores every cue with an MLP and compares it with a threshold that nothing passes.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console

from lynxstop.artifacts.probe import Probe
from lynxstop.core.cues import cue_set
from lynxstop.core.policy import StopPolicy
from lynxstop.core.session import Phase
from lynxstop.core.thinking import detect_delimiters
from lynxstop.core.types import Request, Sampling
from lynxstop.core.watch import compile_watch
from lynxstop.engines.transformers import TransformersEngine


class NoSession:
    """A session that sees nothing."""

    phase = Phase.WAITING
    thinking_tokens = 0
    exit = None
    was_thinking = False

    def __init__(self) -> None:
        self.events: list[Any] = []

    def read(self, token: int) -> bool:
        return False

    def decide(self, score: float | None = None, statistics: Any = None) -> None:
        return None

    def finish(self) -> None:
        pass


class Unwatched(TransformersEngine):
    """The same engine without sessions."""

    def _session(self, request: Request, sampling: Sampling) -> Any:
        return NoSession()


def mlp(width: int, layers: tuple[int, ...]) -> Probe:
    rng = np.random.default_rng(0)
    sizes = (width, 256, 64, 1)
    maps = [
        (rng.normal(scale=into**-0.5, size=(out, into)).astype(np.float32), np.zeros(out, np.float32))
        for into, out in pairwise(sizes)
    ]
    return Probe(layers, tuple(maps))


def load(options: argparse.Namespace) -> tuple[Any, Any]:
    """The model, or one of random weights with its vocabulary in the given shape."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    if options.shape is None:
        model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    else:
        hidden, depth = map(int, options.shape.split("x"))
        torch.manual_seed(0)
        config = transformers.AutoConfig.from_pretrained(options.model)
        shape = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": depth}
        heads = {"num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 128, "head_dim": 64}
        config = type(config)(**{**config.to_dict(), **shape, **heads, "layer_types": None})
        model = transformers.AutoModelForCausalLM.from_config(config)
    return model.to(options.device), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("data/reasoner"))
    parser.add_argument("--shape", help="hidden size x layers of a random model instead")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load(options)
    watch = compile_watch(tokenizer, cue_set("lynx"), detect_delimiters(tokenizer))
    policy = StopPolicy(exit_ids=tuple(tokenizer.encode("</think>", add_special_tokens=False)))
    depth, hidden = model.config.num_hidden_layers, model.config.hidden_size
    probe = mlp(2 * hidden, (depth // 2, depth))
    armed = TransformersEngine(model, tokenizer, watch, policy, probe=probe, batch_size=options.batch)
    off = Unwatched(model, tokenizer, watch, policy, batch_size=options.batch)
    off.eos_ids = armed.eos_ids = frozenset()
    ask = [{"role": "user", "content": "Compute mod 11: 3 a. * 9 b. + 7 c. - 5 d. * 2"}]
    prompt = tokenizer.apply_chat_template(ask, add_generation_prompt=True, tokenize=True, return_dict=True)
    requests = [Request(str(number), tuple(prompt["input_ids"])) for number in range(options.batch)]
    sampling = Sampling(temperature=0.9, max_tokens=options.tokens, answer_tokens=options.tokens)
    clock = time.process_time if options.device == "cpu" else time.perf_counter

    def seconds(engine: TransformersEngine) -> tuple[float, int, list[list[int]]]:
        begin = clock()
        made = sorted(engine.generate(requests, sampling), key=lambda generation: generation.request.id)
        return clock() - begin, sum(len(g.events) for g in made), [g.output_ids for g in made]

    (_, cues, watched), (_, _, plain) = seconds(armed), seconds(off)
    assert watched == plain
    assert cues > 0 or options.shape
    times = np.empty((options.pairs, 2))
    for pair in range(options.pairs):
        for arm in (0, 1) if pair % 2 else (1, 0):
            times[pair, arm] = seconds((armed, off)[arm])[0]
    logs = np.log(times[:, 0] / times[:, 1])
    rng = np.random.default_rng(0)
    resampled = np.median(rng.choice(logs, size=(4000, len(logs))), axis=1)
    ratio, low, high = np.exp([np.median(logs), *np.quantile(resampled, [0.025, 0.975])])
    step = 1000 * np.median(times, axis=0) / options.tokens
    Console().print(
        f"batch {options.batch}, {cues} cues in {options.tokens} steps, {options.pairs} pairs\n"
        f"step: {step[0]:.2f} ms armed, {step[1]:.2f} ms off\n"
        f"ratio: {ratio:.4f} (95% bootstrap interval {low:.4f} to {high:.4f})"
    )


if __name__ == "__main__":
    main()
