"""Every benchmark runs: small, so that its figures say nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_benchmark_runs(tmp_path: Path) -> None:
    found, page = tmp_path / "bench.json", tmp_path / "benchmarks.md"
    line = ["benchmarks/bench.py", "--quick", "--runs", "1", "--json", str(found), "--page", str(page)]
    subprocess.run([sys.executable, *line], cwd=ROOT, check=False, capture_output=True)

    results = json.loads(found.read_text())["results"]
    assert len(results) > 10
    assert [one["command"] for one in results if one["failed"]] == []
    assert all(one["title"] in page.read_text() for one in results)
