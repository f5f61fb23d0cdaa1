"""The wheel, installed away from the checkout, carries the shipped model, bundle and problems."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, *pip[1:], "install", wheel], check=True)

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
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    help_text = subprocess.run(
        [tmp_path / "env" / "bin" / "lynxstop", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.startswith("5 5 ")
    assert str(ROOT) not in done.stdout
    assert help_text.returncode == 2
    assert "pip install 'lynxstop[" in help_text.stderr
