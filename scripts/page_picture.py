"""Write docs/proxy/page.png: the page for operators after a real run with the mock server, in Chromium."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lynxstop.testing.server import MockServer  # noqa: E402
from lynxstop.testing.settings import MockSettings  # noqa: E402
from tests.proxy.test_tools import stream  # noqa: E402
from tests.support import browser  # noqa: E402
from tests.support.servers import serving  # noqa: E402
from tests.support.watching import watching  # noqa: E402

TARGET = ROOT / "docs" / "proxy" / "page.png"
QUESTIONS = [f"What is {one} + {two} * 2 - 3?" for one in range(3, 9) for two in range(2, 6)]


def main() -> None:
    """Ask the questions through a proxy, and take the picture."""
    if browser.found() is None:
        sys.exit("There is no Chromium: apt-get install chromium.")
    with (
        serving(MockServer(MockSettings(opened=True))) as url,
        watching(url, -13.7) as proxy,
        tempfile.TemporaryDirectory() as folder,
        browser.page(Path(folder)) as page,
    ):
        for number, question in enumerate(QUESTIONS):
            penalty = {"frequency_penalty": 1} if number % 8 == 7 else {}
            stream(proxy.url, messages=[{"role": "user", "content": question}], **penalty)
        # As `lynxstop proxy` sets it by the bundle; the rule here is written by hand.
        proxy.app.metrics.risk_target.set(0.05)
        page.open(f"{proxy.url}/lynxstop", width=1100, height=900, dark=False)
        time.sleep(3)
        page.picture(TARGET)
    print(f"{TARGET}: {TARGET.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
