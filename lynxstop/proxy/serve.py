"""Run the proxy with uvicorn, in one process or several."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvicorn

from lynxstop.proxy import logs
from lynxstop.proxy.app import App, create_app
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.sources import load

KEEPALIVE_SECONDS = 75
"""Idle connections of clients live longer than those of usual load balancers (60 s), which then never meet
one that has just been closed."""

_VARIABLE = "_LYNXSTOP_PROXY"


def build(config: ProxyConfig) -> App:
    """Make the app that `lynxstop proxy` serves."""
    return create_app(config)


def run(path: Path | None, flags: Mapping[str, Any]) -> None:
    """Serve until a signal ends it; requests under way are finished first, up to `serve.drain_seconds`.

    Parameters
    ----------
    path : Path, optional
        Configuration file.
    flags : mapping
        Values of flags by key.

    Raises
    ------
    ConfigError
        When the configuration is wrong.
    """
    config = load(path, flags).config
    logs.configure()
    if config.serve.workers == 1:
        uvicorn.run(build(config), **options(config))
        return
    # The workers read the same sources again, so that no key is handed on.
    given = {key: value for key, value in flags.items() if value is not None}
    os.environ[_VARIABLE] = json.dumps({"path": path and str(path), "flags": given}, default=str)
    with tempfile.TemporaryDirectory(prefix="lynxstop-metrics-") as folder:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        uvicorn.run(
            "lynxstop.proxy.serve:from_environment",
            factory=True,
            workers=config.serve.workers,
            **options(config),
        )


def from_environment() -> App:
    """Make the app of a worker."""
    given = json.loads(os.environ[_VARIABLE])
    logs.configure()
    return build(load(given["path"] and Path(given["path"]), given["flags"]).config)


def options(config: ProxyConfig) -> dict[str, Any]:
    """Options of uvicorn: it adds no header and no log line of its own."""
    serve = config.serve
    return {
        "host": serve.host,
        "port": serve.port,
        "ssl_certfile": serve.tls_certificate,
        "ssl_keyfile": serve.tls_key,
        "timeout_graceful_shutdown": serve.drain_seconds,
        "timeout_keep_alive": KEEPALIVE_SECONDS,
        "access_log": False,
        "date_header": False,
        "log_config": None,
        "proxy_headers": False,
        "server_header": False,
        "ws": "none",
    }
