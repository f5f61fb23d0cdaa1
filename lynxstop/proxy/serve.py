"""Run the proxy with uvicorn, in one process or several."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import ssl
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvicorn

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.served import served_as
from lynxstop.errors import ConfigError
from lynxstop.extras import need
from lynxstop.proxy import logs
from lynxstop.proxy.app import App, Draining, create_app
from lynxstop.proxy.background import Background
from lynxstop.proxy.chat_routes import ChatRoutes
from lynxstop.proxy.config import ProxyConfig, ServeConfig
from lynxstop.proxy.metrics import Metrics, forget_the_dead
from lynxstop.proxy.monitoring import Monitoring, grader_of
from lynxstop.proxy.operators import Operators
from lynxstop.proxy.request_options import check_levels
from lynxstop.proxy.routes import routes
from lynxstop.proxy.running import Running
from lynxstop.proxy.service import Services
from lynxstop.proxy.shadow import ShadowRecorder
from lynxstop.proxy.sources import load
from lynxstop.remote.http.upstream import Upstream

KEEPALIVE_SECONDS = 75
"""Idle connections of clients live longer than those of usual load balancers (60 s), which then never meet
one that has just been closed."""

_VARIABLE = "_LYNXSTOP_PROXY"


def build(config: ProxyConfig) -> App:
    """Make the app that `lynxstop proxy` serves.

    Raises
    ------
    LynxstopError
        When the bundle cannot be loaded, or a level of the configuration is not certified.
    """
    metrics = Metrics()
    upstream = Upstream(config.upstream, hide_keys=bool(config.serve.api_keys))
    bundle = None if config.policy.bundle is None else Bundle.load(config.policy.bundle)
    services = Services(
        bundle, config.upstream.dialect, timedelta(days=config.policy.grace_days), config.upstream.model
    )
    check_levels(config.policy, services.policy)
    risk = config.policy.risk or (bundle and bundle.policy.default_risk)
    metrics.risk_target.set(risk if isinstance(risk, float) else 0.0)
    shadow = None
    if config.record.folder is not None:
        if bundle is None:
            raise ConfigError("Recording needs a bundle.", hint="Give --bundle, or leave --record out.")
        need("sympy", "calibrate")
        shadow = ShadowRecorder(
            config.record.folder,
            redact=config.record.redact,
            answer_tokens=bundle.policy.sampling.answer_tokens,
            on_done=lambda outcome: metrics.recorded.labels(outcome).inc(),
            served=served_as(bundle.policy),
            grader=grader_of(config.monitor.grader, bundle.policy.grader),
        )

    beside = Background(config, services, upstream, metrics, shadow)
    monitoring = Monitoring.of(config, metrics, services)
    running, by_chat = Running(), ChatRoutes()
    return create_app(
        config,
        routes(
            config,
            upstream,
            metrics,
            services,
            shadow,
            running,
            by_chat,
            live=monitoring.live,
            auditor=monitoring.auditor,
        ),
        upstream=upstream,
        metrics=metrics,
        checks=beside.checks,
        startup=beside.begin,
        draining=draining(beside.end, None if monitoring.live is None else monitoring.live.drain),
        notices={} if monitoring.auditor is None else {"monitor": monitoring.notice},
        own=Operators(config, metrics, services, running, by_chat).routes,
        facts=beside.facts,
    )


def draining(*works: Draining | None) -> Draining:
    """Make what finishes all background work at the same time."""

    async def drain() -> None:
        await asyncio.gather(*(work() for work in works if work is not None))

    return drain


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
    settle_memory()
    # It may stand in for one that was killed.
    forget_the_dead()
    return build(load(given["path"] and Path(given["path"]), given["flags"]).config)


def check_tls(serve: ServeConfig) -> None:
    """Make sure that the certificate and its key can be served with, before any process starts.

    Raises
    ------
    ConfigError
        When a file cannot be read, holds something else or is locked by a password, or the two are no pair.
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
            f"serve.tls_certificate and serve.tls_key are no pair to serve with: {error.reason or error}.",
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
        "access_log": False,
        "date_header": False,
        "log_config": None,
        "proxy_headers": False,
        "server_header": False,
        "ws": "none",
    }
