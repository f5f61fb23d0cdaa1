"""The paths for people and agents who run the proxy: its page, its state as JSON, and answer now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import orjson

from lynxstop.errors import RequestError
from lynxstop.proxy import failures
from lynxstop.proxy.app import OPERATORS
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.exchange import Handler, Incoming, Reply
from lynxstop.proxy.gate import require_key
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.running import Running
from lynxstop.proxy.status import ShownBackend, status

PAGE = "/lynxstop"
RELOAD = "/lynxstop/reload"

_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Operators:
    """Answers the paths below /lynxstop.

    Where `admin.api_keys` names keys, or else `serve.api_keys`, all need one of them, except the page itself:
    it has no data, and asks for the key.

    Parameters
    ----------
    config : ProxyConfig
    metrics : Metrics
    parts : sequence of ShownBackend
        The backends.
    running : Running
    reload : callable, optional
        Reads the configuration again; returns what came of it.
    """

    def __init__(
        self,
        config: ProxyConfig,
        metrics: Metrics,
        parts: Sequence[ShownBackend],
        running: Running,
        reload: Callable[[], Awaitable[Mapping[str, Any]]] | None = None,
    ) -> None:
        self._config, self._metrics, self._parts = config, metrics, parts
        self._running, self._reload = running, reload

    @property
    def routes(self) -> dict[tuple[str, str], Handler]:
        """The handlers by method and path; a path that ends in a slash stands for all that begin so."""
        return {("GET", PAGE): self._page, ("GET", OPERATORS): self._api, ("POST", OPERATORS): self._api}

    async def _page(self, incoming: Incoming, reply: Reply) -> None:
        body = files("lynxstop.proxy").joinpath("page.html").read_bytes()
        headers = [(b"content-security-policy", _POLICY), (b"x-content-type-options", b"nosniff")]
        await _send(reply, 200, body, b"text/html; charset=utf-8", headers)

    async def _api(self, incoming: Incoming, reply: Reply) -> None:
        try:
            require_key(incoming, self._config.admin.api_keys or self._config.serve.api_keys)
            if self._reload is not None and (incoming.method, incoming.path) == ("POST", RELOAD):
                code, found = 200, await self._reload()
            else:
                code, found = self._answer(incoming)
        except RequestError as error:
            await failures.answer(reply, error)
        else:
            await _send(reply, code, orjson.dumps(found), b"application/json")

    def _answer(self, incoming: Incoming) -> tuple[int, Mapping[str, Any]]:
        match incoming.method, incoming.path.removeprefix(OPERATORS).split("/"):
            case "GET", ["status"]:
                return 200, status(self._config, self._metrics, self._parts, self._running)
            case "GET", ["requests"]:
                return 200, {"requests": self._running.listed()}
            case "POST", ["requests", id, "answer"]:
                return 202, self._running.answer_now(id)
            case _:
                raise RequestError(
                    "The proxy has no such path.",
                    status=404,
                    code="not_found",
                    hint="It has GET /lynxstop, /lynxstop/status and /lynxstop/requests, "
                    "and POST /lynxstop/requests/ID/answer and /lynxstop/reload.",
                )


async def _send(
    reply: Reply, code: int, body: bytes, kind: bytes, more: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await reply.start(code, [*headers, (b"cache-control", b"no-store"), *(more or [])])
    await reply.end(body)
