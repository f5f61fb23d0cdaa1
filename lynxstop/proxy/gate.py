"""Admission: targets, API keys, and how many requests at a time."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from pydantic import SecretStr

from lynxstop.errors import RequestError
from lynxstop.proxy.config import LimitsConfig
from lynxstop.proxy.exchange import Incoming

RETRY_AFTER = 1
"""Seconds after which a refused client may try again."""


class Gate:
    """Limits how many requests run at a time, and how many wait.

    Attributes
    ----------
    active, waiting : int
        Requests that run, and in the queue.
    """

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._places = asyncio.Semaphore(limits.concurrent)
        self.active = self.waiting = 0

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Hold a place while the block runs.

        Raises
        ------
        RequestError
            503, when the queue is full or the turn does not come in time.
        """
        if self._places.locked():
            await self._wait()
        else:
            await self._places.acquire()
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            self._places.release()

    async def _wait(self) -> None:
        if self.waiting >= self._limits.queue:
            raise _busy()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._limits.queue_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self.waiting -= 1


def require_key(incoming: Incoming, keys: Sequence[SecretStr]) -> None:
    """Check the client's key, as `Authorization: Bearer` or `x-api-key`, in constant time.

    Before a request to another origin, browsers ask without a key whether they may send it (CORS): the server
    answers that.

    Raises
    ------
    RequestError
        401, when keys are required and the client's is none of them.
    """
    asks = incoming.method == "OPTIONS" and incoming.header("access-control-request-method") is not None
    if not keys or asks:
        return
    scheme, _, shown = (incoming.header("authorization") or "").partition(" ")
    if scheme.lower() != "bearer":
        shown = incoming.header("x-api-key") or ""
    given = shown.strip().encode("latin-1")
    matches = [hmac.compare_digest(given, key.get_secret_value().encode()) for key in keys]
    if not any(matches):
        raise RequestError(
            "The API key is missing or wrong.",
            status=401,
            code="invalid_api_key",
            hint="Send a key of this proxy as 'Authorization: Bearer KEY'.",
        )


def require_path(incoming: Incoming) -> None:
    """Check that a request is for a path: after the server's address, `*@host/` would name another server.

    Raises
    ------
    RequestError
        400, when it is not, as with `OPTIONS *`.
    """
    if not incoming.raw_path.startswith(b"/"):
        raise RequestError("The request's target is not a path.", code="bad_target")


def _busy() -> RequestError:
    return RequestError(
        "Too many requests at a time.",
        status=503,
        kind="overloaded_error",
        code="overloaded",
        hint="Try again later.",
        retry_after=RETRY_AFTER,
    )
