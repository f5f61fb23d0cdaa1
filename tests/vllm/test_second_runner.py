"""The second model runner on this CPU: the tests of the first, under Triton's interpreter, in a process of
their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None or importlib.util.find_spec("triton") is None,
        reason="vLLM or Triton is not installed",
    ),
    pytest.mark.timeout(1800),
]


@pytest.mark.parametrize("file", ["test_runner.py", "test_life.py", "test_rules.py", "test_speculation.py"])
def test_the_second_runner_passes_the_tests_of_the_first(file: str) -> None:
    # given Triton's interpreter behind a backend of our own, and the second runner asked for
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(HERE / "interpreter"), os.environ.get("PYTHONPATH")])
        ),
        "TRITON_INTERPRET": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "1",
    }
    # when the first runner's tests run there
    line = [sys.executable, "-m", "pytest", str(HERE / file), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, cwd=HERE.parents[1])
    # then they pass
    assert done.returncode == 0, done.stdout[-3000:]
