"""The package as a whole: what it exports, what importing it costs, what it must not contain."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lynxstop

ROOT = Path(lynxstop.__file__).parent
MODULES = {path.stem for path in ROOT.iterdir()}


def test_every_public_name_is_exported_and_documented() -> None:
    public = {name for name in vars(lynxstop) if not name.startswith("_") and name not in MODULES}

    assert public - {"TYPE_CHECKING"} <= set(lynxstop.__all__)
    assert list(lynxstop.__all__) == sorted(lynxstop.__all__)
    assert set(lynxstop.__all__) <= set(dir(lynxstop))
    for name in lynxstop.__all__:
        found = getattr(lynxstop, name)
        assert name == "__version__" or (found.__doc__ and found.__name__.endswith(name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lynxstop.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_types_of_public_names_are_those_of_their_modules() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    known = {
        alias.asname or alias.name: f"{node.module}:{alias.name}" if alias.asname else node.module
        for branch in tree.body
        if isinstance(branch, ast.If) and isinstance(branch.test, ast.Name)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert known == {name: f"lynxstop.{home}" for name, home in lynxstop._HOMES.items()}


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, lynxstop; print(' '.join(sys.modules))"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"torch", "transformers", "sklearn", "scipy", "mapie", "pyarrow", "pydantic", "typer"} & set(
        loaded
    )


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_nothing_is_ever_unpickled() -> None:
    for path in ROOT.rglob("*.py"):
        assert not imports(path) & {"pickle", "joblib", "cloudpickle", "dill", "shelve"}, path
        assert not re.search(r"allow_pickle|torch\.load\(", path.read_text()), path


def test_the_core_is_pure() -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "lynxstop"} - {"time", "socket", "asyncio", "threading"}
    for path in (ROOT / "core").glob("*.py"):
        assert imports(path) <= allowed, path
        text = path.read_text()
        assert "open(" not in text.replace("opens(", "").replace("reopen(", ""), path


def test_engine_libraries_are_imported_only_in_their_folder() -> None:
    for path in ROOT.rglob("*.py"):
        if path.is_relative_to(ROOT / "engines"):
            continue
        # Wide probes are trained by torch; serving one never needs it.
        allowed = {"torch"} if path.name.startswith("torch_") else set()
        assert not imports(path) & {"torch", "transformers", "vllm"} - allowed, path


WITHOUT_A_SERVER = """
import pkgutil, sys
import lynxstop

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"httpx", "msgspec", "orjson", "prometheus_client", "uvicorn"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
try:
    import transformers.modeling_utils
except ModuleNotFoundError:  # some versions look for a server's packages
    print("transformers")
for found in pkgutil.walk_packages(lynxstop.__path__, "lynxstop.", onerror=lambda name: None):
    if found.name.startswith("lynxstop.engines.vllm") or found.name.endswith("__main__"):
        continue
    try:
        __import__(found.name)
    except (ModuleNotFoundError, lynxstop.errors.MissingExtraError):
        print(found.name)
"""


def test_only_what_speaks_http_needs_the_extra_for_servers() -> None:
    """Certifying a model in a folder is installed without it, and no dependency brings these by chance."""
    code = "import lynxstop.errors\n" + WITHOUT_A_SERVER
    missed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    homes = ("lynxstop.proxy", "lynxstop.remote", "lynxstop.engines.openai", "lynxstop.testing")
    assert "lynxstop.engines.openai" in missed
    if "transformers" in missed:
        pytest.skip("this version of transformers imports packages of servers where they are installed")
    assert [name for name in missed if not name.startswith(homes)] == []
