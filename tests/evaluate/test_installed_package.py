"""Signals and rules of another distribution, installed by pip, are known to the commands."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "extending.md"
EMBEDDED = """
from functools import partial

import numpy as np

from lynxstop.rules.baselines.puma import Puma
from lynxstop.signals.embedding import EmbeddingRedundancy


def embed(tokens):
    return np.bincount(np.asarray(tokens) % 16, minlength=16).astype(np.float32)


step_cosine = partial(EmbeddingRedundancy, embed, least=1)


class EmbeddedPuma(Puma):
    name = "puma-embedded"


calm = Calm()
puma = EmbeddedPuma(key="step_cosine", least=0)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install the example of the documents, with a signal on an embedder, away from this environment."""
    blocks = re.findall(r"```(python|toml)\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    place = [language for language, _ in blocks].index("toml")
    code, toml = blocks[place - 1][1], blocks[place][1]
    groups = toml.replace("project.entry-points.", "").replace('"', "").split("  #")[0]
    signals, rules = groups.split("[lynxstop.rules]")
    entry_points = (
        f"{signals}step_cosine = my_package:step_cosine\n[lynxstop.rules]{rules}\n"
        "puma-embedded = my_package:puma\n"
    )
    folder = tmp_path_factory.mktemp("installed")
    wheel = folder / "my_package-1-py3-none-any.whl"
    info = "my_package-1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("my_package.py", code + EMBEDDED)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/entry_points.txt", entry_points)
        archive.writestr(f"{info}/RECORD", "")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def test_evaluate_compares_installed_rules(installed, scripted):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lynxstop.cli", "evaluate", scripted.path),
            *("--rules", "calm,puma-embedded,budget", "--risk", "0.4", "--json"),
        ],
        env=os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    rows = {row["rule"]: row for row in json.loads(done.stdout)["rules"]}
    assert rows.keys() >= {"calm", "puma-embedded", "budget"}
    assert rows["puma-embedded"]["needs"] == "trial"
    # the steps of these traces are all alike, so redundancy proposes and trials are taken
    assert rows["puma-embedded"]["published"]["trials"] > 0


def test_without_the_package_its_rules_are_unknown(scripted):
    done = subprocess.run(
        [sys.executable, "-m", "lynxstop.cli", "evaluate", scripted.path, "--rules", "calm"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "There is no rule 'calm'." in done.stderr
