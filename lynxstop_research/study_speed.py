"""Wall-clock and throughput of an engine: full thinking, certified levels, and budgets that cost the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.source import Source
from lynxstop.collect.sources import folder_of, load_source
from lynxstop.collect.texts import Texts
from lynxstop.core.exits import Mode
from lynxstop.core.types import Generation, Request, Sampling
from lynxstop.errors import ConfigError
from lynxstop.grading.graders import same_of
from lynxstop.grading.grading import Grade, Same, agrees
from lynxstop.recordings.problems import Problem
from lynxstop.replay.exits import ExitTable

ROUNDS = 2
FULL = "full thinking"
AGAIN = "full thinking, other random numbers"
"""How often two full answers to one request differ: no exit is asked to agree better than that."""


@dataclass
class _Setting:
    """One way of running all requests, and what it took so far."""

    name: str
    risk: float | None = None
    mode: Mode = Mode.STOP
    draw: int = 0
    """Added to the seed."""
    seconds: list[float] = field(default_factory=list)
    done: Sequence[Generation] = ()


def equal_budget(table: ExitTable, spent: float) -> int:
    """Return the budget under which the recorded traces think `spent` tokens in all."""
    low, high = 0, int(table.full_tokens.max())
    while low < high:
        middle = (low + high) // 2
        if np.minimum(table.full_tokens, middle).sum() < spent:
            low = middle + 1
        else:
            high = middle
    return low


def speed(
    model: str,
    recipe: Recipe,
    bundle: Bundle | None,
    problems: Sequence[Problem],
    budgets: Sequence[int],
    options: CollectOptions,
    certified_budget: Bundle | None = None,
) -> list[dict[str, Any]]:
    """Run the same requests in every setting, `ROUNDS` times, and measure.

    The levels of a bundle take turns with full thinking in one engine, those of the certified budget in
    another. Every fixed budget has an engine of its own, in which it takes turns with full thinking, so that
    each ratio is measured in one process. All draw the same random numbers, so that texts are the same up to
    a stop; except for one more run of full thinking, where tokens are drawn at all.

    Parameters
    ----------
    budgets : sequence of int
        Thinking tokens after which an exit is forced, whatever the risk.
    certified_budget : Bundle, optional
        Of the rule `budget`, certified at the same levels: a budget of equal risk.

    Returns
    -------
    list of dict
        By setting: `setting`, `requests_per_second`, its ratio `against_full` (`_low` and `_high`: of a
        round), `thinking` and `generated` (tokens per request), `accuracy` (None without gold), `disagree`
        (share that differs from full thinking).

    Raises
    ------
    ConfigError
        When the engine is a server.
    """
    if options.engine == "openai":
        raise ConfigError("The speed of a server is not measured from here.", hint="See benchmarks/proxy.py.")
    again = [_Setting(AGAIN, draw=1)] if recipe.sampling.temperature > 0 else []
    opened: list[tuple[Callable[[], Source], list[_Setting]]] = [
        (partial(_open, model, recipe, bundle, options), [*_levels("certified", bundle), *again])
    ]
    if certified_budget is not None:
        levels = _levels("budget certified at", certified_budget)
        opened.append((partial(_open, model, recipe, certified_budget, options), levels))
    for budget in budgets:
        guards = recipe.guards.model_copy(update={"budget": budget})
        short = recipe.model_copy(update={"guards": guards})
        # In shadow nothing is forced, so that the request thinks to the end.
        full = _Setting(FULL, mode=Mode.SHADOW)
        settings = [full, _Setting(f"budget of {budget:,} tokens")]
        opened.append((partial(_open, model, short, None, options), settings))
    reference: list[Grade] | None = None
    rows: list[dict[str, Any]] = []
    for start, settings in opened:
        texts = _run(start, recipe, problems, settings, options)
        for setting in settings[1:] if rows else settings:
            grades = [
                options.grade(texts.after_thinking(texts.decode(done.output_ids)), problem.answer)
                for done, problem in zip(setting.done, problems, strict=True)
            ]
            reference = reference or grades
            rows.append(_row(setting, settings[0], grades, reference, same_of(options.grade)))
    return rows


def _levels(name: str, bundle: Bundle | None) -> list[_Setting]:
    """Return full thinking, and the levels of a bundle that exit."""
    levels = [] if bundle is None else [one.risk for one in bundle.policy.pooled if one.threshold < np.inf]
    return [_Setting(FULL), *(_Setting(f"{name} {100 * risk:g}%", risk) for risk in levels)]


def _open(model: str, recipe: Recipe, bundle: Bundle | None, options: CollectOptions) -> Source:
    if bundle is None:
        return load_source(options.engine, model, recipe, options)
    how: dict[str, Any] = {"dtype": options.dtype, "batch_size": options.batch_size}
    if options.engine == "vllm":
        from lynxstop.engines.vllm.loading import load_engine as start

        return start(model, bundle, arguments=options.arguments, **how)
    from lynxstop.engines.transformers.loading import load_engine as load

    return load(folder_of(model), bundle, device=options.device, **how)


def _run(
    start: Callable[[], Source],
    recipe: Recipe,
    problems: Sequence[Problem],
    settings: Sequence[_Setting],
    options: CollectOptions,
) -> Texts:
    """Run all settings in one engine, which is gone before the next one needs its memory."""
    with closing(start()) as source:
        texts = Texts(source.tokenizer, source.setup.delimiters, source.setup.cues)
        _take_turns(source, texts, recipe, problems, settings, options)
    return texts


def _take_turns(
    source: Source,
    texts: Texts,
    recipe: Recipe,
    problems: Sequence[Problem],
    settings: Sequence[_Setting],
    options: CollectOptions,
) -> None:
    sampling = Sampling(**recipe.sampling.model_dump(), seed=options.seed)
    # A trace that no budget ends is no longer than one that the recipe's budget ends.
    most = (recipe.guards.budget or sampling.max_tokens) + sampling.answer_tokens
    short = replace(sampling, max_tokens=min(sampling.max_tokens, most))
    requests = [Request(one.id, texts.prompt_ids(one.prompt)) for one in problems]
    list(source.engine.generate(requests[:2], replace(sampling, max_tokens=32)))  # warms up
    for _ in range(ROUNDS):
        for setting in settings:
            asked = [replace(request, risk=setting.risk, mode=setting.mode) for request in requests]
            start = time.perf_counter()
            limits = sampling if setting.mode is Mode.STOP else short
            limits = replace(limits, seed=options.seed + setting.draw)
            done = {one.request.id: one for one in source.engine.generate(asked, limits)}
            setting.seconds.append(time.perf_counter() - start)
            setting.done = [done[request.id] for request in requests]


def _row(
    setting: _Setting, full: _Setting, grades: Sequence[Grade], reference: Sequence[Grade], compare: Same
) -> dict[str, Any]:
    ratios = [one / own for one, own in zip(full.seconds, setting.seconds, strict=True)]
    known = [grade.right for grade in grades if grade.right is not None]
    # An answer that cannot be read agrees with none but itself, as a certificate counts it.
    same = [
        one is other or agrees(one, other.answer, other.status, compare)
        for one, other in zip(grades, reference, strict=True)
    ]
    return {
        "setting": setting.name,
        "requests": len(grades),
        "requests_per_second": ROUNDS * len(grades) / sum(setting.seconds),
        "against_full": sum(full.seconds) / sum(setting.seconds),
        "against_full_low": min(ratios),
        "against_full_high": max(ratios),
        "thinking": float(np.mean([one.thinking_tokens for one in setting.done])),
        "generated": float(np.mean([len(one.output_ids) for one in setting.done])),
        "accuracy": float(np.mean(known)) if known else None,
        "disagree": 1.0 - float(np.mean(same)),
    }
