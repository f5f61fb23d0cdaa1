"""Commands in the documents exist as written, and links lead somewhere."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from lynxstop.cli import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GROUP: Any = typer.main.get_command(app)


def commands(text: str) -> list[str]:
    """Lines of blocks that call lynxstop, comments cut, continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").split("  #")[0].strip() for line in lines if "lynxstop " in line]


def anchors(text: str) -> set[str]:
    """Names under which the headings of a document are reached."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_parse(path: Path) -> None:
    for line in commands(path.read_text()):
        if not line.startswith("lynxstop "):
            continue
        words = shlex.split(line)
        end = next((i for i, word in enumerate(words) if word in {">", "|", "&", "&&"}), len(words))
        name, arguments = words[1], words[2:end]
        GROUP.commands[name].make_context(name, list(arguments))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_in_running_text_exist(path: Path) -> None:
    for said in re.findall(r"(?<!`)`lynxstop ([^`]+)`", path.read_text().replace("\n", " ")):
        name, *words = said.split()
        command = GROUP.commands[name]
        if getattr(command, "commands", None):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert command.context_settings.get("ignore_unknown_options") or options <= known, said


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", path.read_text()):
        if not re.match(r"\w+:", target):
            found = path.parent / target if target else path
            assert found.exists(), target
            assert not anchor or anchor in anchors(found.read_text()), f"{target}#{anchor}"


def test_the_tree_in_the_readme_is_the_real_one() -> None:
    tree = re.search(r"## What is where\n```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert tree is not None
    shown = set(re.findall(r"^  (\w+)/", tree.group(1), flags=re.MULTILINE))
    packages = {path.parent.name for path in (ROOT / "lynxstop").glob("*/__init__.py")}

    assert shown == packages
