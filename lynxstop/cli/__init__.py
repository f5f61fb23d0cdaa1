"""The command line: one file per command."""

from __future__ import annotations

import sys

import typer

from lynxstop._version import __version__
from lynxstop.cli import _output
from lynxstop.errors import LynxstopError

app = typer.Typer(
    name="lynxstop",
    help="Stop reasoning models when they know the answer, with a certified risk per request.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
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

    In order: `collect` traces, `train` a probe, `calibrate` it, then `run` or `evaluate`. `demo` shows it
    all.
    """


def _register() -> None:
    from lynxstop.cli.calibrate import calibrate
    from lynxstop.cli.collect import collect
    from lynxstop.cli.config import app as config
    from lynxstop.cli.cues import cues
    from lynxstop.cli.curve import curve
    from lynxstop.cli.demo import demo
    from lynxstop.cli.doctor import doctor
    from lynxstop.cli.evaluate import evaluate
    from lynxstop.cli.export import export
    from lynxstop.cli.inspect import inspect
    from lynxstop.cli.mock_upstream import mock_upstream
    from lynxstop.cli.plan import plan
    from lynxstop.cli.proxy import proxy
    from lynxstop.cli.pull import pull
    from lynxstop.cli.push import push
    from lynxstop.cli.recipes import recipes
    from lynxstop.cli.run import run
    from lynxstop.cli.serve import serve
    from lynxstop.cli.train import train
    from lynxstop.cli.verify import verify

    for command in (
        demo,
        doctor,
        collect,
        train,
        curve,
        calibrate,
        verify,
        run,
        evaluate,
        export,
        cues,
        inspect,
        plan,
    ):
        app.command(no_args_is_help=command not in (demo,))(command)
    app.command(no_args_is_help=True)(push)
    app.command(no_args_is_help=True)(pull)
    app.command()(recipes)
    app.command()(proxy)
    app.add_typer(config, name="config")
    app.command(name="mock-upstream")(mock_upstream)
    # What serve does not know are flags of vLLM.
    unknown = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(no_args_is_help=True, context_settings=unknown)(serve)


_register()


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
