"""`lynxstop train`: fit a probe, or a rule, on recorded traces and write a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json, Layers, Target
from lynxstop.errors import ConfigError


def train(
    data: Annotated[Path, typer.Argument(help="Recorded training data, from `lynxstop collect`.")],
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle to write.")],
    target: Target = "agrees",
    kind: Annotated[str, typer.Option(help="`logistic`, or `mlp` for an MLP(256, 64).")] = "logistic",
    layers: Layers = None,
    name: Annotated[str | None, typer.Option(help="Title of the card; by default the folder's name.")] = None,
    min_tokens: Annotated[
        int,
        typer.Option(
            min=0,
            help="Thinking tokens before the first cue that may exit; data that were collected with guards, "
            "of which this is one, give theirs.",
        ),
    ] = 0,
    cooldown: Annotated[int, typer.Option(min=0, help="Thinking tokens between two cues that may exit.")] = 0,
    stride: Annotated[int, typer.Option(min=1, help="Let only every so many-th cue exit.")] = 1,
    max_points: Annotated[
        int | None, typer.Option(min=1, help="Cues of a request that may exit, at most.")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="Serve this rule, such as `combined`, instead of the probe's logit; by default "
            "`logprob-probe` on data without hidden states."
        ),
    ] = None,
    tilt: Annotated[
        float | None,
        typer.Option(
            help="Take this off the score for each earlier cue of the request that could exit; by default "
            "what saves most on these data. 0 takes nothing off."
        ),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="`sklearn`, `torch`, or `auto`: torch for features of 128 MiB and more.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Fixes the folds.")] = 0,
    json: Json = False,
) -> None:
    """Fit a probe on recorded traces, with layers and penalty chosen by cross-validation.

    A rule that reads no hidden states, such as `logprob-probe`, is fitted alone; its bundle has no probe.

    **Examples**

    - `lynxstop train recorded/train bundle`

    - `lynxstop train recorded/train bundle --kind mlp --layers 2,4 --json`

    - `lynxstop train recorded/train bundle --rule combined`
    """
    from lynxstop.cli._checks import check_folder
    from lynxstop.recordings.storage import Recording
    from lynxstop.workflows.train_bundle import train_bundle
    from lynxstop.workflows.train_rule import TrainedRule

    check_folder(bundle, "the argument BUNDLE")
    with _output.progress() as bar:
        task = bar.add_task("cross-validation", total=None)
        _, trained = train_bundle(
            Recording.open(data),
            bundle,
            name or bundle.resolve().name,
            target=target,
            kind=kind,
            layers=None if layers is None else layers_of(layers),
            rule=rule,
            backend=backend,
            guards={
                "min_tokens": min_tokens,
                "cooldown": cooldown,
                "stride": stride,
                "max_points": max_points,
            },
            tilt=tilt,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if json:
        _output.emit({"bundle": str(bundle), **trained.report()})
        return
    if isinstance(trained, TrainedRule):
        title, what = f"Rule of {bundle}", f"rule {trained.rule.name}"
    else:
        title, what = (
            f"Probe of {bundle}",
            f"probe, layers {list(trained.chosen.layers)}, C {trained.chosen.C:g}",
        )
    rows = _output.table(title, "signal", "AUC")
    rows.add_row(what, f"{trained.auc:.3f}")
    for signal, auc in trained.rivals.items():
        rows.add_row(signal, f"{auc:.3f}")
    _output.console.print(rows)
    if trained.auc <= 0.5:
        _output.console.print("On these data it ranks no better than chance.", style="yellow")
    _output.console.print(
        f"Nothing exits yet; next: lynxstop calibrate {bundle} CALIBRATION_DATA --risk 0.05"
    )


def layers_of(text: str) -> tuple[int, ...]:
    """Read layers, such as `2,4`.

    Raises
    ------
    ConfigError
        When they are not numbers with commas between.
    """
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise ConfigError(f"Layers are numbers with commas between, not {text!r}.") from error
