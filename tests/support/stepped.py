"""vLLM in this process, step by step, with its metrics and what a test compares of its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lynxstop.artifacts.bundle import Bundle

Served = tuple[Any, Path, Bundle]
"""An engine, the folder of its model, and its bundle."""
END = 2
EXIT = (20, 1, 21, 19)
SHORT_OF_MEMORY: dict[str, Any] = {
    "max_num_batched_tokens": 12,
    "max_num_seqs": 8,
    "block_size": 32,
    "num_gpu_blocks_override": 12,
}
"""Prompts of 2..30 tokens are read in chunks; 11 blocks of 32 tokens: requests are preempted."""


def strip(ids: list[int]) -> list[int]:
    """Tokens without the one that ends the text."""
    return ids[:-1] if ids and ids[-1] == END else ids


def metric(llm: Any, name: str) -> float:
    """A counter of vLLM, summed over its labels."""
    return sum(m.value for m in llm.get_metrics() if m.name == name)


def steps(
    llm: Any, prompts: list[list[int]], tokens: int = 48, **options: Any
) -> Iterator[dict[str, list[int]]]:
    """Run requests step by step; yield the tokens so far by request, after every step."""
    from vllm import SamplingParams

    engine = llm.llm_engine
    for number, prompt in enumerate(prompts):
        params = SamplingParams(temperature=0.0, max_tokens=tokens, **options)
        engine.add_request(f"r{number}", {"prompt_token_ids": prompt}, params)
    so_far: dict[str, list[int]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            so_far[output.request_id] = list(output.outputs[0].token_ids)
        yield so_far


def preempt_all(llm: Any) -> None:
    """Take every running request off; it is computed again later."""
    assert llm.llm_engine.reset_prefix_cache(reset_running_requests=True)
