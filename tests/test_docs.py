"""Commands in the documents exist as written, links lead somewhere, and every page is in the site."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import typer.main

from lynxstop.calibration.losses import LOSSES, loss_names
from lynxstop.calibration.methods import METHODS
from lynxstop.cli import app
from lynxstop.remote.dialects.table import DIALECTS
from lynxstop.rules.table import RULES
from lynxstop.signals.table import SIGNALS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GROUP: Any = typer.main.get_command(app)


def name(path: Path) -> str:
    """The name of a document's tests."""
    return path.relative_to(ROOT).as_posix()


def commands(text: str) -> list[str]:
    """Lines of blocks that call lynxstop, comments cut, continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").split("  #")[0].strip() for line in lines if "lynxstop " in line]


def anchors(text: str) -> set[str]:
    """Names under which the headings of a document are reached."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_parse(path: Path) -> None:
    for line in commands(path.read_text()):
        if not line.startswith("lynxstop "):
            continue
        words = shlex.split(line)
        end = next((i for i, word in enumerate(words) if word in {">", "|", "&", "&&"}), len(words))
        GROUP.commands[words[1]].make_context(words[1], words[2:end])


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_and_options_in_running_text_exist(path: Path) -> None:
    for said in re.findall(r"(?<!`)`lynxstop ([^`]+)`", path.read_text().replace("\n", " ")):
        first, *words = said.split()
        command = GROUP.commands[first]
        if getattr(command, "commands", None):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert command.context_settings.get("ignore_unknown_options") or options <= known, said


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_named_in_running_text_exist(path: Path) -> None:
    for file in re.findall(r"`((?:\w+/)+[a-z_]+\.py)`", path.read_text()):
        assert (ROOT / file).exists() or (ROOT / "lynxstop" / file).exists(), file


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_dotted_names_in_running_text_exist(path: Path) -> None:
    for dotted in re.findall(r"`(lynxstop(?:_research)?(?:\.\w+)+)`", path.read_text()):
        module, _, last = dotted.rpartition(".")
        file = ROOT / (dotted.replace(".", "/") + ".py")
        source = ROOT / (module.replace(".", "/") + ".py")
        assert (
            file.exists()
            or file.with_suffix("").is_dir()
            or dotted == "lynxstop.toml"
            or re.search(rf"^(def|class) {last}\b", source.read_text(), flags=re.MULTILINE)
        ), dotted


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
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


def test_every_page_is_in_the_navigation_once() -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    outside = ["index.md", "cli/reference.md", "CONTRIBUTING.md"]

    assert sorted(re.findall(r"^ +- (\S+\.md)$", site, flags=re.MULTILINE)) == sorted(pages + outside)
    assert "\nstrict: true\n" in site


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_lists_and_tables_follow_a_blank_line(path: Path) -> None:
    """GitHub shows them without one; the site does not."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        if re.match(r"- |1\. ", line):
            assert not before or re.match(r"- | |#", before), line
        if line.startswith("|") and not before.startswith("|"):
            assert not before or before.startswith(("<!--", "#")), line


def test_the_api_page_names_what_exists() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    entries = re.findall(r"^::: (\S+)(?:\n    options: \{members: \[(.*)\]\})?$", text, flags=re.MULTILINE)

    assert len(entries) == len(re.findall("^:::", text, flags=re.MULTILINE))
    for module, members in entries:
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        source = Path(str(spec.origin)).read_text()
        defined = {getattr(node, "name", None) for node in ast.parse(source).body}
        assert set(re.findall(r"\w+", members)) <= defined, module


def test_the_glossary_is_short_and_sorted() -> None:
    terms = re.findall(r"^\| (.*?) \|", (ROOT / "docs" / "glossary.md").read_text(), flags=re.MULTILINE)[1:]

    assert terms == sorted(terms)
    assert len(terms) <= 40


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("guarantee.md", LOSSES),
        ("guarantee.md", METHODS),
        ("signals.md", SIGNALS),
        ("signals.md", RULES),
        ("proxy/servers.md", DIALECTS),
    ],
    ids=["losses", "methods", "signals", "rules", "dialects"],
)
def test_every_row_of_the_code_has_a_row_in_the_docs(page: str, names: Collection[str]) -> None:
    rows = re.findall(r"^\| (`.*?) \| ", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE)
    described = set(re.findall(r"`([^`:]+)[^`]*`", "\n".join(rows).replace(r"\|", "|")))

    assert set(names) <= described


@pytest.mark.parametrize(
    ("command", "option", "names"),
    [
        ("calibrate", "loss", LOSSES),
        ("calibrate", "method", METHODS),
        ("evaluate", "loss", loss_names(selective=False)),
    ],
)
def test_help_lists_what_can_be_chosen(command: str, option: str, names: Collection[str]) -> None:
    # the command line names them by itself, so that it starts without the tables, and without numpy
    said = next(found.help for found in GROUP.commands[command].params if found.name == option)

    assert set(names) <= set(re.split(r",? or |, |\.", said))


def test_the_command_line_starts_without_numpy() -> None:
    code = "import sys, lynxstop.cli; print({'numpy', 'asyncio', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_every_metric_of_the_proxy_is_described() -> None:
    described = (ROOT / "docs" / "proxy" / "operations.md").read_text()
    defined = set(re.findall(r'"(lynxstop_\w+)"', (ROOT / "lynxstop" / "proxy" / "metrics.py").read_text()))

    assert defined
    assert {name for name in defined if not re.search(rf"`{name}(_total)?[`{{]", described)} == set()


def test_the_readme_has_the_figures_of_the_benchmarks() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    sections = {
        command: section
        for section in page.split("\n## ")
        for command in re.findall(r"^`(.*?)`", section, re.M)
    }
    rows = re.findall(
        r"^\| .* \| (.*) \| `(python benchmarks/[^`]*)` \|$", (ROOT / "README.md").read_text(), re.M
    )
    assert len(rows) > 2
    for measured, command in rows:
        missing = (
            set(re.findall(r"\d[\d.]*", measured)) - set(re.findall(r"\d[\d.]*", sections[command])) - {"95"}
        )
        assert not missing, measured
