"""A server of a few bytes, cut and split where a test says; a client that sees every byte."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.servers import Proxied, eventually
from tests.support.watching import EXIT

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PATHS = frozenset({CHAT, COMPLETIONS, "/tokenize"})

THOUGHT = ("n{n}.", " (Wait", ",", " no", ".")
"""Thinking, token by token; an exit in front of the cue cuts through the second."""

ANSWER = ("{n}", "}}.")
"""What the server says after the thinking, and after an exit."""

EXIT_IDS = [90, 91, 92]


def numbered(texts: tuple[str, ...], number: str) -> list[str]:
    """Return texts with a request's number in them."""
    return [text.format(n=number) for text in texts]


@dataclass
class Canned:
    """Answers as vLLM would, with the number of the request in every text.

    The header `x-fault` says what happens to which answer, as in `/v1/completions kill 30`: kill, split or
    hang after so many bytes of the body, -1 for in front of the head. `x-number` is the number.

    Attributes
    ----------
    framing : str
        "chunked"; "close": the end of the connection is the end of the body; or "kept": chunked, and the
        connection serves further requests.
    seen : Counter
        Requests by path.
    hung, left : Counter
        Answers that hang or have hung, and those of them that the other side closed, by path.
    bodies : dict
        The last body by path, with what frames it.
    open, connections : int
        Connections, and all that there have been.
    """

    framing: str = "chunked"
    seen: Counter[str] = field(default_factory=Counter)
    hung: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    bodies: dict[str, bytes] = field(default_factory=dict)
    open: int = 0
    connections: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        self.open += 1
        self.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer) and self.framing == "kept":
                    pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self.open -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; return whether all of the answer was given."""
        line, _, rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").partition("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (row.partition(":") for row in rest.split("\r\n"))}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = line.split(" ")[1]
        if path not in PATHS:
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return True
        self.seen[path] += 1
        fault, number = headers.get("x-fault", ""), headers.get("x-number", "0")
        where, _, what = fault.partition(" ")
        kind, place = what.split() if where == path else ("", "0")
        pieces = self.pieces(path, number, json.loads(body))
        await self._write(writer, reader, path, pieces, kind, int(place))
        return kind in ("", "split")

    def pieces(self, path: str, number: str, body: Mapping[str, Any]) -> list[bytes]:
        """Return the body of an answer, in the pieces of its framing."""
        if path == "/tokenize":
            return [json.dumps({"tokens": EXIT_IDS}).encode()]
        events = chat(number) if path == CHAT else continuation(number, body)
        if body.get("stream"):
            return [
                b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n" for event in events
            ] + [b"data: [DONE]\n\n"]
        return [json.dumps({"choices": []}).encode()]

    async def _write(
        self,
        writer: asyncio.StreamWriter,
        reader: asyncio.StreamReader,
        path: str,
        pieces: list[bytes],
        kind: str,
        place: int,
    ) -> None:
        sort = "application/json" if path == "/tokenize" else "text/event-stream"
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {sort}\r\n"
        head += "" if self.framing == "kept" else "connection: close\r\n"
        head += "\r\n" if self.framing == "close" else "transfer-encoding: chunked\r\n\r\n"
        if self.framing != "close":
            pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""]]
        whole = b"".join(pieces)
        self.bodies[path] = whole
        if kind and place < 0:
            if kind == "hang":
                await self._hang(reader, path)
            return
        writer.write(head.encode())
        if kind:
            writer.write(whole[:place])
            await writer.drain()
            if kind == "kill":
                return
            if kind == "hang":
                await self._hang(reader, path)
                return
            # So that the two pieces are read one by one.
            await asyncio.sleep(0.001)
            whole = whole[place:]
        writer.write(whole)
        await writer.drain()

    async def _hang(self, reader: asyncio.StreamReader, path: str) -> None:
        self.hung[path] += 1
        await reader.read()
        self.left[path] += 1


def chat(number: str) -> list[dict[str, Any]]:
    """Return the events of a chat."""
    events: list[dict[str, Any]] = [
        {"id": f"c{number}", "prompt_token_ids": [1, 2, 3],
         "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    ]  # fmt: skip
    for name, texts in (("reasoning", THOUGHT), ("content", ANSWER)):
        for place, text in enumerate(numbered(texts, number)):
            entry = {"token": text, "logprob": -0.5}
            entry["top_logprobs"] = [{"token": text, "logprob": -0.5}, {"token": "?", "logprob": -2}]
            choice = {
                "index": 0,
                "delta": {name: text},
                "logprobs": {"content": [entry]},
                "token_ids": [place],
            }
            events.append({"id": f"c{number}", "choices": [choice]})
    events.append({"id": f"c{number}", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    used = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
    return [*events, {"id": f"c{number}", "choices": [], "usage": used}]


def continuation(number: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a continuation."""
    choices: list[dict[str, Any]] = [{"index": 0, "text": text} for text in numbered(ANSWER, number)]
    choices.append({"index": 0, "text": "", "finish_reason": "stop"})
    prompt = len(body.get("prompt") or ())
    used = {"prompt_tokens": prompt, "completion_tokens": 3, "total_tokens": prompt + 3}
    return [*({"choices": [choice]} for choice in choices), {"choices": [], "usage": used}]


