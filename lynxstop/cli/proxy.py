"""`lynxstop proxy`: early exit in front of any OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lynxstop.cli._options import ServedRisk
from lynxstop.extras import need


def proxy(
    upstream: Annotated[
        str | None, typer.Option(help="Address of the server, with or without /v1.", show_default=False)
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle whose certified levels are used.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="File to read; lynxstop.toml here, if there is one.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8400.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; 1.")] = None,
    risk: ServedRisk = None,
    mode: Annotated[str | None, typer.Option(help="stop, or shadow: decide and count, never stop.")] = None,
    dialect: Annotated[
        str | None, typer.Option(help="Kind of server: vllm, sglang, llamacpp, ollama, openai; it is asked.")
    ] = None,
    transport: Annotated[str | None, typer.Option(help="HTTP client: httpx or aiohttp.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Folder to record shadow traffic to; nothing is recorded.")
    ] = None,
) -> None:
    """Put early exit in front of a server that speaks the OpenAI API.

    Clients use the proxy's address in place of the server's. Thinking is closed where the bundle's certified
    rule says so; everything that is not watched goes through byte for byte. Flags win over variables
    `LYNXSTOP_SECTION_KEY`, these over the file. Without a bundle everything is relayed.

    **Examples**

    - `lynxstop proxy --upstream http://127.0.0.1:8000 --bundle BUNDLE --port 8400`

    - `lynxstop proxy --upstream http://127.0.0.1:8000 --bundle BUNDLE --risk 0.05 --mode shadow`

    - `lynxstop proxy --config lynxstop.toml --workers 4`
    """
    for package in ("httpx", "msgspec", "orjson", "prometheus_client", "uvicorn"):
        need(package, "proxy")
    from lynxstop.cli._checks import check_folder, check_port
    from lynxstop.proxy.serve import run
    from lynxstop.proxy.sources import load

    flags = {
        "upstream.url": upstream,
        "upstream.dialect": dialect,
        "upstream.transport": transport,
        "policy.bundle": bundle,
        "policy.risk": risk,
        "policy.mode": mode,
        "serve.host": host,
        "serve.port": port,
        "serve.workers": workers,
        "record.folder": record,
    }
    settings = load(config, flags).config
    if settings.record.folder is not None:
        check_folder(settings.record.folder, "--record")
    check_port(settings.serve.host, settings.serve.port)
    if settings.admin.port is not None:
        check_port(settings.admin.host, settings.admin.port, "admin.port")
    run(config, flags)
