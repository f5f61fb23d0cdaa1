"""Traces and forced exits through any OpenAI-compatible server, as the proxy will serve it."""

from lynxstop.extras import need

for _package in ("httpx", "msgspec", "orjson"):
    need(_package, "proxy")
