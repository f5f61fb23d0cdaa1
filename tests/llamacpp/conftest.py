"""llama.cpp's real server with the shipped model; built once from source, which takes minutes, and kept."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLOTS = 4
CONTEXT = 2048
NO_COMPILER = 3

# The proxy's own tests serve it in the same way.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and "llama_program" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
            # The first test waits for the build.
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def llama_program() -> Path:
    """Build llama.cpp's server, or find it built."""
    line = [str(ROOT / "scripts" / "llama_server"), sys.executable]
    built = subprocess.run(line, capture_output=True, text=True)
    if built.returncode == NO_COMPILER:
        pytest.skip(f"NOT TESTED AGAINST LLAMA.CPP: {built.stderr.strip()}")
    if built.returncode:
        pytest.fail(built.stderr)
    return Path(built.stdout.strip())


@pytest.fixture(scope="session")
def reasoner_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the shipped model."""
    if importlib.util.find_spec("gguf") is None:
        pytest.fail("The package gguf is missing: run make test-slow, or install the group dev.")
    path = tmp_path_factory.mktemp("gguf") / "reasoner.gguf"
    subprocess.run([sys.executable, str(ROOT / "scripts" / "reasoner_gguf.py"), str(path)], check=True)
    return path


@pytest.fixture(scope="session")
def start_llama(
    llama_program: Path, reasoner_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractContextManager[str]]:
    """Start a server with further options: `with start_llama("--reasoning-format", "none") as url`."""

    @contextmanager
    def start(*options: str) -> Iterator[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        line = [
            str(llama_program), "--model", str(reasoner_gguf), "--alias", "reasoner", "--host", "127.0.0.1",
            "--port", str(port), "--ctx-size", str(SLOTS * CONTEXT), "--parallel", str(SLOTS),
            "--threads", "1", "--threads-http", "8", "--metrics", "--slots", "--offline", "--no-warmup",
            *options,
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
        with (tmp_path_factory.mktemp("llama") / "log").open("w+") as log:
            process = subprocess.Popen(line, stdout=log, stderr=log, env=environment)
            try:
                url = f"http://127.0.0.1:{port}"
                _wait(url, process, log.name)
                yield url
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    return start


def _wait(url: str, process: subprocess.Popen[bytes], log: str) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=10):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    pytest.fail(f"llama.cpp's server did not start: {Path(log).read_text()[-3000:]}")


@pytest.fixture(scope="session")
def llama_server(start_llama: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    """Base URL of a server with its defaults, four slots of the model's whole context."""
    with start_llama() as url:
        yield url
