"""Memory stays flat in the number of traces, while recording and when the data is opened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MOST_GROWTH = 24.0


def measure(out, traces):
    script = Path(__file__).parents[1] / "support" / "memory.py"
    done = subprocess.run(
        [sys.executable, script, out, str(traces)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_ten_times_the_traces_take_no_more_memory(tmp_path):
    # given data sets of 13 and 130 MB, recorded in shards of 2 MB
    small, large = measure(tmp_path / "small", 200), measure(tmp_path / "large", 2000)
    print(small, large)
    assert large["size"] - small["size"] > 4 * MOST_GROWTH
    # then neither recording nor opening, checking and reading the larger one takes much more
    assert large["recorded"] - small["recorded"] < MOST_GROWTH
    assert large["opened"] - small["opened"] < MOST_GROWTH
