"""A mock server, and a proxy that watches in front of it."""

from collections.abc import Iterator

import pytest

from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.servers import Proxied, serving
from tests.support.watching import watching


@pytest.fixture(scope="module")
def mock() -> Iterator[tuple[str, MockServer]]:
    server = MockServer(MockSettings(opened=True))
    with serving(server) as url:
        yield url, server


@pytest.fixture(scope="module")
def proxy(mock: tuple[str, MockServer]) -> Iterator[Proxied]:
    with watching(mock[0]) as made:
        yield made
