"""How to reach a server."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, SecretStr

_ROUTES = ("/completions", "/messages", "/responses", "/models")


def _server(url: str) -> str:
    """Check a server's address; a trailing /v1 is dropped, since paths bring it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("must be an address like http://127.0.0.1:8000")
    if "@" in parts.netloc:
        raise ValueError("must not have a name or a password; the server is shown upstream.api_key")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or a fragment")
    if parts.path.rstrip("/").endswith(_ROUTES):
        raise ValueError("must be the address of the server, without a route such as /v1/chat/completions")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _word(key: SecretStr) -> SecretStr:
    """Check a key; an empty one would be that of every client."""
    text = key.get_secret_value()
    if not text or not text.isprintable() or text != text.strip():
        raise ValueError("must be a key, neither empty nor with blanks or line ends around it")
    return key


Key = Annotated[SecretStr, AfterValidator(_word)]
"""What somebody shows, or signs with."""


class Section(BaseModel):
    """A section of lynxstop.toml; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ConnectionConfig(Section):
    """A server's address, key and timeouts."""

    url: Annotated[str, AfterValidator(_server)] = Field(
        default="http://127.0.0.1:8000", description="Address of the server, with or without /v1."
    )
    api_key: Key | None = Field(
        default=None, description="Key shown to the server; none: the client's own goes on."
    )
    connect_seconds: PositiveFloat = Field(default=10.0, description="Time to connect.")
    read_seconds: PositiveFloat | None = Field(
        default=None, description="Longest silence of the server; none: it may think as long as it likes."
    )
    transport: Literal["auto", "httpx", "aiohttp"] = Field(
        default="auto", description="HTTP client; auto takes aiohttp where it is installed (extra fast)."
    )
