"""`lynxstop run`: answer prompts with early exit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import BatchSize, Device, Dtype, Seed
from lynxstop.cli._risk import risk_or_off
from lynxstop.core.conditions import Uncertified
from lynxstop.errors import ConfigError

if TYPE_CHECKING:
    from lynxstop.collect.texts import Texts
    from lynxstop.core.types import Generation, Request, Sampling
    from lynxstop.engines.transformers.loading import LoadedModel
    from lynxstop.recordings.problems import Problem


def run(
    model: Annotated[Path, typer.Argument(help="Model folder (Hugging Face).")],
    bundle: Annotated[Path, typer.Argument(help="Bundle made for this model.")],
    prompt: Annotated[str | None, typer.Argument(help="One prompt; or give --problems.")] = None,
    problems: Annotated[
        Path | None, typer.Option(help="Prompts from a file: JSONL, CSV or Parquet with id and prompt.")
    ] = None,
    risk: Annotated[
        str | None,
        typer.Option(
            parser=risk_or_off,
            help="A certified level, such as 5%, or `off` to think to the end; by default the bundle's.",
        ),
    ] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Decide and report, but never stop.")] = False,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Instead of the certified temperature; see --uncertified.")
    ] = None,
    uncertified: Annotated[
        Uncertified,
        typer.Option(
            help="Prompts outside the certified conditions (temperature, engine, data type, expired level): "
            "think, to the end; or stop, without a certificate."
        ),
    ] = Uncertified.THINK,
    group: Annotated[
        str | None,
        typer.Option(help="Group of the prompts; --problems are grouped by the column that was certified."),
    ] = None,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    device: Device = None,
    dtype: Dtype = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the text.")] = False,
) -> None:
    """Answer prompts, stopping the thinking where the bundle's certificate allows it.

    **Examples**

    - `lynxstop run data/reasoner probes/reasoner "Solve x mod 11: x a. * 5 b. + 3 gives 9"`

    - `lynxstop run MODEL BUNDLE --problems prompts.jsonl --risk 0.05 --json > answers.json`

    - `lynxstop run MODEL BUNDLE "..." --shadow`
    """
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.collect.texts import Texts
    from lynxstop.core.exits import Mode
    from lynxstop.core.types import Request, Sampling
    from lynxstop.engines.transformers.loading import load_engine
    from lynxstop.recordings.problems import Problem, load_problems

    if (prompt is None) == (problems is None):
        raise ConfigError("Give either one prompt or --problems.")
    found = Bundle.load(bundle)
    policy = found.policy
    level = _level(risk, policy.default_risk)
    policy.stop_policy().level(level)
    asked = [Problem("prompt", prompt)] if prompt is not None else load_problems(problems or Path())
    served = policy.sampling.model_dump()
    if temperature is not None:
        served["temperature"] = temperature
    loaded = load_engine(
        model, found, device=device, dtype=dtype, batch_size=batch_size, uncertified=uncertified
    )
    texts = Texts(loaded.tokenizer, loaded.setup.delimiters, loaded.setup.cues)
    mode = Mode.SHADOW if shadow else Mode.STOP
    column = next((v.column for v in policy.levels if v.column), None)
    requests = [
        Request(
            p.id, texts.prompt_ids(p.prompt, p.tools), risk=level, mode=mode, group=group or _group(p, column)
        )
        for p in asked
    ]
    sampling = Sampling(**served, seed=seed)
    if prompt is not None and not json:
        _stream(loaded, requests[0], sampling)
        _tell_departures(loaded, uncertified)
        return
    rows = {}
    with _output.progress() as bar:
        task = bar.add_task("answering", total=len(requests))
        for generation in loaded.engine.generate(requests, sampling):
            rows[generation.request.id] = _row(generation, texts)
            bar.advance(task)
    answers = [rows[request.id] for request in requests]
    if json:
        departures = sorted(loaded.engine.departures)
        _output.emit({"risk": level, "mode": str(mode), "departures": departures, "answers": answers})
        return
    _tell_departures(loaded, uncertified)
    for row in answers:
        note = "" if row["exit"] is None else f"  (stopped after {row['thinking_tokens']} thinking tokens)"
        typer.echo(f"{row['id']}\t{row['answer']}{note}")


def _tell_departures(loaded: LoadedModel, uncertified: Uncertified) -> None:
    """Say when no certificate held, why, and what was done."""
    if causes := ", ".join(sorted(loaded.engine.departures)):
        done = (
            "thought to the end" if uncertified is Uncertified.THINK else "was stopped without a certificate"
        )
        _output.console.print(f"Outside the certified conditions ({causes}): {done}.", style="yellow")


def _level(risk: str | None, default: float | None) -> float | None:
    if risk is None:
        return default
    return None if risk == "off" else float(risk)


def _group(problem: Problem, column: str | None) -> str | None:
    value = problem.metadata.get(column) if column else None
    return None if value is None else str(value)


def _row(generation: Generation, texts: Texts) -> dict[str, Any]:
    from lynxstop.grading.extract import extract_answer

    text = texts.decode(generation.output_ids)
    stop = generation.exit
    return {
        "id": generation.request.id,
        "answer": extract_answer(texts.after_thinking(text)),
        "text": text,
        "finish": generation.finish,
        "thinking_tokens": generation.thinking_tokens,
        "cues": len(generation.events),
        "exit": None
        if stop is None
        else {
            "reason": str(stop.reason),
            "cue": stop.cue,
            "thinking_tokens": stop.thinking_tokens,
            "score": stop.score,
            "threshold": stop.threshold,
        },
    }


def _stream(loaded: LoadedModel, request: Request, sampling: Sampling) -> None:
    """Print tokens as they come, then where and why it stopped."""
    show = _printer(loaded.tokenizer)
    (generation,) = loaded.engine.generate([request], sampling, on_token=lambda _, token: show(token))
    sys.stdout.write("\n")
    stop = generation.exit
    if stop is None:
        _output.console.print(
            f"Thought to the end: {generation.thinking_tokens} thinking tokens.", style="dim"
        )
    elif request.mode == "shadow":
        _output.console.print(
            f"Would have stopped after {stop.thinking_tokens} of "
            f"{generation.thinking_tokens} thinking tokens.",
            style="green",
        )
    else:
        _output.console.print(
            f"Stopped after {stop.thinking_tokens} thinking tokens ({stop.reason}): "
            f"score {stop.score:.3f} > {stop.threshold:.3f}.",
            style="green",
        )


def _printer(tokenizer: Any) -> Callable[[int], None]:
    """Decode a growing list of tokens, so that characters split over tokens come out whole."""
    ids: list[int] = []
    shown = 0

    def show(token: int) -> None:
        nonlocal shown
        ids.append(token)
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if not text.endswith("\ufffd"):
            sys.stdout.write(text[shown:])
            sys.stdout.flush()
            shown = len(text)

    return show
