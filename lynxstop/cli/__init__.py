"""The command line: one file per command, loaded when it is called."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
import typer.core
import typer.main

from lynxstop._version import __version__
from lynxstop.cli import _output
from lynxstop.errors import LynxstopError

SUMMARIES = {
    "demo": "Run held-out problems with full thinking and with early exit at the certified risk.",
    "certify": "Go from a model and a file of problems to a certified bundle, a report, and the command that "
    "serves it.",
    "study": "Study a model: certificates, all rules, transfer, speed and flips of decisions, on one page.",
    "doctor": "Examine this machine, or try a server out, and say what works and what to do about the rest.",
    "collect": "Record full traces, the features of every cue, and the answer forced there.",
    "train": "Fit a probe on recorded traces, with layers and penalty chosen by cross-validation.",
    "curve": "Show how AUC and certified savings grow with the problems collected.",
    "calibrate": "Certify thresholds: at most this risk, per request, with this confidence.",
    "verify": "Recompute certificates without the model, and fail on any difference.",
    "run": "Answer prompts, stopping the thinking where the bundle's certificate allows it.",
    "evaluate": "Compare rules on recorded traces, each certified at the same level, beside the oracle.",
    "export": "Write every recorded exit as a prompt, a completion and a decaying reward, grouped by trace.",
    "cues": "Rank cue words by frequency and by how well an exit there can be predicted; propose a set.",
    "inspect": "Say what a bundle or a recorded data set holds, and check it.",
    "problems": "Look for prompts that occur twice, or nearly, in problem sets and across them.",
    "plan": "Say how many problems a calibration needs, before any are collected, and what collecting them "
    "costs.",
    "push": "Check a bundle and upload it, with a card that says what it promises.",
    "pull": "Download a bundle, check it, and only then put it in place.",
    "recipe": "Write a recipe for a model from its tokenizer, chat template, generation settings and depth.",
    "recipes": "List the shipped recipes, or print one as TOML for `collect --recipe`.",
    "proxy": "Put early exit in front of a server that speaks the OpenAI API.",
    "mock-upstream": "Serve a toy reasoning model over HTTP that thinks, checks itself and fails on demand.",
    "serve": "Serve a model with vLLM, stopping each request when its answer is known.",
    "shadow": "Say what recorded shadow traffic would have saved, and at which risk.",
    "monitor": "Look at what the audits of live traffic say, or start them again.",
    "config": "Look at the proxy's configuration.",
}
"""The first sentence of every command's help, so that listing them loads none."""

_WITHOUT_ARGUMENTS = {"demo", "doctor", "recipes", "proxy", "mock-upstream"}
"""Commands that do something when they are given no arguments."""

_WITH_COMMANDS = {"config", "monitor", "shadow"}
"""Commands that have commands of their own."""


class _Commands(Mapping[str, Any]):
    """The commands by name; one is loaded when it is looked up."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(name, SUMMARIES[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)


def _load(name: str, summary: str) -> Any:
    function = name.replace("-", "_")
    module = import_module(f"lynxstop.cli.{function}")
    own = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    if name in _WITH_COMMANDS:
        own = module.app
    else:
        # What serve does not know are flags of vLLM.
        unknown = {"allow_extra_args": True, "ignore_unknown_options": True} if name == "serve" else None
        command = own.command(
            name=name, no_args_is_help=name not in _WITHOUT_ARGUMENTS, context_settings=unknown
        )
        command(getattr(module, function))
    found = typer.main.get_command(own)
    found.name = name
    return found


class _Group(typer.core.TyperGroup):
    """Lists its commands without loading them, in plain text: rich takes longer to load than all else."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()  # type: ignore[assignment]
        self.rich_markup_mode = None

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, in order."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


app = typer.Typer(
    cls=_Group,
    name="lynxstop",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"lynxstop {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Stop reasoning models when they know the answer, with a certified risk per request.

    `demo` shows it on a small model that is shipped; `certify` does it for a model of yours. Its steps, each
    a command: `collect` traces, `train` a probe, `calibrate` it, then `run`, `serve` or `evaluate`.
    """


def main() -> None:
    """Run the command line; errors on purpose end it with one message and their exit code."""
    try:
        app()
    except LynxstopError as error:
        _output.fail(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _output.console.print("Interrupted; what was complete is kept.", style="yellow")
        sys.exit(130)
