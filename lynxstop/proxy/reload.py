"""Read the configuration and the bundles again without a lost request.

Each request ends under the configuration that it began under. What cannot be served is refused, and the old
configuration is kept.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lynxstop.errors import ConfigError, LynxstopError, RequestError
from lynxstop.proxy.app import App, lifespan
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.exchange import Message, Receive, Send
from lynxstop.proxy.logs import logger
from lynxstop.proxy.sources import keys, show

FIXED = ("serve.host", "serve.port", "serve.workers", "serve.tls_certificate", "serve.tls_key", "serve.otel",
         "admin.host", "admin.port")  # fmt: skip
"""Keys of what is open while the proxy runs."""


_early: list[int] = []


def hold_signals() -> None:
    """Keep a signal to reload until an app listens to it: it would end the process."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda number, _: _early.append(number))


class Reloading:
    """An ASGI app: the newest of several proxies, of which the older ones finish their requests.

    Parameters
    ----------
    app : App
    again : callable
        Reads the sources, and makes the next proxy from them, if it may follow a configuration; runs in a
        thread. See `require_same`.
    spread : callable, optional
        Asks the other workers to reload.

    Attributes
    ----------
    app : App
        What answers new requests.
    """

    def __init__(
        self, app: App, again: Callable[[ProxyConfig], App], spread: Callable[[], None] | None = None
    ) -> None:
        self.app = app
        self._again, self._spread = again, spread
        self._under_way: Counter[App] = Counter()
        self._free = asyncio.Condition()
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's life cycle."""
        if scope["type"] == "lifespan":
            await lifespan(receive, send, self._begin, self._end)
            return
        app = self.app
        self._under_way[app] += 1
        try:
            await app(scope, receive, send)
        finally:
            self._under_way[app] -= 1
            if app is not self.app:
                async with self._free:
                    self._free.notify_all()

    async def reload(self) -> dict[str, Any]:
        """Serve by what the sources say now.

        Returns
        -------
        dict
            `state`, and the checks of /ready as they are under the new configuration.

        Raises
        ------
        RequestError
            When that cannot be served; the old configuration is kept (409).
        """
        async with self._lock:
            try:
                made = await asyncio.to_thread(self._again, self.app.config)
                await made.begin()
            except (LynxstopError, OSError) as error:
                self.app.metrics.reloads.labels("refused").inc()
                logger.error("reload_refused", extra={"fields": {"trouble": str(error)}})
                raise RequestError(
                    f"The new configuration is refused, and the old one kept: {str(error).rstrip('.')}.",
                    status=409,
                    code="reload_refused",
                    hint=getattr(error, "hint", None),
                ) from None
            # Its servers are examined before it serves.
            try:
                checks = await made.checked()
            except BaseException:
                await made.end()
                raise
            old, self.app = self.app, made
            made.metrics.forget_backends([one.name for one in made.backends.all])
            made.metrics.reloads.labels("done").inc()
            logger.info("reloaded", extra={"fields": {"checks": checks}})
            self._start(self._retire(old))
        return {"state": "reloaded", "checks": checks}

    async def ask(self) -> dict[str, Any]:
        """Reload, and have all other workers do so.

        Raises
        ------
        RequestError
            As `reload` does; then no other worker is asked.
        """
        found = await self.reload()
        if self._spread is not None:
            self._spread()
            found["state"] = "reloaded; the other workers were asked"
        return found

    def _on_signal(self) -> None:
        async def reload() -> None:
            with suppress(RequestError):  # logged and counted
                await self.reload()

        self._start(reload())

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _retire(self, old: App) -> None:
        """End an app after its last request."""
        await old.settle()
        async with self._free:
            await self._free.wait_for(lambda: not self._under_way[old])
        await old.settle()
        await old.end()
        del self._under_way[old]

    async def _begin(self) -> None:
        await self.app.begin()
        with suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):
            # Not on Windows, nor outside of the main thread.
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_signal)
        if _early:
            self._on_signal()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Those that were not retired yet have connections, too.
        await asyncio.gather(*(app.end() for app in {*self._under_way, self.app}))
        self.app.metrics.close()


def require_same(old: ProxyConfig, new: ProxyConfig) -> None:
    """Refuse a configuration that changes what is open already.

    Raises
    ------
    ConfigError
        When it does.
    """
    for key, _ in keys():
        if key in FIXED and show(old, key) != show(new, key):
            raise ConfigError(f"{key} cannot change while the proxy runs.", hint="Restart it for that.")
