"""From a model and a recipe to a recorded data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.cluster import Cluster, collect_on_ray
from lynxstop.collect.runner import collect
from lynxstop.collect.sources import SourceOptions, load_source
from lynxstop.collect.work import KEEP_EVERY
from lynxstop.core.types import Sampling
from lynxstop.grading.graders import MATH, grader_named
from lynxstop.recordings.problems import Problem


def record(
    model: str | Path,
    problems: Sequence[Problem],
    out: str | Path,
    recipe: Recipe,
    *,
    engine: str = "transformers",
    samples: int = 1,
    max_cues: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    shard_size: int = 256,
    keep_every: float = KEEP_EVERY,
    device: str | None = None,
    dtype: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    grader: str = MATH,
    append: bool = False,
    cluster: Cluster | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Load a model with `lynxstop.collect.sources.load_source` and `collect` with it.

    `grader` is a name that `lynxstop.grading.graders.grader_named` knows. With a `cluster`, every actor of it
    loads the model, and `collect_on_ray` carries the collection out.

    Returns
    -------
    dict
        Counts and rates, for people and for JSON; rates are None where nothing is known.

    Raises
    ------
    LynxstopError
        As `load_source` and `lynxstop.collect.runner.collect` do.
    """
    options = SourceOptions(device=device, dtype=dtype, batch_size=batch_size, arguments=arguments or {})
    sampling = Sampling(**recipe.sampling.model_dump(), seed=seed)
    settings: dict[str, Any] = {
        "sampling": sampling,
        "samples": samples,
        "max_cues": max_cues,
        "shard_size": shard_size,
        "keep_every": keep_every,
        "append": append,
        "console": console,
        "grader": grader_named(grader),
    }
    if cluster is not None:
        folder = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
        load = partial(load_source, engine, folder, recipe, options)
        data = collect_on_ray(load, problems, out, cluster=cluster, **settings)
    else:
        with closing(load_source(engine, str(model), recipe, options)) as source:
            data = collect(source, problems, out, **settings)
    traces = data.traces(["full_right", "full_status", "thinking_tokens"])
    cues = data.cues(["agrees", "right"])
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
