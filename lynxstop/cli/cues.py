"""`lynxstop cues`: find cue words in recorded traces."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json
from lynxstop.cli._risk import risk as read_risk

if TYPE_CHECKING:
    from lynxstop.recordings.storage import Recording
    from lynxstop_research.cue_points import Decode
    from lynxstop_research.cue_search import CueWordReport, Word


def cues(
    data: Annotated[Path, typer.Argument(help="Recorded traces, from `lynxstop collect`.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Model folder: its tokenizer tells which words follow recorded boundaries."),
    ] = None,
    risk: Annotated[
        float, typer.Option(parser=read_risk, help="Share of changed answers at which savings are compared.")
    ] = 0.05,
    least: Annotated[
        float, typer.Option(min=0, max=1, help="Share of traces in which a candidate opens a sentence.")
    ] = 0.05,
    most: Annotated[int, typer.Option(min=1, help="Candidates to look at.")] = 40,
    limit: Annotated[int, typer.Option(min=1, help="Traces to read, spread over the data.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the cross-validation.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the proposal as the `[cues]` of a recipe.")] = None,
    json: Json = False,
) -> None:
    """Rank cue words by frequency and by how well an exit there can be predicted; propose a set.

    Frequencies come from the texts. Exits are measured at recorded cues and, when the recipe says
    `[points] boundaries = true` and `--model` is given, at every boundary in front of a word.

    **Examples**

    - `lynxstop cues recorded/train`

    - `lynxstop cues recorded/train --model MODEL --out cues.toml`

    - `lynxstop cues recorded/train --model MODEL --risk 0.02 --json`
    """
    from lynxstop.artifacts import atomic
    from lynxstop.cli._checks import check_file
    from lynxstop.recordings.storage import Recording
    from lynxstop.replay.parts import spread
    from lynxstop_research.cue_search import search

    check_file(out, "--out")
    recorded = Recording.open(data)
    decode = None if model is None else _decoder(model, recorded)
    with _output.progress() as bar:
        task = bar.add_task("words", total=None)
        found = search(
            spread(recorded, limit),
            decode,
            risk=risk,
            least=least,
            most=most,
            seed=seed,
            progress=lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            ),
        )
    if out is not None:
        atomic.write_text(out, found.as_toml())
    if json:
        _output.emit({"data": str(data)} | found.as_json())
        return
    _show(found)
    if out is not None:
        _output.console.print(f"Written to {out}.")


def _decoder(model: Path, recorded: Recording) -> Decode:
    from lynxstop.errors import DataError
    from lynxstop.workflows.draft_recipe import tokenizer_of

    tokenizer = tokenizer_of(model)

    def decode(ids: object) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    text = recorded.traces()["text"][0].as_py()
    if decode(next(recorded.tokens()).ids.tolist()) != text:
        raise DataError(
            f"The tokenizer of {model} did not write these traces.",
            hint="Give the model they were recorded with.",
        )
    return decode


_WIDE = 110
_HEADERS = ("word", "per trace", "traces", "opens", "exits", "agree", "probe", "statistics", "first", "sets")


def _show(found: CueWordReport) -> None:
    columns = len(_HEADERS) if _output.console.width >= _WIDE else len(_HEADERS) - 2
    table = _output.table(f"{found.traces} traces; AUC of probe and statistics", *_HEADERS[:columns])
    for word in found.words:
        table.add_row(*_cells(word)[:columns])
    _output.console.print(table)
    if not all(word.points for word in found.words):
        _output.console.print(
            "Words without exits are not measured: that takes data collected with `\\[points] boundaries = "
            "true`, and --model.",
            style="dim",
        )
    names = ", ".join([*found.proposal.words, *(["paragraph"] if found.proposal.paragraph else [])])
    if found.basis == "measured":
        why = f"saves {found.saved:.1%} of thinking at a risk of {found.risk:g}, out of fold; certify it anew"
    else:
        why = "known cue words by frequency; no exit was measured"
    _output.console.print(f"Proposed: {names} ({why}).", soft_wrap=True)


def _cells(word: Word) -> tuple[str, ...]:
    from lynxstop_research.cue_points import PARAGRAPH

    return (
        "(paragraph)" if word.word == PARAGRAPH else word.word,
        f"{word.per_trace:.2f}",
        _percent(word.traces),
        _percent(word.opens),
        str(word.points) if word.points else "-",
        _percent(word.agree),
        _number(word.probe_auc),
        _number(word.statistics_auc),
        _percent(word.first_at),
        "+".join(word.sets) or "-",
    )


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.0%}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
