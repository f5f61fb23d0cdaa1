"""Forward requests that the proxy does not handle: bytes both ways, unchanged."""

from __future__ import annotations

from lynxstop.proxy.exchange import Handler, Incoming, Reply
from lynxstop.remote.http.headers import for_client, for_relay
from lynxstop.remote.http.upstream import Upstream


def relay(upstream: Upstream) -> Handler:
    """Make the handler that passes a request on and its answer back, while they arrive.

    Bodies are neither kept nor unpacked; both ways wait for the slower side.
    """

    async def handle(incoming: Incoming, reply: Reply) -> None:
        content = incoming.chunks() if incoming.has_body else None
        async with upstream.stream(
            incoming.method, incoming.raw_path, for_relay(incoming.headers), content, query=incoming.query
        ) as response:
            await reply.start(response.status, for_client(response.headers))
            async for chunk in response.chunks():
                await reply.send(chunk)
        await reply.end()

    return handle
