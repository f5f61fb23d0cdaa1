"""A headless Chromium, driven through its debugging pipe; no further package is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def found() -> str | None:
    """Return the path of a Chromium on this machine, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab.

    Attributes
    ----------
    errors : list of str
        What its console has said of errors, and exceptions that nothing has caught.
    """

    def __init__(self, reads: IO[bytes], writes: IO[bytes]) -> None:
        self._in, self._out = reads, writes
        self._number = 0
        self.errors: list[str] = []
        target = self._send("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        attached = self._send("Target.attachToTarget", {"targetId": target, "flatten": True}, None)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the debugging protocol."""
        return self._send(method, parameters, self._session)

    def open(self, url: str, *, width: int, height: int, dark: bool) -> None:
        """Show an address in a window of this size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """Return what a JavaScript expression, or a promise, comes to."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write what is shown as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _send(self, method: str, parameters: Any, session: str | None) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self._note(found)

    def _read(self) -> Any:
        read = bytearray()
        while (byte := self._in.read(1)) not in (b"\0", b""):
            read += byte
        assert byte, "Chromium has ended"
        return json.loads(read)

    def _note(self, event: Any) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(str(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning"):
                self.errors.append(str(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.errors.append(str(parameters["entry"]))


@contextmanager
def page(folder: Path) -> Iterator[Page]:
    """Run a Chromium with its profile in a folder; give its tab."""
    program = found()
    assert program is not None
    reads, their_writes = os.pipe()
    their_reads, writes = os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    line = [program, *flags, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
    shell = f'exec "$@" 3<&{their_reads} 4>&{their_writes}'
    # Its descriptors are to be 3 and 4.
    process = subprocess.Popen(
        ["bash", "-c", shell, "chromium", *line],
        pass_fds=(their_reads, their_writes),
        stderr=subprocess.DEVNULL,
    )
    os.close(their_reads)
    os.close(their_writes)
    try:
        with os.fdopen(reads, "rb") as answers, os.fdopen(writes, "wb", buffering=0) as calls:
            yield Page(answers, calls)
    finally:
        process.kill()
        process.wait()
