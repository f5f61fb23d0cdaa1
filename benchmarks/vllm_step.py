"""Decode step time of vLLM with lynxstop absent, idle, served (scoring, never stopping) and in shadow.

    python benchmarks/vllm_step.py [--model data/reasoner] [--batch 1 16 64] [--layers 4] [--compiled]
                                    [--rule combined] [--model random --vocabulary 151936]

One engine takes all steps. Before each step a variant is chosen, in shuffled rounds of four, so that the
variants
meet the same lengths, the same neighbours on the machine and the same drift. The ratio is that of the mean of
log step times over rounds, with a bootstrap confidence interval of 95 %. "absent" takes the processor out
of the
engine's list and the wrappers off the model, which is what an engine without the package runs; compiled
taps are part of the graph and stay in it.
With a rule, its sessions run on the host and read statistics of every thinking token.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lynxstop.core.exits import Mode

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")

VARIANTS = ("absent", "idle", "served", "shadow")
TOKENS, WARM = 160, 4


def make_bundle(
    folder: Path, model: Path, layers: tuple[int, ...], width: int, rule: str | None = None
) -> Path:
    """Write a bundle that scores every cue, by a rule or the probe, and never exits."""
    from transformers import AutoTokenizer

    from lynxstop.artifacts import atomic
    from lynxstop.artifacts.bundle import CertifiedLevel, Policy, ServedSampling, TrainingScores, write_bundle
    from lynxstop.artifacts.fingerprint import fingerprint
    from lynxstop.artifacts.probe import Probe
    from lynxstop.artifacts.provenance import provenance

    exit_text = "\n</think>\n\nThe answer is \\boxed{"
    content: dict[str, Any] = {
        "risk": 0.05, "confidence": 0.9, "loss": "disagree", "method": "none", "threshold": 1e9,
    }  # fmt: skip
    atomic.write_text(folder / "certificates" / "0.05.json", json.dumps({"schema_version": 2} | content))
    digest = atomic.sha256(folder / "certificates" / "0.05.json")
    level = CertifiedLevel(**content, certificate="certificates/0.05.json", sha256=digest)
    draw = np.random.default_rng(0).normal(size=(1, width * len(layers))).astype(np.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = Policy(
        name="benchmark", fingerprint=fingerprint(model), engine="vllm", dtype="float32", cue_paragraph=False,
        sampling=ServedSampling(temperature=0.8, top_p=1.0, top_k=0, max_tokens=TOKENS, answer_tokens=16),
        cue_words=("wait", "hmm", "alternatively"), think_open=("<think>",), think_close=("</think>",),
        exit_text=exit_text, exit_ids=tuple(tokenizer.encode(exit_text, add_special_tokens=False)),
        target="agrees", probe_sha256="", training_problems_sha256="", training_data_sha256="",
        provenance=provenance(), default_risk=0.05, levels=(level,),
        rule=None if rule is None else served_rule(rule),
    )  # fmt: skip
    scores = TrainingScores(scores=np.zeros(2, np.float32), problems=("a", "b"))
    write_bundle(folder, policy, Probe(layers, ((draw, np.zeros(1, np.float32)),)), scores, {})
    return folder


def served_rule(name: str) -> Any:
    """Return a rule fitted on made-up points: what it says means nothing, what it costs does."""
    from lynxstop.artifacts.bundle import ServedRule
    from lynxstop.rules import Point, Training
    from lynxstop.rules.table import rule_named

    rule, draw = rule_named(name), np.random.default_rng(0)
    points = [
        [Point({key: draw.normal() for key in rule.signals}, draw.normal(), 10 * i) for i in range(1, 9)]
        for _ in range(40)
    ]
    losses = [draw.integers(0, 2, size=8).astype(float) for _ in points]
    names = [str(number) for number in range(40)]
    fitted = rule.fit(Training(points, losses, names, [100] * 40, 512))
    return ServedRule(name=name, constants=json.loads(json.dumps(fitted.constants())))


class Switch:
    """Puts a running engine into a variant, between two steps."""

    def __init__(self, llm: Any) -> None:
        from lynxstop.engines.vllm.processor import LynxstopProcessor

        runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
        self.lists = runner.input_batch.logitsprocs
        self.others = [p for p in self.lists.non_argmax_invariant if not isinstance(p, LynxstopProcessor)]
        self.ours = next(p for p in self.lists.non_argmax_invariant if isinstance(p, LynxstopProcessor))
        self.adapter = self.ours.adapter
        self.model = runner.get_model()
        self.wrapped = self.model.compute_logits

    def to(self, variant: str) -> None:
        """Choose a variant; served and shadow differ in the terms of the requests."""
        works = variant in ("served", "shadow")
        self.lists.non_argmax_invariant[:] = self.others if variant == "absent" else [*self.others, self.ours]
        self.ours.adapter = self.adapter if works else None
        if works:
            self.model.compute_logits = self.wrapped
            if (stops := getattr(self.adapter.sessions, "_stops", None)) is not None:
                with torch.inference_mode():
                    stops[:] = variant == "served"
            for seat in getattr(self.adapter.sessions, "_by_slot", ()):
                if seat is not None:
                    seat.session.mode = Mode.STOP if variant == "served" else Mode.SHADOW
        elif "compute_logits" in self.model.__dict__:
            del self.model.compute_logits


def measure(llm: Any, prompts: list[str], batch: int, rounds: int, clock: Callable[[], float]) -> np.ndarray:
    """Time steps; seconds, shape (rounds, variants)."""
    from vllm import SamplingParams

    switch, draw = Switch(llm), np.random.default_rng(batch)
    times: list[list[float]] = []
    number = 0
    while len(times) < rounds:
        params = SamplingParams(temperature=0.8, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
        switch.to("served")
        for _ in range(batch):
            number += 1
            llm.llm_engine.add_request(f"{batch}-{number}", prompts[number % len(prompts)], params)
        for _ in range(WARM):
            llm.llm_engine.step()
        options = [one for one in switch.adapter.slots.options if one.watched]
        armed = [one for one in options if set(one.departures) <= {"ignore_eos"}]
        if len(armed) < batch:
            raise SystemExit("The requests lie outside the certified conditions: nothing would be measured.")
        left = TOKENS - WARM - 2
        while left >= len(VARIANTS):
            order = draw.permutation(len(VARIANTS))
            row = [0.0] * len(VARIANTS)
            for variant in order.tolist():
                switch.to(VARIANTS[variant])
                start = clock()
                llm.llm_engine.step()
                row[variant] = clock() - start
            times.append(row)
            left -= len(VARIANTS)
        switch.to("served")
        while llm.llm_engine.has_unfinished_requests():
            llm.llm_engine.step()
    return np.array(times[:rounds])


def report(name: str, times: np.ndarray) -> None:
    """Print a row: step time without lynxstop, and the ratio of each variant with its interval."""
    logs = np.log(times) - np.log(times[:, :1])
    draw = np.random.default_rng(0)
    cells = [name, f"{np.median(times[:, 0]) * 1e3:.2f} ms"]
    for place in range(1, len(VARIANTS)):
        # A trimmed mean: a step in which the machine did something else says nothing about the variant.
        values = np.sort(logs[:, place])
        trim = len(values) // 10
        picks = np.sort(draw.choice(values, size=(2000, len(values))), axis=1)[:, trim:-trim].mean(axis=1)
        low, high = np.exp(np.quantile(picks, [0.025, 0.975]))
        cells.append(f"{np.exp(values[trim:-trim].mean()):.4f} [{low:.4f}, {high:.4f}]")
    print("| " + " | ".join(cells) + " |", flush=True)


def random_model(folder: Path, like: Path, vocabulary: int | None = None) -> Path:
    """Write a model of 113 million random parameters, embeddings aside, with another model's tokenizer."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(like)
    config.update(
        {
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "num_key_value_heads": 12, "head_dim": 64, "layer_types": ["full_attention"] * 12,
            "dtype": "float32", "vocab_size": vocabulary or config.vocab_size, "tie_word_embeddings": True,
        }
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    for path in like.iterdir():
        if path.suffix != ".safetensors" and path.name != "config.json":
            shutil.copy(path, folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default="data/reasoner", help="a folder, or `random` for 113M random parameters"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument(
        "--layers", type=int, nargs="+", default=None, help="states of the probe; the last when missing"
    )
    parser.add_argument("--rule", default=None, help="serve a rule instead of the probe alone")
    parser.add_argument("--vocabulary", type=int, default=None, help="of the random model")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: of a machine that others use"
    )
    parser.add_argument("--compiled", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = Path(given.model)
        if given.model == "random":
            model = random_model(folder / "model", Path("data/reasoner"), given.vocabulary)
        config = json.loads((model / "config.json").read_text())
        layers = tuple(given.layers or [config["num_hidden_layers"]])
        bundle = make_bundle(folder / "bundle", model, layers, config["hidden_size"], given.rule)
        from vllm import LLM

        llm = LLM(
            str(model), dtype="float32", enforce_eager=not given.compiled, max_model_len=512,
            max_num_seqs=max(given.batch), enable_prefix_caching=False,
            # the requests ignore the end of their texts, which no certificate covers
            additional_config={"lynxstop": {"bundle": str(bundle), "uncertified": "stop"}},
        )  # fmt: skip
        problems = [
            json.loads(line)["prompt"] for line in Path("data/problems/test.jsonl").read_text().splitlines()
        ]
        head, tail = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n"
        prompts = [head + problem + tail for problem in problems]
        rule = "" if given.rule is None else f", {given.rule}"
        rule += "" if given.vocabulary is None else f", {given.vocabulary} tokens"
        how = "compiled" if given.compiled else "eager"
        kind = f"{Path(given.model).name}{rule}, layers {list(layers)}, {how}"
        print("| model, batch | absent | idle | served | shadow |\n|---|---|---|---|---|", flush=True)
        clock = time.perf_counter if given.clock == "wall" else time.process_time
        for batch in given.batch:
            report(f"{kind}, {batch}", measure(llm, prompts, batch, given.rounds, clock))


if __name__ == "__main__":
    main()
