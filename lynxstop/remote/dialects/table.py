"""All dialects by name, and which one a server speaks."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from lynxstop.errors import ConfigError, UpstreamError
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.dialects.llamacpp import LlamaCpp
from lynxstop.remote.dialects.ollama import Ollama
from lynxstop.remote.dialects.openai import OpenAI
from lynxstop.remote.dialects.sglang import SGLang
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.server import Server

DIALECTS: Mapping[str, type[Dialect]] = {
    "vllm": Vllm,
    "sglang": SGLang,
    "llamacpp": LlamaCpp,
    "ollama": Ollama,
    "openai": OpenAI,
}
"""A new kind of server is one file and one row here."""

_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp"}
_SIGNS = (
    ("/props", "default_generation_settings", "llamacpp"),
    ("/api/version", "version", "ollama"),
    ("/get_server_info", "version", "sglang"),
)
"""Paths that only one kind of server answers, and a key of the answer."""


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
    """Tell what kind of server answers: by who owns its models, else by what it alone can be asked.

    Raises
    ------
    UpstreamError
        When the server cannot be reached, or lists no models.
    """
    models = await server.call("/v1/models")
    if not isinstance(models, dict):
        raise UpstreamError("The server does not list its models.", code="upstream_nonsense")
    owners = {str(entry.get("owned_by")) for entry in models.get("data") or ()}
    for owner, name in _OWNERS.items():
        if owner in owners:
            return name
    for path, key, name in _SIGNS:
        if key in await _document(server, path):
            return name
    return "openai"


async def version(server: Server, name: str) -> str | None:
    """Return what a server of this dialect says of its version; None when it says nothing."""
    places = {
        "vllm": ("/version", "version"),
        "sglang": ("/get_server_info", "version"),
        "llamacpp": ("/props", "build_info"),
        "ollama": ("/api/version", "version"),
    }
    if name not in places:
        return None
    path, key = places[name]
    found = (await _document(server, path)).get(key)
    return None if found is None else str(found)


async def _document(server: Server, path: str) -> Mapping[str, object]:
    """A JSON object; empty when the server has none there."""
    try:
        found = orjson.loads(await server.text(path) or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
