"""`lynxstop demo`: the main job on the shipped model, live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lynxstop.cli import _output
from lynxstop.cli._options import Json
from lynxstop.cli._risk import risk as read_risk
from lynxstop.errors import StepError


def demo(
    problems: Annotated[
        int, typer.Option("--problems", "-n", min=10, help="Held-out problems to run.")
    ] = 400,
    risk: Annotated[
        float | None, typer.Option(parser=read_risk, help="A certified level; by default the bundle's.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Draw fresh problems by this seed; without it the shipped test set is used."),
    ] = None,
    report: Annotated[Path, typer.Option(help="HTML report to write.")] = Path("out/demo.html"),
    batch_size: Annotated[int, typer.Option(min=1, help="Rows generated at once.")] = 128,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="Collect, train and calibrate again, and compare with the shipped bundle."
        ),
    ] = False,
    workdir: Annotated[Path, typer.Option(help="Where --rebuild records and builds.")] = Path("out/rebuild"),
    json: Json = False,
) -> None:
    """Run held-out problems with full thinking and with early exit at the certified risk.

    The model is small, but real: it was trained from scratch by this project, it reasons in text, errs, and
    doubts itself too often. Everything is generated live on this machine.

    **Examples**

    - `lynxstop demo`

    - `lynxstop demo --seed 7 -n 300 --json`

    - `lynxstop demo --rebuild`
    """
    from lynxstop import shipped
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.cli._checks import check_file, check_folder
    from lynxstop.demo import held_out
    from lynxstop.demo.report import write_report
    from lynxstop.demo.result import result
    from lynxstop.demo.run import demonstrate
    from lynxstop.engines.transformers.loading import load_engine
    from lynxstop.extras import need

    if rebuild:
        from lynxstop.demo.rebuild import rebuild as build

        check_folder(workdir, "--workdir")
        compared = build(workdir, _output.console)
        if json:
            _output.emit(compared)
        return
    need("matplotlib", "report")
    check_file(report, "--report")
    bundle = Bundle.load(shipped.BUNDLE)
    level = risk if risk is not None else bundle.policy.default_risk
    if level is None:
        raise StepError("The shipped bundle has no certified level.", hint="Run `lynxstop demo --rebuild`.")
    loaded = load_engine(shipped.MODEL, bundle, batch_size=batch_size)
    drawn = held_out.problems(problems, seed)
    with _output.progress() as bar:
        tasks = {
            name: bar.add_task(name, total=len(drawn))
            for name in ("full thinking", "early exit", "every cue")
        }
        seen = demonstrate(
            loaded,
            bundle,
            drawn,
            level,
            seed or 0,
            lambda name, done: bar.update(tasks[name], completed=done),
        )
    found = result(seen, bundle, level)
    found["report"] = str(write_report(report, seen, bundle, found))
    if json:
        _output.emit(found)
        return
    _output.console.print(_summary(found))
    _output.console.print(_example(seen, loaded.tokenizer))
    _output.console.print(found["promise"], style="bold")
    _output.console.print(f"Report: {found['report']}")


def _summary(found: dict[str, Any]) -> Table:
    rows = _output.table(f"{found['n_problems']} held-out problems", "", "full thinking", "early exit")
    rows.add_row("accuracy", f"{found['accuracy_full']:.1%}", f"{found['accuracy_early']:.1%}")
    rows.add_row(
        "thinking tokens", f"{found['thinking_tokens_full']:,}", f"{found['thinking_tokens_early']:,}"
    )
    rows.add_row("thinking tokens saved", "", f"{found['saved']:.1%}")
    rows.add_row("the oracle would save", "", f"{found['oracle_saved']:.1%}")
    rows.add_row("requests stopped early", "", f"{found['exits']} of {found['n_problems']}")
    rows.add_row(
        "answers that differ from full thinking", "", f"{found['disagree']} of {found['n_problems']}"
    )
    rows.add_row(
        "… certified to be at most",
        "",
        f"{found['certified_risk']:.1%} at {found['confidence']:.0%} confidence",
    )
    rows.add_row("right answers lost (harm)", "", str(found["harm"]))
    rows.add_row("wrong answers mended (help)", "", str(found["help"]))
    rows.add_row("wall-clock", f"{found['seconds_full']:.1f} s", f"{found['seconds_early']:.1f} s")
    return rows


def _example(seen: Any, tokenizer: Any) -> Text:
    """One trace with the place where it stopped, and what full thinking went on to write."""
    same = (seen.outcomes.exits & ~seen.outcomes.disagree).nonzero()[0]
    if not len(same):
        return Text("No request was stopped.")
    index = int(same[0])
    early, full = seen.early[index], seen.full[index]
    cut = early.exit.seen_at + 1

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False))

    return Text.assemble(
        (f"\n{seen.problems[index].prompt}\n", "bold"),
        text(early.output_ids[:cut]),
        (f"  ◀ stopped here, score {early.exit.score:.2f} > {early.exit.threshold:.2f}", "bold green"),
        (text(early.output_ids[cut:]), "green"),
        ("\n\nFull thinking went on:", "bold"),
        (text(full.output_ids[cut:]) + "\n", "dim"),
    )
