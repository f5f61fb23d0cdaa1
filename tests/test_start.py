"""The ten-minute page works as written: each of its ways in is run in a shell, or in Python."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.proxy.test_reload import free_port

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "start.md").read_text()
SERVERS = ("serve", "mock-upstream", "proxy")
FUNCTIONS = r"""
set -e
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
WORK=$(mktemp -d)
await() {
  until curl -sf -o /dev/null "127.0.0.1:$1/v1/models"; do kill -0 $! || exit 9; sleep 0.2; done
}
ask() {
  name=$(curl -sf "127.0.0.1:$1/v1/models" | grep -o '"id": *"[^"]*"' | head -1 | cut -d'"' -f4)
  content="Solve x mod 11: x a. * 5 b. + 3 gives 9"
  curl -sf "127.0.0.1:$1/v1/chat/completions" -H 'content-type: application/json' \
    -d "{\"model\": \"$name\", \"messages\": [{\"role\": \"user\", \"content\": \"$content\"}]}"
}
"""


def section(heading: str, language: str) -> str:
    """The code below a heading."""
    found = re.search(rf"^## {heading}\n.*?^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    return found[1]


def shell(code: str, ask: bool = False) -> tuple[str, str]:
    """Run lines of the page; of servers each is waited for, and the last one asked. Return both outputs."""
    setup = re.search(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert setup is not None
    ports = {port: str(free_port()) for port in ("8000", "8400")}
    lines = []
    for line in [*setup[1].splitlines(), *code.splitlines()]:
        line = re.sub("|".join(ports), lambda found: ports[found[0]], line.split("  #")[0].rstrip())
        if line.startswith("pip "):
            continue
        if line.split()[:1] == ["lynxstop"] and line.split()[1] in SERVERS:
            last = re.findall(r"--port (\d+)", line)[-1]
            lines += [line.removesuffix(" &") + " > $WORK/$RANDOM.log 2>&1 &", f"await {last}"]
        else:
            lines.append(line)
    if ask:
        lines.append(f"ask {last}")
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", "\n".join([FUNCTIONS, *lines])], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_on_the_command_line_one_stops_and_the_other_thinks_to_the_end() -> None:
    _, said = shell(section("On the command line", "sh"))
    stopped = re.search(r"Stopped after (\d+) thinking tokens", said)
    full = re.search(r"Thought to the end: (\d+) thinking tokens", said)
    assert stopped is not None
    assert full is not None
    assert int(stopped[1]) < int(full[1])


def test_in_front_of_a_server() -> None:
    answer, examined = shell(section("In front of a server", "sh"), ask=True)
    assert "from token ids: verified" in examined
    assert json.loads(answer)["choices"][0]["message"]["content"]


def test_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(section("In Python", "python"), "docs/start.md", "exec"), {})
    assert "boxed" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_inside_vllm() -> None:
    answer = json.loads(shell(section("Inside vLLM", "sh"), ask=True)[0])
    assert "boxed" in answer["choices"][0]["message"]["content"]
