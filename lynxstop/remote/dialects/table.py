"""All dialects by name, and which one a server speaks."""

from __future__ import annotations

from collections.abc import Mapping

from lynxstop.errors import ConfigError
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.server import Server

DIALECTS: Mapping[str, type[Dialect]] = {"vllm": Vllm}
"""A new kind of server is one file and one row here."""


async def choose(name: str, server: Server) -> Dialect:
    """Return the dialect of this name; "auto" asks the server.

    Raises
    ------
    ConfigError
        When there is no such dialect.
    UpstreamError
        When the server cannot be reached.
    """
    if name == "auto":
        name = await detect(server)
    if name not in DIALECTS:
        raise ConfigError(f"There is no dialect {name!r}.", hint=f"There are: auto, {', '.join(DIALECTS)}.")
    return DIALECTS[name]()


async def detect(server: Server) -> str:
    """Tell what kind of server answers."""
    models = await server.call("/v1/models")
    owners = {str(entry.get("owned_by")) for entry in models.get("data") or ()}
    return "vllm" if "vllm" in owners else "openai"