class Odd:
    """Streams a chat of its own making, as fast as it is let."""

    def __init__(self, *events: bytes, times: int = 1) -> None:
        self.events, self.times, self.written = events, times, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()
        if scope["path"] == "/tokenize":
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps({"tokens": EXIT_IDS}).encode()})
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        first, *between, last = self.events
        for event in (first, *between * self.times, last, b"[DONE]"):
            frame = b"data: " + event + b"\n\n"
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            self.written += len(frame)
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def canned(framing: str = "chunked") -> Iterator[tuple[str, Canned]]:
    """Serve one; give its address."""
    made = Canned(framing)
    ready, loop = threading.Event(), asyncio.new_event_loop()
    address: list[str] = []

    async def run() -> None:
        server = await asyncio.start_server(made, "127.0.0.1", 0, backlog=512)
        address.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        ready.set()
        async with server:
            with suppress(asyncio.CancelledError):
                await server.serve_forever()

    task: list[asyncio.Task[None]] = []

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(keep())

    async def keep() -> None:
        task.append(asyncio.ensure_future(run()))
        await task[0]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield address[0], made
    finally:
        loop.call_soon_threadsafe(task[0].cancel)
        thread.join(30)
        assert not thread.is_alive()


@dataclass(frozen=True)
class Got:
    """What a client has got.

    Attributes
    ----------
    status : int
        0 without an answer.
    events : list of dict
        Those that are whole, except the end.
    done : bool
        Whether the last event is `[DONE]`.
    ended : bool
        Whether the answer came to its own end, and not to that of the connection.
    """

    status: int
    events: list[dict[str, Any]]
    done: bool
    ended: bool

    @property
    def error(self) -> str | None:
        """Code of the error that was sent, if any."""
        sent = next((event["error"] for event in self.events if "error" in event), None)
        return None if sent is None else str(sent["code"])

    def said(self, name: str = "reasoning") -> str:
        """Return the text of a field."""
        choices = [choice for event in self.events for choice in event.get("choices") or ()]
        return "".join(choice["delta"].get(name) or "" for choice in choices)

    @property
    def finishes(self) -> list[str]:
        """All reasons to finish."""
        choices = [choice for event in self.events for choice in event.get("choices") or ()]
        return [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]


def requested(path: str, number: int, fault: str, body: Mapping[str, Any]) -> bytes:
    """Write a request."""
    given = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-number: {number:05}\r\n"
    return f"{head}x-fault: {fault}\r\ncontent-length: {len(given)}\r\n\r\n".encode() + given


async def ask(url: str, number: int = 0, fault: str = "", **more: Any) -> Got:
    """Ask for a streamed chat."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = {"model": "toy", "messages": [{"role": "user", "content": "?"}], "stream": True, **more}
    writer.write(requested(CHAT, number, fault, body))
    raw = b""
    try:
        with suppress(ConnectionError):
            while piece := await reader.read(2**16):
                raw += piece
    finally:
        writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return _got(raw)


def _got(raw: bytes) -> Got:
    head, _, rest = raw.partition(b"\r\n\r\n")
    if not head:
        return Got(0, [], False, False)
    status = int(head.split()[1])
    if b"chunked" not in head.lower():
        return Got(status, [json.loads(rest)], False, True)
    body, ended = b"", False
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if not size or (length := int(size, 16)) == 0:
            ended = bool(size)
            break
        body, rest = body + rest[:length], rest[length + 2 :]
    *events, tail = body.split(b"\n\n")
    # Comments are signs of life.
    found = [event.removeprefix(b"data: ") for event in events if not event.startswith(b":")]
    done = bool(found) and found[-1] == b"[DONE]"
    return Got(status, [json.loads(data) for data in found if data != b"[DONE]"], done, ended and not tail)


def left_over() -> tuple[int, int]:
    """Count the open files and the tasks of this process, in which all servers of a test run."""
    return len(os.listdir("/proc/self/fd")), sum(not task.done() for task in _tasks())


def _tasks() -> list[asyncio.Task[Any]]:
    """All tasks of all loops, as `asyncio.all_tasks` finds those of one."""
    known = getattr(asyncio.tasks, "_scheduled_tasks", None) or asyncio.tasks._all_tasks  # type: ignore[attr-defined]
    while True:
        with suppress(RuntimeError):  # another thread began a task
            return list(known)


def settled(proxy: Proxied, server: Canned, before: tuple[int, int]) -> None:
    """Wait until nothing of any request is left: requests, connections, open files, tasks."""
    eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
    eventually(lambda: server.open == 0)
    eventually(lambda: all(now <= then for now, then in zip(left_over(), before, strict=True)))


EXIT_BEFORE, EXIT_BEHIND = (part for part in EXIT.split("</think>"))
