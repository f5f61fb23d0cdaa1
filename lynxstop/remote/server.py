"""What a session needs from a server; `lynxstop.remote.http.connection.Connection` implements it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from lynxstop.remote.http.sse import Bursts


class Server(Protocol):
    """One server, with the headers of one client."""

    async def call(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask for a JSON document: by POST with a body, by GET without.

        Raises
        ------
        UpstreamError
            When the server cannot be reached, or answers with an error or something other than JSON.
        """
        ...

    async def text(self, path: str) -> bytes:
        """Ask for a text by GET; empty when the server has none.

        Raises
        ------
        UpstreamError
            When the server cannot be reached.
        """
        ...

    def events(self, path: str, body: Mapping[str, Any]) -> AbstractAsyncContextManager[Bursts]:
        """Stream the data of server-sent events, in the bursts in which they come.

        Leaving the context closes the connection.

        Raises
        ------
        UpstreamError
            When the server cannot be reached, answers with an error, or dies in the middle.
        """
        ...


def listed_models(answer: Any) -> dict[str, Mapping[str, Any]]:
    """Return the models that an answer of /v1/models lists, by name and in order; none where it is odd."""
    entries = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        return {}
    return {str(entry["id"]): entry for entry in entries if isinstance(entry, dict) and "id" in entry}
