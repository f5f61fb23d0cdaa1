"""The mock server as an ASGI app."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque

from lynxstop.errors import RequestError
from lynxstop.proxy import failures
from lynxstop.proxy.exchange import Incoming, Message, Receive, Reply, Send
from lynxstop.testing.body import LENGTH, checked
from lynxstop.testing.delivery import (
    InjectedFault,
    Record,
    hang_up,
    produce,
    send_json,
    send_stream,
    send_whole,
)
from lynxstop.testing.reasoner import ASSISTANT, complete, formed, render
from lynxstop.testing.settings import MockSettings
from lynxstop.testing.tokens import MockVocabulary, weigh
from lynxstop.testing.wire import Json, Run, Wire

BODY_BYTES = 64 * 2**20
MOST_TOKENS = 2**16
"""Tokens of all choices of one request."""

KEPT_BYTES = 2**16
"""Largest body that /stats shows."""


class MockServer:
    """An ASGI app.

    Parameters
    ----------
    settings : MockSettings
        For requests whose header `x-mock` says nothing else.
    model : str
        Name of the model.

    Attributes
    ----------
    records : deque of Record
        The last thousand requests to the two generating paths; DELETE /stats empties it.
    """

    def __init__(self, settings: MockSettings | None = None, model: str = "toy") -> None:
        self.settings = settings or MockSettings()
        self.model = model
        self.records: deque[Record] = deque(maxlen=1000)
        self.vocabulary = MockVocabulary()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        if scope["type"] != "http":
            return
        incoming, reply = Incoming(scope, receive), Reply(send)
        record = Record(incoming.path)
        work = asyncio.create_task(self._serve(incoming, reply, record))
        client = asyncio.create_task(incoming.listen())
        try:
            await asyncio.wait((work, client), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                record.outcome = "aborted"
            elif isinstance(work.exception(), InjectedFault):
                hang_up(send)
                await client
            else:
                work.result()
        finally:
            work.cancel()
            client.cancel()
            await asyncio.gather(work, client, return_exceptions=True)

    async def _serve(self, incoming: Incoming, reply: Reply, record: Record) -> None:
        try:
            await incoming.read(BODY_BYTES)
            match incoming.method, incoming.path:
                case "POST", "/v1/chat/completions" | "/v1/completions":
                    self.records.append(record)
                    await self._generate(incoming, reply, record)
                case "GET", "/v1/models":
                    listed: Json = {
                        "id": self.model,
                        "object": "model",
                        "created": 0,
                        "owned_by": "lynxstop-mock",
                    }
                    listed["max_model_len"] = LENGTH
                    await send_json(reply, {"object": "list", "data": [listed]})
                case "POST", "/tokenize":
                    ids = self._prompt(checked(incoming.json()), opened=self.settings.opened)
                    await send_json(reply, {"count": len(ids), "max_model_len": LENGTH, "tokens": ids})
                case "POST", "/detokenize":
                    await send_json(
                        reply,
                        {"prompt": self.vocabulary.decode(checked(incoming.json()).get("tokens") or [])},
                    )
                case "GET", "/stats":
                    await send_json(reply, self.stats())
                case "DELETE", "/stats":
                    self.records.clear()
                    await send_json(reply, self.stats())
                case "GET", "/health":
                    await send_json(reply, {"status": "ok"})
                case _:
                    raise RequestError("Not found.", status=404)
        except RequestError as error:
            record.outcome = "refused"
            await failures.answer(reply, error)
        except InjectedFault:
            record.outcome = "failed"
            raise

    def stats(self) -> Json:
        """Count the requests by outcome, and show each."""
        shown = [
            {"path": r.path, "tokens": r.tokens, "outcome": r.outcome, "body": r.body} for r in self.records
        ]
        outcomes = [record.outcome for record in self.records]
        counts = {
            name: outcomes.count(name) for name in ("active", "completed", "aborted", "failed", "refused")
        }
        tokens = sum(record.tokens for record in self.records)
        return {"requests": len(shown), **counts, "tokens": tokens, "recent": shown}

    async def _generate(self, incoming: Incoming, reply: Reply, record: Record) -> None:
        settings = self.settings.with_header(incoming.header("x-mock"))
        body = checked(incoming.json())
        record.body = body if len(incoming.body) <= KEPT_BYTES else {}
        chat = incoming.path.startswith("/v1/chat")
        _check(body, settings, chat)
        if settings.fault.startswith("status-"):
            raise RequestError("A fault was asked for.", status=int(settings.fault[7:]), kind="mock_fault")
        if settings.fault == "before-headers":
            raise InjectedFault
        wire, runs = self._plan(body, settings, chat)
        tokens = produce(runs, record, settings)
        if not body.get("stream"):
            await send_whole(reply, wire, runs, tokens, settings)
        else:
            options = body.get("stream_options") or {}
            await send_stream(reply, wire, runs, tokens, settings, usage=bool(options.get("include_usage")))
        record.outcome = "completed"

    def _plan(self, body: Json, settings: MockSettings, chat: bool) -> tuple[Wire, list[Run]]:
        """Decide all that will be said."""
        prompt = self._prompt(body, opened=settings.opened)
        text = self.vocabulary.decode(prompt)
        top: int | None = None
        asked = body.get("logprobs")
        # In completions 0 asks for the token's own.
        if settings.logprobs and asked is not None and asked is not False:
            top = body.get("top_logprobs") or 0 if chat else int(asked)
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        runs = []
        for index in range(body.get("n") or 1):
            seed = int(body.get("seed") or 0) + index
            said = complete(text, seed, settings.checks)
            if (body.get("response_format") or {}).get("type") == "json_schema":
                said = formed(text, said)
            cut = _stop_at(said, body.get("stop"))
            finish = "stop"
            tokens = weigh(text.rpartition(ASSISTANT)[2], said[:cut], seed, rivals=bool(top))
            if chat and body.get("tools") and body.get("tool_choice") != "none":
                tokens, finish = [token for token in tokens if token.part != "answer"], "tool_calls"
            if limit is not None and len(tokens) > limit:
                tokens, finish = tokens[:limit], "length"
            runs.append(Run(index, tokens, finish))
            if sum(len(run.tokens) for run in runs) > MOST_TOKENS:
                raise RequestError(f"The choices would have more than {MOST_TOKENS} tokens together.")
        wire = Wire(
            id=("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex,
            model=self.model,
            created=int(time.time()),
            chat=chat,
            reasoning=settings.reasoning,
            top=top,
            ids=bool(body.get("return_token_ids")),
            vocabulary=self.vocabulary,
            prompt=prompt,
        )
        return wire, runs

    def _prompt(self, body: Json, *, opened: bool = False) -> list[int]:
        if body.get("messages") is not None:
            resume = bool(body.get("continue_final_message"))
            generate = bool(body.get("add_generation_prompt", True))
            rendered = render(body["messages"], generate=generate, opened=opened, resume=resume)
            return self.vocabulary.encode(rendered)
        prompt = body.get("prompt") or ""
        return prompt if isinstance(prompt, list) else self.vocabulary.encode(prompt)


def _check(body: Json, settings: MockSettings, chat: bool) -> None:
    """Refuse what a real server refuses.

    Raises
    ------
    RequestError
    """
    if not chat and not settings.completions:
        raise RequestError("Not found.", status=404)
    if body.get("messages" if chat else "prompt") is None:
        raise RequestError("The messages or the prompt are missing.")
    if body.get("continue_final_message"):
        if not settings.resume:
            raise RequestError("continue_final_message is not known.")
        if body.get("add_generation_prompt", True):
            raise RequestError("continue_final_message and add_generation_prompt exclude each other.")


def _stop_at(text: str, stop: str | list[str] | None) -> int:
    """Return where a text ends: before the first of the stop strings."""
    strings = [stop] if isinstance(stop, str) else stop or []
    places = [text.find(string) for string in strings if string in text]
    return min(places, default=len(text))


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
