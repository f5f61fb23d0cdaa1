"""From a model and a recipe to a recorded data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.cluster import collect_on_ray
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from lynxstop.collect.sources import load_source
from lynxstop.core.types import Sampling
from lynxstop.errors import ConfigError
from lynxstop.recordings.problems import Problem


def record(
    model: str | Path,
    problems: Sequence[Problem],
    out: str | Path,
    recipe: Recipe,
    options: CollectOptions | None = None,
    *,
    console: Console | None = None,
) -> dict[str, Any]:
    """Load a model and record full traces with the answer forced at every cue.

    Parameters
    ----------
    model : path or str
        A model folder, or a name that the engine knows.
    problems : sequence of Problem
    out : path or URL
        Folder of the data set, or a place that fsspec reaches.
    recipe : Recipe
        How the model is watched, stopped and sampled.
    options : CollectOptions, optional
    console : Console, optional
        Where to show progress.

    Returns
    -------
    dict
        Counts and rates, for people and for JSON; rates are None where nothing is known.

    Raises
    ------
    ConfigError
        When a launcher started this process as one of several.
    LynxstopError
        As `lynxstop.collect.sources.load_source` and `lynxstop.collect.runner.collect` do.
    """
    _require_alone()
    options = options or CollectOptions()
    sampling = Sampling(**recipe.sampling.model_dump(), seed=options.seed)
    if options.cluster is not None:
        folder = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
        load = partial(load_source, options.engine, folder, recipe, options)
        data = collect_on_ray(load, problems, out, sampling, options, console=console)
    else:
        with closing(load_source(options.engine, str(model), recipe, options)) as source:
            data = collect(source, problems, out, sampling, options, console=console)
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


def _require_alone() -> None:
    """Refuse to be one of several processes of a launcher such as torchrun: each would record everything."""
    processes = os.environ.get("WORLD_SIZE", "")
    if "RANK" in os.environ and processes.isdecimal() and int(processes) > 1:
        raise ConfigError(
            f"This is one of {processes} processes of a launcher (RANK and WORLD_SIZE are set), and each of "
            "them would record all problems.",
            hint="Start it once, without torchrun, or unset both variables. One process uses several GPUs "
            "with --engine vllm --argument tensor_parallel_size=N, and several machines with --engine ray.",
        )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
