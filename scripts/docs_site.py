"""Hooks of mkdocs: the README is the home page; files outside docs/ that pages link to come with the site."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
HOME = "README.md"
PAGES = ("cli/reference.md", "CONTRIBUTING.md")
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the README, the pages of the navigation outside docs/, and every file that a page links to."""
    for path in (HOME, *PAGES):
        _add(files, config, path)
    pages = list(files.documentation_pages())
    while pages:
        page = pages.pop()
        for target in LINK.findall(page.content_string):
            path = _source(page, target)
            if (ROOT / path).is_file() and files.get_file_from_path(_uri(path)) is None:
                added = _add(files, config, path)
                pages += [added] if added.is_documentation_page() else []
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at where the files lie in the site, and write pipes in code as mkdocs wants them."""
    here = page.file
    folder = os.path.dirname(here.src_uri) or "."
    markdown = re.sub(r"`[^`\n]*`", lambda code: code[0].replace(r"\|", "|"), markdown)
    return LINK.sub(lambda link: os.path.relpath(_uri(_source(here, link[1])), folder), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Drop the second colon that docstrings put before literal blocks."""
    return html.replace("<p>::</p>\n", "").replace("::</p>", ":</p>")


def _add(files: Files, config: Any, path: str) -> File:
    file = File.generated(config, _uri(path), abs_src_path=str(ROOT / path))
    files.append(file)
    return file


def _source(file: File, target: str) -> str:
    """Return the path in the repository of what a page links to."""
    source = Path(str(file.abs_src_path)).resolve().relative_to(ROOT)
    return os.path.normpath(source.parent / target)


def _uri(path: str) -> str:
    """Return the path in the site of a file of the repository."""
    return "index.md" if path == HOME else path.removeprefix("docs/")
