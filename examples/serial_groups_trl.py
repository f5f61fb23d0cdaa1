"""Train a model to stop by itself: recorded exits as GRPO groups in TRL (S-GRPO, arXiv 2505.07686).

`lynxstop export MODEL DATA PROBLEMS groups.jsonl` writes the rows. Every group of TRL is one recorded trace,
cut at several cues: the completions are its exits, the rewards are those of the export. Nothing is generated
here, so the groups belong to the model that was recorded; collect anew when it has moved far from it.

    python examples/serial_groups_trl.py MODEL groups.jsonl out --steps 20
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer


def read_groups(path: str, size: int) -> dict[str, list[dict[str, Any]]]:
    """Read one group of `size` exits per prompt, spread evenly, the last included."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            groups[row["group"]].append(row)
    chosen: dict[str, list[dict[str, Any]]] = {}
    for rows in groups.values():
        if len(rows) < size:
            continue
        taken = [rows[round(i * (len(rows) - 1) / (size - 1))] for i in range(size)]
        if len({row["reward"] for row in taken}) > 1:
            chosen.setdefault(taken[0]["prompt"][0]["content"], taken)
    return chosen


def main() -> None:
    """Run GRPO on recorded exits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("groups", help="what `lynxstop export` wrote")
    parser.add_argument("out")
    parser.add_argument("--size", type=int, default=4, help="exits per group")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    arguments = parser.parse_args()

    groups = read_groups(arguments.groups, arguments.size)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)

    def replayed(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        """Give each repetition of a prompt the next exit of its group."""
        given: dict[str, int] = defaultdict(int)
        found: dict[str, list[Any]] = {"prompt_ids": [], "completion_ids": [], "exit_reward": []}
        for prompt in prompts:
            text = prompt[0]["content"]
            row = groups[text][given[text] % arguments.size]
            given[text] += 1
            turn = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
            found["prompt_ids"].append(tokenizer.encode(turn, add_special_tokens=False))
            completion = tokenizer.encode(row["completion"][0]["content"], add_special_tokens=False)
            found["completion_ids"].append([*completion, tokenizer.eos_token_id])
            found["exit_reward"].append(row["reward"])
        return found | {"logprobs": None}

    def recorded_reward(completions: list[Any], exit_reward: list[float], **_: Any) -> list[float]:
        return exit_reward

    trainer = GRPOTrainer(
        model=arguments.model,
        reward_funcs=recorded_reward,
        rollout_func=replayed,
        train_dataset=Dataset.from_list([{"prompt": rows[0]["prompt"]} for rows in groups.values()]),
        processing_class=tokenizer,
        args=GRPOConfig(
            output_dir=arguments.out,
            per_device_train_batch_size=arguments.size,
            num_generations=arguments.size,
            max_steps=arguments.steps,
            learning_rate=arguments.learning_rate,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            bf16=torch.cuda.is_available(),
        ),
    )
    trainer.train()
    trainer.save_model(arguments.out)
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({"groups": len(groups), "steps": steps}, indent=1))


if __name__ == "__main__":
    main()
