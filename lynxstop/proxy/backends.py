"""Which server answers a request: by its model, where there are several."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from lynxstop.errors import RequestError, UpstreamError
from lynxstop.proxy.exchange import Handler, Incoming, Reply
from lynxstop.proxy.freshness import ANSWER_SECONDS
from lynxstop.proxy.relay import relay
from lynxstop.remote.http.connection import Connection
from lynxstop.remote.http.upstream import Upstream
from lynxstop.remote.server import listed_models

DEFAULT = "default"
"""Name of the backend that [upstream] and [policy] describe."""

MODELS = "/v1/models"

Key = tuple[str, str]
"""A method and a path."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One server, and what answers the requests for its models.

    Parameters
    ----------
    upstream : Upstream
    handlers : mapping from (method, path) to handler
        All other requests are relayed.
    name : str
        In logs and metrics.
    takes : callable, optional
        Says whether a model is one of its own; by default all are that no other backend takes.
    """

    upstream: Upstream
    handlers: Mapping[Key, Handler]
    name: str = DEFAULT
    takes: Callable[[str], bool] | None = None
    relay: Handler = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "relay", relay(self.upstream))


class Backends:
    """The servers that one proxy is in front of.

    Parameters
    ----------
    backends : sequence of Backend
        The first that takes a model answers; what names no model goes to the last if it takes all others,
        else to the first.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.all = tuple(backends)
        self._rest = next((one for one in self.all if one.takes is None), None)
        self._paths = {key for one in self.all for key in one.handlers}

    @property
    def several(self) -> bool:
        """Whether a request's model has to be known."""
        return len(self.all) > 1

    async def of(self, incoming: Incoming, read: Callable[[Incoming], Awaitable[None]]) -> Backend:
        """Return the backend of a request; its body is read only where there are several.

        Raises
        ------
        RequestError
            When no backend has the model (404), or no model is named where one is needed (400).
        """
        if not self.several:
            return self.all[0]
        needed = (incoming.method, incoming.path) in self._paths
        if needed or "json" in (incoming.header("content-type") or ""):
            await read(incoming)
            body = incoming.object() if incoming.readable else None
            model = None if body is None else body.get("model")
            if isinstance(model, str):
                found = self.named(model)
            elif needed and self._rest is None:
                raise RequestError("The request names no model.", hint=self._known())
            else:
                found = self._rest or self.all[0]
        elif incoming.method == "GET" and incoming.path.startswith(MODELS + "/"):
            found = self.named(incoming.path[len(MODELS) + 1 :])
        else:
            found = self._rest or self.all[0]
        incoming.notes["backend"] = found.name
        return found

    def named(self, model: str) -> Backend:
        """Return the backend of a model.

        Raises
        ------
        RequestError
            When none has it.
        """
        found = next((one for one in self.all if one.takes is not None and one.takes(model)), self._rest)
        if found is None:
            raise RequestError(
                "No backend has this model.", status=404, code="model_not_found", hint=self._known()
            )
        return found

    async def models(self, incoming: Incoming, reply: Reply) -> None:
        """List the models of all backends that answer, each once.

        Raises
        ------
        UpstreamError
            When none answers.
        """
        answers = await asyncio.gather(
            *(_listing(one.upstream, incoming) for one in self.all), return_exceptions=True
        )
        found: dict[str, Mapping[str, object]] = {}
        for backend, answer in zip(self.all, answers, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, UpstreamError):
                    raise answer
                continue
            for name, entry in listed_models(answer).items():
                if backend is (self._rest if backend.takes is None else self.named(name)):
                    found.setdefault(name, entry)
        failed = [answer for answer in answers if isinstance(answer, UpstreamError)]
        if len(failed) == len(answers):
            raise failed[0]
        body = orjson.dumps({"object": "list", "data": list(found.values())})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await reply.start(200, headers)
        await reply.end(body)

    def _known(self) -> str:
        return f"Backends of this proxy: {', '.join(one.name for one in self.all)}. GET {MODELS} lists all."


async def _listing(upstream: Upstream, incoming: Incoming) -> object:
    """Return what a server lists; one that takes too long has failed."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await Connection(upstream, incoming.headers).call(MODELS)
    except TimeoutError:
        raise UpstreamError(
            "The server does not list its models.", code="upstream_timeout", status=504
        ) from None
