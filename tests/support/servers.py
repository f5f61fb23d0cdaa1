"""Real servers on loopback, each in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from lynxstop.proxy.app import App, create_app
from lynxstop.proxy.config import ProxyConfig


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """Serve an ASGI app; give its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    settings: dict[str, Any] = {"log_level": "critical", "date_header": False, "server_header": False}
    server = uvicorn.Server(uvicorn.Config(app, ws="none", **(settings | options)))
    started = threading.Event()
    startup = server.startup

    async def tell(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = tell  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive(), "the server did not end"


@contextmanager
def proxied(address: str, app: App | None = None, **sections: Any) -> Iterator[Proxied]:
    """Serve the proxy in front of an address; `sections` are those of the configuration."""
    sections["upstream"] = {"url": address, **sections.get("upstream", {})}
    made = create_app(ProxyConfig.model_validate(sections)) if app is None else app
    with serving(made, proxy_headers=False) as url:
        yield Proxied(url, made)


@dataclass(frozen=True)
class Proxied:
    """A proxy that serves.

    Attributes
    ----------
    url : str
    app : App
    """

    url: str
    app: App

    def count(self, name: str, **labels: str) -> float:
        """Return the value of a metric; 0 when it has not been counted."""
        return self.app.metrics.registry.get_sample_value(name, labels) or 0.0


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, for two minutes at most."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


def program(*words: str, without: Sequence[str] = ()) -> list[str]:
    """Return a command line of lynxstop, run as if some packages were not installed."""
    missing = f"import sys; sys.modules.update(dict.fromkeys({tuple(without)}))"
    code = f"{missing}; from lynxstop.cli import main; main()"
    return [sys.executable, "-c", code, *words]


@contextmanager
def command(
    *words: str, without: Sequence[str] = (), **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str, list[Any]]]:
    """Run `lynxstop proxy` on a free port; give its process, its address and the log lines so far."""
    line = program("proxy", "--port", "0", *words, without=without)
    environment = {**os.environ, **variables}
    process = subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    lines: list[Any] = []
    assert process.stderr is not None
    stream = process.stderr
    reader = threading.Thread(target=lambda: lines.extend(json.loads(text) for text in stream), daemon=True)
    try:
        # Read up to the line that names the port, the rest beside the test.
        while (found := re.search(r"running on (https?://[\d.:]+)", text := stream.readline())) is None:
            assert text, "the command ended"
        reader.start()
        yield process, found[1], lines
    finally:
        # Its workers too: they hold the other end of the pipe.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if reader.ident is not None:
            reader.join(10)
        stream.close()


def children(parent: int) -> list[int]:
    """Processes of a server that serve, in the order in which they were started."""
    found = []
    for one in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
        # one that was killed may be gone by now
        with suppress(FileNotFoundError):
            if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes():
                found.append(one)
    return found
