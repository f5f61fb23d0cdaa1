"""Count packages for the comparison in docs/architecture.md: `python scripts/package_size.py FOLDER ...`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import grimp


def in_cycles(package: str) -> int:
    """Return how many modules import themselves through others, imports inside functions included."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    return sum(
        any(
            module == other or module in graph.find_upstream_modules(other)
            for other in graph.find_modules_directly_imported_by(module)
        )
        for module in graph.modules
    )


def public(init: Path) -> set[str]:
    """Return the names in `__all__`; without one, those that the file imports or defines."""
    names: set[str] = set()
    for node in ast.parse(init.read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return set(ast.literal_eval(value))
            case ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases}
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
    return {name for name in names if not name.startswith("_")}


def main() -> None:
    """Print one row per package folder."""
    print("| package | files | lines | largest file | modules in import cycles | public names, top level |")
    print("|---|---|---|---|---|---|")
    for folder in map(Path, sys.argv[1:]):
        sys.path.insert(0, str(folder.parent.resolve()))
        lines = {path: len(path.read_text().splitlines()) for path in folder.rglob("*.py")}
        largest = max(lines, key=lambda path: lines[path])
        print(
            f"| {folder.name} | {len(lines)} | {sum(lines.values()):,}"
            f" | {largest.relative_to(folder)} {lines[largest]:,}"
            f" | {in_cycles(folder.name)} | {len(public(folder / '__init__.py'))} |"
        )


if __name__ == "__main__":
    main()
