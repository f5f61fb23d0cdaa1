"""Settings of all tests."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Time limits per example say more about the machine's load than about the code.
settings.register_profile("lynxstop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lynxstop")

TESTS = Path(__file__).parent
ENGINES = ("vllm", "proxy/test_vllm.py")
"""Where vLLM runs: one engine at a time fits in the memory of a small computer."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one worker of pytest-xdist, and all tests of vLLM on the same one."""
    for item in items:
        if not item.path.is_relative_to(TESTS):
            continue
        place = item.path.relative_to(TESTS)
        vllm = any(place.is_relative_to(engine) for engine in ENGINES)
        item.add_marker(pytest.mark.xdist_group("vllm" if vllm else place.as_posix()))
