"""`lynxstop pull`: download a bundle from the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json


def pull(
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hugging Face Hub, OWNER/NAME.")],
    bundle: Annotated[Path, typer.Argument(help="Folder to put the bundle into.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    json: Json = False,
) -> None:
    """Download a bundle, check it, and only then put it in place.

    `lynxstop verify` then recomputes its certificates; `lynxstop inspect --model` tells whether it belongs to
    a model.

    **Examples**

    - `lynxstop pull me/my-bundle bundle`

    - `lynxstop pull me/my-bundle bundle --revision v1 --json`
    """
    from lynxstop.artifacts import hub
    from lynxstop.cli._checks import check_folder

    check_folder(bundle.parent, "the argument BUNDLE")
    found = hub.pull(repo_id, bundle, revision=revision, force=force)
    risks = [level.risk for level in found.policy.pooled]
    if json:
        _output.emit({"bundle": str(bundle), "repo_id": repo_id, "name": found.policy.name, "risks": risks})
    else:
        levels = ", ".join(f"{risk:g}" for risk in risks) or "none"
        _output.console.print(f"{bundle} holds {found.policy.name}; certified levels: {levels}.")
