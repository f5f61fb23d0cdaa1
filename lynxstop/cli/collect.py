"""`lynxstop collect`: record full traces and the forced exit of every cue."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import (
    AnswerColumn,
    BatchSize,
    Device,
    Dtype,
    EngineArguments,
    Grader,
    IdColumn,
    Json,
    Limit,
    Problems,
    PromptColumn,
    Seed,
    arguments_of,
    columns,
)
from lynxstop.cli._signals import ended_by_sigterm
from lynxstop.errors import ConfigError

if TYPE_CHECKING:
    from lynxstop.collect.options import Cluster


def collect(
    model: Annotated[str, typer.Argument(help="Model folder (Hugging Face), or the engine's name for it.")],
    problems: Problems,
    out: Annotated[
        str,
        typer.Argument(help="Folder or URL (s3://...) of the recorded data; resumed when it exists."),
    ],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe (TOML): delimiters, cues, exit text, layers, sampling; or the name of a shipped one."
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Engine that generates: transformers, vllm, openai, or ray with one of these.")
    ] = "transformers",
    samples: Annotated[int, typer.Option(min=1, help="Traces per problem.")] = 1,
    limit: Limit = None,
    max_cues: Annotated[
        int | None, typer.Option(min=1, help="Force exits at no more than this many cues of a trace.")
    ] = None,
    id_column: IdColumn = None,
    prompt_column: PromptColumn = None,
    answer_column: AnswerColumn = None,
    grader: Grader = "math",
    seed: Seed = 0,
    batch_size: BatchSize = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Traces per shard: what is held in memory.")] = 256,
    keep_every: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds of work that an interruption may cost; inf keeps whole shards only."
        ),
    ] = 30.0,
    device: Device = None,
    dtype: Dtype = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Address of the server, for the engine openai; its key is read from OPENAI_API_KEY."
        ),
    ] = None,
    argument: EngineArguments = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add new problems, or more samples, to a finished data set.")
    ] = False,
    ray_engine: Annotated[
        str | None, typer.Option(help="With --engine ray: the engine of every actor (transformers).")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help='With --engine ray: a running cluster, or "auto"; else one is started.')
    ] = None,
    actors: Annotated[
        int | None, typer.Option(min=1, help="With --engine ray: engines at once (what there is room for).")
    ] = None,
    gpus_per_actor: Annotated[float | None, typer.Option(min=0, help="With --engine ray (0).")] = None,
    cpus_per_actor: Annotated[float | None, typer.Option(min=0, help="With --engine ray (1).")] = None,
    json: Json = False,
) -> None:
    """Record full traces, the features of every cue, and the answer forced there.

    An interrupted run goes on where it stopped when the same command is given again.

    **Examples**

    - `lynxstop collect MODEL train.jsonl data/train --recipe recipe.toml`

    - `lynxstop collect MODEL hf://openai/gsm8k:main/train data/train`

    - `lynxstop collect MODEL train.jsonl data/train --samples 4 --limit 500 --json`

    - `lynxstop collect MODEL train.jsonl data/train --engine vllm --argument max_model_len=40960`

    - `lynxstop collect NAME prompts.jsonl data/train --engine openai --base-url http://127.0.0.1:8000`

    - `lynxstop collect MODEL more.jsonl data/train --recipe recipe.toml --append`

    - `lynxstop collect MODEL train.jsonl s3://bucket/d --engine ray --ray-address auto --gpus-per-actor 1`
    """
    from lynxstop.artifacts.recipe import Recipe
    from lynxstop.artifacts.recipes import find_recipe
    from lynxstop.collect.options import CollectOptions
    from lynxstop.collect.recording import record
    from lynxstop.recordings.problems import load_problems

    cluster = _cluster(
        engine,
        ray_engine=ray_engine,
        address=ray_address,
        actors=actors,
        gpus_per_actor=gpus_per_actor,
        cpus_per_actor=cpus_per_actor,
    )
    options = CollectOptions(
        engine=engine if cluster is None else ray_engine or "transformers",
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        arguments=arguments_of(argument or []) | ({} if base_url is None else {"base_url": base_url}),
        seed=seed,
        cluster=cluster,
        samples=samples,
        max_cues=max_cues,
        shard_size=shard_size,
        keep_every=keep_every,
        grader=grader,
        append=append,
    )
    settings = find_recipe(recipe) if recipe else Recipe()
    asked = load_problems(problems, columns(id_column, prompt_column, answer_column))[:limit]
    # Engines and Ray print to stdout.
    with ended_by_sigterm(), redirect_stdout(sys.stderr):
        result = record(model, asked, out, settings, options, console=_output.console)
    if json:
        _output.emit(result)
    else:
        _output.console.print(
            f"{result['traces']} traces with {result['cues']} cues in {out}; "
            f"next: lynxstop train {out} BUNDLE; or, for problems that no probe has seen, "
            f"lynxstop calibrate BUNDLE {out}",
            soft_wrap=True,
        )


def _cluster(engine: str, *, ray_engine: str | None, **options: Any) -> Cluster | None:
    """Read the options of Ray; without it they are refused rather than ignored."""
    from lynxstop.collect.options import Cluster

    given = {name: value for name, value in options.items() if value is not None}
    if engine == "ray":
        return Cluster(**given)
    if given or ray_engine is not None:
        raise ConfigError("Options of Ray are for --engine ray.", hint="Add it, or leave them out.")
    return None
