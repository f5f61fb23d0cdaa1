"""Run the proxy with uvicorn, in one process or several."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from lynxstop._version import __version__
from lynxstop.errors import ConfigError, LynxstopError
from lynxstop.proxy import logs, ops
from lynxstop.proxy.app import App, create_app
from lynxstop.proxy.config import ProxyConfig, ServeConfig
from lynxstop.proxy.metrics import Metrics, forget_the_dead
from lynxstop.proxy.operators import Operators
from lynxstop.proxy.parts import Part, parts_of
from lynxstop.proxy.reload import Reloading, hold_signals, require_same
from lynxstop.proxy.running import Running
from lynxstop.proxy.sources import load

KEEPALIVE_SECONDS = 75
"""Idle connections of clients live longer than those of usual load balancers (60 s), which then never meet
one that has just been closed."""

RESTART_SECONDS = 1.0
"""Between two tries to start a worker whose sources are broken."""

READY_SECONDS = 30
"""How long a worker may take to start, and to answer its parent, before another one takes its place."""

_VARIABLE = "_LYNXSTOP_PROXY"


def build(
    config: ProxyConfig,
    metrics: Metrics | None = None,
    running: Running | None = None,
    reload: Callable[[], Awaitable[Mapping[str, Any]]] | None = None,
) -> App:
    """Make the app that `lynxstop proxy` serves.

    Parameters
    ----------
    config : ProxyConfig
    metrics : Metrics, optional
        Where to count; by default new ones.
    running : Running, optional
        Where requests are listed.
    reload : callable, optional
        What POST /lynxstop/reload does.

    Raises
    ------
    LynxstopError
        When a bundle cannot be loaded, or a level of the configuration is not certified.
    """
    metrics, running = metrics or Metrics(), running or Running()
    parts = parts_of(config, metrics, running)
    bundles = [(part.config.policy.risk, part.services.bundle) for part in parts]
    risks = [risk or (bundle and bundle.policy.default_risk) for risk, bundle in bundles]
    metrics.risk_target.set(max((risk for risk in risks if isinstance(risk, float)), default=0.0))
    first, *others = parts

    async def begin(app: App) -> None:
        for part in parts:
            await part.beside.begin(app)

    async def settle() -> None:
        await asyncio.gather(*(part.settle() for part in parts))

    def facts() -> Mapping[str, object]:
        return {
            "version": __version__,
            "backends": {part.backend.name: part.beside.facts() for part in parts},
        }

    def named(part: Part, name: str) -> str:
        return f"{name} {part.backend.name}" if others else name

    several = {part.backend.name: ops.together(part.beside.checks) for part in parts}
    return create_app(
        config,
        backends=[part.backend for part in parts],
        metrics=metrics,
        checks=several if others else first.beside.checks,
        startup=begin,
        draining=settle,
        notices={
            named(part, "monitor"): part.monitoring.notice
            for part in parts
            if part.monitoring.auditor is not None
        },
        own=Operators(config, metrics, parts, running, reload).routes,
        facts=facts if others else first.beside.facts,
    )


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
        When the configuration is wrong, or the files for TLS cannot be used.
    """
    config = load(path, flags).config
    check_tls(config.serve)
    logs.configure()
    settle_memory()
    if config.serve.workers == 1:
        hold_signals()
        settings = uvicorn.Config(reloading(path, flags), **options(config))
        server = uvicorn.Server(settings)
        with suppress(KeyboardInterrupt):
            server.run(None if config.admin.port is None else [settings.bind_socket(), *_admin(config)])
        if not server.started:
            sys.exit(uvicorn.config.STARTUP_FAILURE)
        return
    # What cannot be served ends the command here, not worker after worker.
    build(config)
    # The workers read the same sources again, so that no key is handed on.
    given = {key: value for key, value in flags.items() if value is not None}
    os.environ[_VARIABLE] = json.dumps({"path": path and str(path), "flags": given}, default=str)
    with tempfile.TemporaryDirectory(prefix="lynxstop-metrics-") as folder:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        made = "lynxstop.proxy.serve:from_environment"
        settings = uvicorn.Config(made, factory=True, workers=config.serve.workers, **options(config))
        _Workers(settings, [settings.bind_socket(), *_admin(config)]).run()


def from_environment() -> Reloading:
    """Make the app of a worker.

    One that starts after its sources were broken ends, and is started again until they are mended: the other
    workers serve on.
    """
    given = json.loads(os.environ[_VARIABLE])
    hold_signals()
    logs.configure()
    settle_memory()
    # It may stand in for one that was killed.
    forget_the_dead()
    path = given["path"] and Path(given["path"])
    try:
        return reloading(path, given["flags"], lambda: os.kill(os.getppid(), signal.SIGHUP))
    except (LynxstopError, OSError) as error:
        logs.logger.error("worker_not_started", extra={"fields": {"trouble": str(error)}})
        time.sleep(RESTART_SECONDS)
        sys.exit(1)


def reloading(
    path: Path | None, flags: Mapping[str, Any], spread: Callable[[], None] | None = None
) -> Reloading:
    """Make the app of these sources, which are read again on a reload."""
    metrics, running = Metrics(), Running()

    def read(before: ProxyConfig | None = None) -> App:
        config = load(path, flags).config
        if before is not None:
            # Before anything is made: what is refused leaves no trace.
            require_same(before, config)
        return build(config, metrics, running, lambda: made.ask())

    made = Reloading(read(), read, spread)
    return made


class _Workers(Multiprocess):
    """Worker processes that reload by themselves, where uvicorn would start new ones and end the old."""

    def handle_hup(self) -> None:
        """Hand the signal on, to a worker that is starting once it serves: it would end by it."""
        for process in self.processes:
            ready = process.wait_until_ready(self.config.timeout_worker_healthcheck, self.should_exit)
            if ready and process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGHUP)


def _admin(config: ProxyConfig) -> list[socket.socket]:
    """Open the admin port."""
    admin = config.admin
    if admin.port is None:
        return []
    family = socket.AF_INET6 if ":" in admin.host else socket.AF_INET
    opened = socket.create_server((admin.host, admin.port), family=family)
    opened.set_inheritable(True)
    return [opened]


def check_tls(serve: ServeConfig) -> None:
    """Make sure that the certificate and its key can be served with, before any process starts.

    Raises
    ------
    ConfigError
        When a file cannot be read, holds something else or is locked by a password, or the two do not
        belong together.
    """
    if serve.tls_certificate is None or serve.tls_key is None:
        return
    for key, path in (("tls_certificate", serve.tls_certificate), ("tls_key", serve.tls_key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"serve.{key} cannot be read: {path}: {error.strerror}.") from None
    try:
        # Without a password given here OpenSSL would ask the terminal for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(serve.tls_certificate, serve.tls_key, "")
    except ssl.SSLError as error:
        raise ConfigError(
            f"serve.tls_certificate and serve.tls_key do not belong together: {error.reason or error}.",
            hint="Both are PEM: the certificate with its chain, and its private key without a password.",
        ) from None


def settle_memory() -> None:
    """Look for cycles less often: an event of a stream is many small objects, and none of them is in one."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


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
        "timeout_worker_healthcheck": READY_SECONDS,
        "access_log": False,
        "date_header": False,
        "log_config": None,
        "proxy_headers": False,
        "server_header": False,
        "ws": "none",
    }
