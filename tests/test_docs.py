"""Commands in the documents exist as written, and links lead somewhere."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from lynxstop.cli import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUP: Any = typer.main.get_command(app)


def commands(text: str) -> list[str]:
    """Lines of shell blocks that call lynxstop, comments cut, continued lines joined."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").split("  #")[0].strip() for line in lines if "lynxstop " in line]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_parse(path: Path) -> None:
    for line in commands(path.read_text()):
        words = shlex.split(line)
        if words[0] != "lynxstop":
            continue
        end = next((i for i, word in enumerate(words) if word in {">", "|", "&", "&&"}), len(words))
        name, arguments = words[1], words[2:end]
        GROUP.commands[name].make_context(name, list(arguments))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if not re.match(r"\w+:", target):
            assert (path.parent / target).exists(), target


def test_the_tree_in_the_readme_is_the_real_one() -> None:
    tree = re.search(r"## What is where\n```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert tree is not None
    shown = set(re.findall(r"^  (\w+)/", tree.group(1), flags=re.MULTILINE))
    packages = {path.parent.name for path in (ROOT / "lynxstop").glob("*/__init__.py")}

    assert shown == packages
