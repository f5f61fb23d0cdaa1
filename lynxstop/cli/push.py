"""`lynxstop push`: upload a bundle to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json


def push(
    bundle: Annotated[Path, typer.Argument(help="Bundle to upload.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hugging Face Hub, OWNER/NAME.")],
    base_model: Annotated[
        str | None, typer.Option(help="Model of the bundle as the Hub knows it, for the card.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the bundle, for the card.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Data set it was made on, for the card; may be repeated.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; the main one by default.")] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload a lynxstop bundle",
    json: Json = False,
) -> None:
    """Check a bundle and upload it, with a card that says what it promises.

    Only files that belong to a bundle go. They hold the ids of your problems, their scores and the commands
    that made them, but no prompt and no text. Log in with `hf auth login`, or set HF_TOKEN.

    **Examples**

    - `lynxstop push bundle me/my-bundle --base-model Qwen/Qwen3-8B --license apache-2.0`

    - `lynxstop push bundle me/my-bundle --private --json`
    """
    from lynxstop.artifacts import hub
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.artifacts.card import card
    from lynxstop.workflows.calibrate_bundle import measured

    found = Bundle.load(bundle)
    text = card(
        found.policy,
        found.training(),
        measured(found),
        base_model=base_model,
        license=license,
        datasets=dataset or (),
    )
    url = hub.push(
        found,
        repo_id,
        card=text,
        private=private,
        revision=revision,
        message=message,
    )
    if json:
        _output.emit({"bundle": str(bundle), "repo_id": repo_id, "commit": url})
    else:
        _output.console.print(f"{bundle} is at {url}", soft_wrap=True)
