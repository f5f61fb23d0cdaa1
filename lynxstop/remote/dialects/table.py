"""All dialects by name, and which one fits a server."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from lynxstop.errors import ConfigError, UpstreamError
from lynxstop.remote.dialects.base import Dialect, Place
from lynxstop.remote.dialects.llamacpp import LlamaCpp
from lynxstop.remote.dialects.ollama import Ollama
from lynxstop.remote.dialects.openai import OpenAI
from lynxstop.remote.dialects.sglang import SGLang
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.server import Server, listed_models

DIALECTS: Mapping[str, type[Dialect]] = {kind.name: kind for kind in (Vllm, SGLang, LlamaCpp, Ollama, OpenAI)}
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
    """Find out what kind of server answers: by who owns its models, else by a place that only it has.

    Raises
    ------
    UpstreamError
        When the server cannot be reached, or lists no models.
    """
    models = await server.call("/v1/models")
    if not isinstance(models, dict):
        raise UpstreamError("The server does not list its models.", code="upstream_nonsense")
    owners = {str(entry.get("owned_by")) for entry in listed_models(models).values()}
    for name, kind in DIALECTS.items():
        if kind.facts.owner in owners:
            return name
    for name, kind in DIALECTS.items():
        if kind.facts.sign is not None and await _look_up(server, kind.facts.sign) is not None:
            return name
    return OpenAI.name


async def version(server: Server, dialect: Dialect) -> str | None:
    """Return the version of a server of this kind; None when it has none to say."""
    place = dialect.facts.version
    found = None if place is None else await _look_up(server, place)
    return None if found is None else str(found)


async def _look_up(server: Server, place: Place) -> object:
    """Return what a server has at a place; None when it has nothing there."""
    path, key = place
    try:
        found = orjson.loads(await server.text(path) or b"{}")
    except orjson.JSONDecodeError:
        return None
    return found.get(key) if isinstance(found, dict) else None
