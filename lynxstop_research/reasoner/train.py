"""Trains the shipped model from scratch: ``python -m lynxstop_research.reasoner.train``."""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from lynxstop_research.reasoner import tokenizer as tokenizers
from lynxstop_research.reasoner.documents import Batch, Documents
from lynxstop_research.reasoner.muon import Muon
from lynxstop_research.reasoner.traces import CLOSE, CUES, EXIT, PARAGRAPH

DATA = Path(__file__).resolve().parents[2] / "data" / "reasoner"
TEMPERATURE = 0.9


@dataclass(frozen=True, slots=True)
class Schedule:
    """The run in steps: bare facts first, then traces; tokens are per batch."""

    facts: int = 600
    traces: int = 3400
    warmup: int = 100
    fact_tokens: int = 1536
    trace_tokens: int = 2560
    peak: float = 4e-3
    floor: float = 0.01
    seed: int = 7

    @property
    def total(self) -> int:
        """Number of steps in all."""
        return self.facts + self.traces

    def rate(self, step: int) -> float:
        """Learning rate at a step: a linear rise, then half a cosine."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / (self.total - self.warmup)
        return self.peak * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done)))


def create(vocabulary: int, pad: int, end: int) -> Qwen3ForCausalLM:
    """Return a fresh model of the shipped shape."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=pad,
        eos_token_id=end,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=1.0,
        top_k=0,
        eos_token_id=[end, pad],
        pad_token_id=pad,
    )
    return model


def loss_of(model: Qwen3ForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the weighted mean of the next-token loss."""
    logits = model(batch.ids[:, :-1], use_cache=False).logits
    losses = functional.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def optimizers(model: nn.Module, peak: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    adam = torch.optim.AdamW(others, peak, betas=(0.9, 0.98), weight_decay=0.0)
    return [Muon(matrices, peak), adam]


def save(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Write the weights in bfloat16 and the configurations, the weights last and at once."""
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / ".staging"
    copy = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = model.generation_config
    copy.save_pretrained(staging)
    for file in sorted(staging.iterdir()):
        file.chmod(0o644)
        os.replace(file, folder / file.name)
    staging.rmdir()


def describe(folder: Path) -> None:
    """Write what a caller has to know of the model's format: delimiters, cues, forced exit."""
    facts = {
        "think_open": tokenizers.THINK,
        "think_close": tokenizers.END_THINK,
        "paragraph": PARAGRAPH,
        "cues": list(CUES),
        "exit_text": EXIT,
        "answer_close": CLOSE,
        "end": tokenizers.END,
        "temperature": TEMPERATURE,
        "most_thinking_tokens": 1500,
    }
    (folder / "lynxstop.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _batches(documents: Documents, schedule: Schedule) -> Iterator[Batch]:
    facts = documents.batches("facts", schedule.fact_tokens)
    for _ in range(schedule.facts):
        yield next(facts)
    traces = documents.batches("traces", schedule.trace_tokens)
    for _ in range(schedule.traces):
        yield next(traces)


def descend(
    model: Qwen3ForCausalLM, rules: Sequence[torch.optim.Optimizer], batch: Batch, rate: float
) -> float:
    """Take one step at a learning rate; return the loss before it."""
    for group in (group for rule in rules for group in rule.param_groups):
        group["lr"] = rate
    loss = loss_of(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for rule in rules:
        rule.step()
        rule.zero_grad()
    return float(loss.item())


def train(schedule: Schedule, folder: Path, every: int = 50, keep: int = 1000) -> None:
    """Run the schedule; log every `every` steps and save every `keep` steps."""
    torch.manual_seed(schedule.seed)
    folder.mkdir(parents=True, exist_ok=True)
    words = tokenizers.save(folder)
    describe(folder)
    ids = words.convert_tokens_to_ids([tokenizers.PAD, tokenizers.END])
    model = create(len(words), *ids)
    rules = optimizers(model, schedule.peak)
    documents = Documents(words, schedule.seed)
    begun, tokens, recent = time.monotonic(), 0, []
    with (folder / "log.jsonl").open("w") as log:
        for step, batch in enumerate(_batches(documents, schedule)):
            recent.append(descend(model, rules, batch, schedule.rate(step)))
            tokens += batch.ids.numel()
            if (step + 1) % every == 0:
                row = {
                    "step": step + 1,
                    "phase": "facts" if step < schedule.facts else "traces",
                    "loss": round(sum(recent) / len(recent), 4),
                    "rate": round(schedule.rate(step), 6),
                    "tokens": tokens,
                    "seconds": round(time.monotonic() - begun),
                }
                log.write(json.dumps(row) + "\n")
                log.flush()
                recent.clear()
            if (step + 1) % keep == 0 or step + 1 == schedule.total:
                save(model, folder)


def main() -> None:
    """Train with the shipped schedule and write the card, or try a shorter one elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--facts", type=int, default=Schedule().facts)
    parser.add_argument("--traces", type=int, default=Schedule().traces)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(Schedule(facts=arguments.facts, traces=arguments.traces), arguments.out)
    if arguments.out == DATA:
        # Measuring needs scikit-learn; training does not.
        from lynxstop_research.reasoner.card import write_card
        from lynxstop_research.reasoner.measure import measure_all

        measure_all(DATA, TEMPERATURE)
        write_card()


if __name__ == "__main__":
    main()
