"""The page for operators in a real browser: light and dark, wide and narrow, without an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.proxy.test_tools import stream
from tests.support import browser
from tests.support.servers import eventually, serving
from tests.support.watching import watching

NEEDED = "document.querySelectorAll('#decisions tbody tr').length"
WIDE = "document.documentElement.scrollWidth"
DARK = {"name": "prefers-color-scheme", "value": "dark"}
CUT = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth).length"
OVERLAPPING = """(() => {
  const texts = [...document.querySelectorAll("body *")]
    .filter((one) => !one.children.length && one.innerText?.trim() && one.offsetParent);
  const boxes = texts.map((one) => one.getBoundingClientRect());
  const within = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
  return texts.filter((_, i) => boxes.some((box, j) => j < i && within(box, boxes[i])))
    .map((one) => one.innerText);
})()"""
BACK = "getComputedStyle(document.body).backgroundColor"


@pytest.mark.slow
@pytest.mark.skipif(browser.found() is None, reason="NOT TESTED IN A BROWSER: install chromium.")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    backs = []
    with (
        serving(MockServer(MockSettings(opened=True))) as url,
        watching(url) as proxy,
        browser.page(tmp_path) as page,
    ):
        for _ in range(3):
            stream(proxy.url)
        stream(proxy.url, frequency_penalty=1)
        for dark in (False, True):
            for width in (1280, 360):
                page.open(f"{proxy.url}/lynxstop", width=width, height=900, dark=dark)
                eventually(lambda: page.value(NEEDED) == 3)
                assert page.value(WIDE) <= width, f"the page is wider than {width} px"
                assert page.value(OVERLAPPING) == []
                backs.append(page.value(BACK))
        # On paper it is dark on white in both schemes, and nothing is cut off.
        page.open(f"{proxy.url}/lynxstop", width=720, height=1000, dark=True)
        eventually(lambda: page.value(NEEDED) == 3)
        page.call("Emulation.setEmulatedMedia", media="print", features=[DARK])
        assert page.value("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
        assert page.value(CUT) == 0
        # Everything that it says of counts is there, in words.
        text = page.value("document.body.innerText")
        assert "penalties" in text
        assert page.errors == []
    assert len(set(backs)) == 2
