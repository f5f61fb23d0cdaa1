"""Fades the printed verdict out of the shipped model: ``python -m lynxstop_research.reasoner.silent``.

The model starts from the shipped weights, with fresh layers on top that change nothing at
first. Over the run a check prints what it wanted, the difference and its verdict ever more
rarely, and a neutral word instead. What the model does next still depends on the verdict.
"""

import argparse
import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from lynxstop_research.reasoner.documents import Documents, prompt_text
from lynxstop_research.reasoner.traces import Rates
from lynxstop_research.reasoner.train import DATA, descend, optimizers, save

SILENT = Rates(
    slip=(0.0, 0.0, 0.02, 0.03, 0.10, 0.12, 0.18),
    careful=0.3,
    resolve_ok=0.1,
    give_up=0.05,
    printed=(0.0, 0.0, 0.0),
)


def printed(done: float) -> tuple[float, float, float]:
    """Return how often the three words of a check are printed when a share of the run is done."""
    fades = ((0.0, 0.25), (0.08, 0.4), (0.15, 0.55))
    wanted, difference, verdict = (min(1.0, max(0.0, 1 - (done - a) / (b - a))) for a, b in fades)
    return wanted, difference, verdict


def grow(model: Qwen3ForCausalLM, layers: int) -> Qwen3ForCausalLM:
    """Return a copy with more layers on top, whose outputs are zero at first."""
    settings = model.config.to_dict()
    settings |= {"num_hidden_layers": layers, "layer_types": ["full_attention"] * layers}
    settings["max_window_layers"] = layers
    grown = Qwen3ForCausalLM(Qwen3Config(**settings))
    grown.load_state_dict(model.state_dict(), strict=False)
    known = model.state_dict()
    for name, weight in grown.named_parameters():
        if name not in known and name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(weight)
    grown.generation_config = model.generation_config
    return grown


@torch.no_grad()
def probe_on_written(model: Qwen3ForCausalLM, documents: Documents, traces: int = 160) -> list[float]:
    """Return the AUC of each layer's probe at the cues of silent written traces."""
    documents.writer.rates = SILENT
    encode = documents.encode
    states, right, group = [], [], []
    for index in range(traces):
        trace = documents.writer.write(documents.problem())
        head = encode(prompt_text(trace.problem.prompt))
        ids = head + encode(trace.thinking())
        out = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        hidden = torch.stack(out.hidden_states)[:, 0]
        for cue, paragraph in enumerate(trace.paragraphs[:-1]):
            place = len(head) + len(encode(trace.until(cue))) - 1
            states.append(hidden[:, place])
            right.append(paragraph.answer == trace.problem.answer)
            group.append(index % 2)
    x, y, g = torch.stack(states).numpy(), torch.tensor(right).numpy(), torch.tensor(group).numpy()
    aucs = []
    for layer in range(1, x.shape[1]):
        scale = StandardScaler().fit(x[g == 0, layer])
        fit = LogisticRegression(C=0.02, max_iter=300).fit(scale.transform(x[g == 0, layer]), y[g == 0])
        aucs.append(float(roc_auc_score(y[g == 1], fit.decision_function(scale.transform(x[g == 1, layer])))))
    return [round(a, 3) for a in aucs]


def train(start: Path, folder: Path, steps: int, layers: int, peak: float, seed: int = 7) -> None:
    """Run the fade; log every 25 steps, and the probe on written traces every 100."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "lynxstop.json"):
        shutil.copy(start / name, folder / name)
    words = AutoTokenizer.from_pretrained(start)
    model = grow(Qwen3ForCausalLM.from_pretrained(start, dtype=torch.float32), layers)
    rules = optimizers(model, peak)
    documents, held = Documents(words, seed), Documents(words, seed + 1)
    batches = documents.batches("traces", 2560, pool=64)
    begun, tokens, recent = time.monotonic(), 0, []
    with (folder / "log.jsonl").open("w") as log:
        for step in range(steps):
            done = step / steps
            documents.writer.rates = replace(SILENT, printed=printed(done))
            rate = peak * min(1, (step + 1) / 20, 0.03 + 0.97 * math.cos(math.pi * max(0, done - 0.5)))
            batch = next(batches)
            recent.append(descend(model, rules, batch, rate))
            tokens += batch.ids.numel()
            row: dict[str, object] = {"step": step + 1, "rate": round(rate, 6), "tokens": tokens}
            row["seconds"] = round(time.monotonic() - begun)
            if (step + 1) % 100 == 0 or step + 1 == steps:
                row["probe"] = probe_on_written(model, held)
                save(model, folder)
            if (step + 1) % 25 == 0 or step + 1 == steps:
                row["loss"] = round(sum(recent) / len(recent), 4)
                log.write(json.dumps(row) + "\n")
                log.flush()
                recent.clear()


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--peak", type=float, default=2e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train(arguments.start, arguments.out, arguments.steps, arguments.layers, arguments.peak)


if __name__ == "__main__":
    main()
