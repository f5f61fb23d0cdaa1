"""Collection: traces and labels per second of vLLM, of our transformers engine, and of a naive loop.

    OMP_NUM_THREADS=1 python benchmarks/collect_speed.py [--traces 64] [--rounds 3] [--naive 60] [--eager]

A label is the answer forced at a cue. The naive loop is what a research script does: for each cue one
`model.generate` of transformers, from the prompt, the trace up to the cue and the exit text. Every engine
records the same traces of the shipped model by the shipped recipe, each round with other problems, and all
take turns within a round. Times are CPU time of the process with one thread, so that other work on the
machine counts little; rates are medians over the rounds, with their range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch

from lynxstop import shipped
from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.sources import SourceOptions, load_source
from lynxstop.collect.texts import Texts
from lynxstop.core.types import Generation, Request, Sampling
from lynxstop.demo import held_out

NAMES = ("vLLM", "vLLM, no prefix cache", "transformers engine", "naive loop")


class Timed(NamedTuple):
    """What one engine did in one round."""

    traces: int
    labels: int
    generating: float
    labelling: float


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Run `work`; return its result and its CPU time."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def whole(source: Any, requests: Sequence[Request], sampling: Sampling) -> tuple[Timed, list[Generation]]:
    """Record traces and force all exits."""
    found, generating = timed(lambda: list(source.engine.generate(requests, sampling, record=True)))
    answers, labelling = timed(lambda: source.engine.force_exits(found, sampling))
    return Timed(len(found), sum(map(len, answers)), generating, labelling), found


@torch.inference_mode()
def naive(source: Any, traces: Sequence[Generation], sampling: Sampling, most: int) -> Timed:
    """Force exits one by one, each from its own prefill."""
    model, exit_ids = source.engine.model, list(source.engine.policy.exit_ids)
    cues = [(trace, event.seen_at) for trace in traces for event in trace.events]
    chosen = cues[:: max(1, len(cues) // most)][:most]

    def run() -> None:
        for trace, cut in chosen:
            ids = [*trace.request.prompt_ids, *trace.output_ids[: cut + 1], *exit_ids]
            given = torch.tensor([ids])
            model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=sampling.answer_tokens,
                do_sample=True, temperature=sampling.temperature, top_k=0, top_p=1.0,
                pad_token_id=source.tokenizer.eos_token_id,
            )  # fmt: skip

    return Timed(0, len(chosen), 0.0, timed(run)[1])


def rate(counts: Sequence[float], seconds: Sequence[float]) -> str:
    """Median and range of counts per second."""
    rates = [count / second for count, second in zip(counts, seconds, strict=True)]
    return f"{statistics.median(rates):,.1f} [{min(rates):,.1f}, {max(rates):,.1f}]"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--traces", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--naive", type=int, default=60, help="labels of the naive loop per round")
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--eager", action="store_true", help="vLLM without torch.compile")
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe.load(shipped.BUNDLE / "recipe.toml")
    sampling = Sampling(**recipe.sampling.model_dump(), seed=0)
    common = {"enforce_eager": given.eager, "max_model_len": 1280, "block_size": given.block_size}

    def vllm(cached: bool) -> Any:
        options = SourceOptions(
            batch_size=given.batch_size, arguments=common | {"enable_prefix_caching": cached}
        )
        return load_source("vllm", str(shipped.MODEL), recipe, options)

    sources = {
        NAMES[0]: vllm(True),
        NAMES[1]: vllm(False),
        NAMES[2]: load_source(
            "transformers", str(shipped.MODEL), recipe, SourceOptions(batch_size=given.batch_size)
        ),
    }
    texts = Texts(
        sources[NAMES[2]].tokenizer, sources[NAMES[2]].setup.delimiters, sources[NAMES[2]].setup.cues
    )
    problems = held_out.problems(given.traces * (given.rounds + 1), 11)
    results: dict[str, list[Timed]] = {name: [] for name in NAMES}
    for number in range(given.rounds + 1):
        part = problems[number * given.traces : (number + 1) * given.traces]
        requests = [Request(problem.id, texts.prompt_ids(problem.prompt)) for problem in part]
        traces: list[Generation] = []
        for name, source in sources.items():
            done, traces = whole(source, requests, sampling)
            results[name].append(done)
        results[NAMES[3]].append(naive(sources[NAMES[2]], traces, sampling, given.naive))
    print("| engine | traces/s, recorded | labels/s | traces/s with their labels |")
    print("|---|---|---|---|")
    for name, rounds in results.items():
        kept = rounds[1:]  # the first round warms up
        labels = rate([r.labels for r in kept], [r.labelling for r in kept])
        traces_only = both = "-"
        if kept[0].traces:
            traces_only = rate([r.traces for r in kept], [r.generating for r in kept])
            both = rate([r.traces for r in kept], [r.generating + r.labelling for r in kept])
        print(f"| {name} | {traces_only} | {labels} | {both} |")
    use = sources[NAMES[0]].engine.cache
    print(f"\nprompt tokens of forced exits: {use.total}; from the prefix cache: {use.cached}")
    print(f"recomputed: {use.total - use.cached} ({1 - use.cached / use.total:.1%})")
    labels = sum(done.labels for done in results[NAMES[0]])
    print(f"labels per trace: {labels / len(problems):.1f}")
    for name in NAMES[:2]:
        sources[name].close()


if __name__ == "__main__":
    main()
