"""`lynxstop config show`: the proxy's configuration as it comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Look at the proxy's configuration."""


@app.command()
def show(
    config: Annotated[
        Path | None, typer.Option(help="File to read; lynxstop.toml here, if there is one.")
    ] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show every key of the proxy's configuration with its value; keys of an API as stars.

    **Examples**

    - `lynxstop config show --origin`

    - `lynxstop config show --config lynxstop.toml --json`
    """
    from rich.console import Console

    from lynxstop.cli import _output
    from lynxstop.proxy.sources import FILE, keys, load
    from lynxstop.proxy.sources import show as value_of

    loaded = load(config)
    values = {key: value_of(loaded.config, key) for key, _ in keys()}
    values |= {
        f"backend.{one.name}": f"{one.upstream.url}, {one.policy.bundle or 'no bundle'}"
        for one in loaded.config.backend
    }
    origins = {**dict.fromkeys(values, str(config or FILE)), **loaded.origins}
    if as_json:
        _output.emit(
            {key: {"value": value, "origin": origins[key]} for key, value in values.items()}
            if origin
            else values
        )
        return
    table = _output.table("", "key", "value", *(["origin"] if origin else []))
    for key, value in values.items():
        table.add_row(key, _shown(value), *([origins[key]] if origin else []))
    Console().print(table)


def _shown(value: object) -> str:
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return ",".join(value) if isinstance(value, list) else str(value)
