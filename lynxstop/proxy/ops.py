"""The endpoints for operators: /health, /ready, /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import orjson
from prometheus_client import CONTENT_TYPE_LATEST

from lynxstop.errors import LynxstopError
from lynxstop.proxy.exchange import Handler, Incoming, Reply
from lynxstop.proxy.metrics import Metrics
from lynxstop.remote.http.upstream import Upstream

Check = Callable[[], Awaitable[str | None]]
"""A condition of being ready: None when it holds, else what is wrong, in one sentence without secrets."""

CHECK_SECONDS = 5.0
"""Longest time of one check."""


Facts = Callable[[], Mapping[str, object]]
"""What /ready says beside its checks."""


def routes(
    metrics: Metrics,
    checks: Mapping[str, Check],
    notices: Mapping[str, Check] | None = None,
    facts: Facts | None = None,
    *,
    any_of: bool = False,
) -> dict[tuple[str, str], Handler]:
    """Make the handlers of the proxy's own paths.

    What a notice says does not make the proxy unready. With `any_of`, each check is about another backend:
    one that fails does not take the others out of service.
    """

    async def health(incoming: Incoming, reply: Reply) -> None:
        await _json(reply, 200, {"status": "ok"})

    async def ready(incoming: Incoming, reply: Reply) -> None:
        shown = await checked(checks)
        good = (any if any_of else all)(said == "ok" for said in shown.values())
        status: dict[str, object] = {"status": "ready" if good else "not ready", "checks": shown}
        if notices:
            status["notices"] = {name: await _run(check) or "ok" for name, check in notices.items()}
        await _json(reply, 200 if good else 503, status | dict(facts() if facts else {}))

    async def show(incoming: Incoming, reply: Reply) -> None:
        await reply.start(200, [(b"content-type", CONTENT_TYPE_LATEST.encode())])
        await reply.end(metrics.render())

    return {("GET", "/health"): health, ("GET", "/ready"): ready, ("GET", "/metrics"): show}


def reachable(upstream: Upstream) -> Check:
    """Make the check that the server answers; any answer but a failure of its own will do."""

    async def check() -> str | None:
        async with upstream.stream("GET", "/v1/models") as response:
            await response.read()
            return f"The server answers with status {response.status}." if response.status >= 500 else None

    return check


async def checked(checks: Mapping[str, Check]) -> dict[str, str]:
    """Run checks side by side; say what is wrong, or "ok"."""
    found = await asyncio.gather(*map(_run, checks.values()))
    return {name: trouble or "ok" for name, trouble in zip(checks, found, strict=True)}


def together(checks: Mapping[str, Check]) -> Check:
    """Make one check of several: the first trouble counts."""

    async def check() -> str | None:
        found = await asyncio.gather(*map(_run, checks.values()))
        return next((trouble for trouble in found if trouble), None)

    return check


async def _run(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except LynxstopError as error:
        return str(error)
    except TimeoutError:
        return f"No answer within {CHECK_SECONDS:g} seconds."


async def _json(reply: Reply, status: int, content: Mapping[str, object]) -> None:
    body = orjson.dumps(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await reply.start(status, [*headers, (b"cache-control", b"no-store")])
    await reply.end(body)
