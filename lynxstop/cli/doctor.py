"""`lynxstop doctor`: what this machine has; or what a server can do, and how the proxy would work there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json
from lynxstop.errors import ConfigError, ModelError, UpstreamError
from lynxstop.extras import need

if TYPE_CHECKING:
    from lynxstop.remote.http.connection import Connection


def doctor(
    url: Annotated[
        str | None,
        typer.Argument(
            help="Address of a server, with or without /v1; without it, this machine is examined."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to ask, the first that the server lists; without a server, a model folder.",
            show_default=False,
        ),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle that is to be served; it has to belong to the model.")
    ] = None,
    dialect: Annotated[
        str, typer.Option(help="Kind of server: vllm, sglang, llamacpp, ollama, openai; auto asks it.")
    ] = "auto",
    json: Json = False,
) -> None:
    """Examine this machine, or try a server out, and say what works and what to do about the rest.

    Without a URL: versions, extras, GPU, disk, whether vLLM would load the plugin, and with `--model` and
    `--bundle` whether they are complete, fit each other and have not expired. What may not be needed is "no";
    the exit code is 1 when something is "wrong".

    With a URL: which way the proxy will work in front of that server. The way is *plugin* (lynxstop runs
    inside the server), *stream* (the proxy decides on the streamed log-probabilities) or *pass through*
    (nothing can be stopped, and why). The server is asked a few short questions; where it counts its tokens,
    one long answer is begun and left, to see that it stops. The key is taken from `OPENAI_API_KEY`. The exit
    code is 0 when requests can be stopped, 1 when they would pass through, 2 when the server cannot be asked.

    **Examples**

    - `lynxstop doctor`

    - `lynxstop doctor --model MODEL --bundle BUNDLE`

    - `lynxstop doctor http://127.0.0.1:8000`

    - `lynxstop doctor http://127.0.0.1:8000 --model NAME --bundle BUNDLE --json`
    """
    if url is None:
        _examine_machine(model, bundle, json)
        return
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"{url!r} is not the address of a server.",
            hint="Give one like http://127.0.0.1:8000. The folder of a model goes to --model.",
        )
    for package in ("httpx", "msgspec", "orjson"):
        need(package, "proxy")
    import asyncio

    found, mode, trouble = asyncio.run(_examine(url, model, bundle, dialect))
    if json:
        _output.emit({**found.document(), "mode": mode, "trouble": trouble})
    else:
        from lynxstop.remote.doctor import rows

        table = _output.table(url, "", "")
        table.columns[1].justify = "left"
        table.show_header = False
        for name, value in rows(found).items():
            table.add_row(name, value)
        table.add_row("the proxy's way", mode)
        _output.console.print(table, markup=False)
        if trouble:
            _output.console.print(trouble, markup=False, highlight=False, soft_wrap=True)
    if mode == "pass through":
        raise typer.Exit(1)


def _examine_machine(model: str | None, bundle: Path | None, json: bool) -> None:
    from dataclasses import asdict

    from lynxstop.workflows.machine import examine_machine

    checks = examine_machine(None if model is None else Path(model), bundle)
    if json:
        _output.emit({"checks": [asdict(check) for check in checks]})
    else:
        table = _output.table("This machine", "", "", "")
        table.show_header = False
        for column in table.columns:
            column.justify = "left"
        for check in checks:
            table.add_row(check.name, check.state, check.text)
        _output.console.print(table, markup=False)
    if any(check.state == "wrong" for check in checks):
        raise typer.Exit(1)


async def _name_models(server: Connection, model: str | None, error: UpstreamError) -> None:
    """Raise a clearer error where the server does not list the model that was asked."""
    from lynxstop.remote.server import listed_models

    try:
        listed = list(listed_models(await server.call("/v1/models")))
    except UpstreamError:
        return
    if model is not None and model not in listed:
        raise ModelError(
            f"The server has no model {model!r}.", hint=f"It lists: {', '.join(listed) or 'none'}."
        ) from error


async def _examine(url: str, model: str | None, bundle: Path | None, dialect: str) -> Any:
    """Examine a server, and let the proxy's own code decide how a bundle would be served."""
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.proxy.service import Services
    from lynxstop.proxy.sources import load
    from lynxstop.remote.doctor import examine
    from lynxstop.remote.http.connection import Connection
    from lynxstop.remote.http.upstream import Upstream

    config = load(None, {"upstream.url": url, "upstream.dialect": dialect}).config
    loaded = None if bundle is None else Bundle.load(bundle)
    upstream = Upstream(config.upstream)
    key = os.environ.get("OPENAI_API_KEY")
    server = Connection(upstream, [(b"authorization", b"Bearer " + key.encode())] if key else [])
    try:
        try:
            found = await examine(server, model=model, dialect=dialect)
        except UpstreamError as error:
            await _name_models(server, model, error)
            raise UpstreamError(
                f"{url} cannot be asked: {error.message}",
                code=error.code,
                status=error.status_code,
                hint=error.hint or "Start the server, or check its address and port.",
            ) from error
        if loaded is None:
            return found, found.mode, found.trouble
        service = await Services(loaded, dialect).of(server, found.model)
        mode = "plugin" if service.plugin else "pass through" if service.stream_config is None else "stream"
        return found, mode, service.trouble
    finally:
        await upstream.aclose()
