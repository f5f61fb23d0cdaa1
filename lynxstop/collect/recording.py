"""From a model folder and a recipe to a recorded data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.problems import Problem
from lynxstop.collect.runner import collect
from lynxstop.engines.types import Sampling
from lynxstop.errors import ConfigError


def record(
    model: Path,
    problems: Sequence[Problem],
    out: Path,
    recipe: Recipe,
    *,
    samples: int = 1,
    max_cues: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    shard_size: int = 256,
    device: str | None = None,
    dtype: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Load a model and `collect` with it.

    Without a thinking budget in the recipe, thinking may take what `max_tokens` leaves besides an answer: a
    trace that is cut short answers too.

    Returns
    -------
    dict
        Counts and rates, for people and for JSON; rates are None where nothing is known.

    Raises
    ------
    LynxstopError
        As `lynxstop.engines.transformers.loading.load_engine` and `lynxstop.collect.runner.collect` do.
    """
    from lynxstop.engines.transformers.loading import load_engine

    sampling = Sampling(**recipe.sampling.model_dump(), seed=seed)
    loaded = load_engine(model, recipe, device=device, dtype=dtype, batch_size=batch_size)
    if loaded.engine.policy.budget is None:
        room = len(loaded.engine.policy.exit_ids) + sampling.answer_tokens + 1
        if sampling.max_tokens <= room:
            raise ConfigError(f"max_tokens {sampling.max_tokens} leaves no room for thinking.")
        budget = sampling.max_tokens - room
        loaded.engine.policy = replace(loaded.engine.policy, budget=budget)
    data = collect(
        loaded,
        problems,
        out,
        sampling=sampling,
        samples=samples,
        max_cues=max_cues,
        shard_size=shard_size,
        console=console,
    )
    traces, cues = data.traces(), data.cues()
    return {
        "out": str(out),
        "traces": len(traces),
        "cues": len(cues),
        "accuracy": _mean(traces["full_right"].to_pylist()),
        "unparsed": sum(status != "parsed" for status in traces["full_status"].to_pylist()),
        "agreement": _mean(cues["agrees"].to_pylist()),
        "trial_accuracy": _mean(cues["right"].to_pylist()),
        "thinking_tokens": _mean(traces["thinking_tokens"].to_pylist()),
        "budget": data.meta.budget,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
