"""Bundles on the Hugging Face Hub: checked before they go, and before they are put in place."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from lynxstop.artifacts import atomic
from lynxstop.artifacts.bundle import CERTIFICATES, FOLDER, MAX_TENSORS, SCORES, TRAINING, WEIGHTS, Bundle
from lynxstop.artifacts.policy_file import NAME
from lynxstop.artifacts.sums import SUMS, sums_text
from lynxstop.errors import BundleError, ConfigError, UpstreamError
from lynxstop.extras import need

_PLAIN = (NAME, WEIGHTS, SCORES, TRAINING, "README.md", "recipe.toml", SUMS)
MAX_BYTES = 4 * MAX_TENSORS
"""Of a whole bundle that is pulled."""


def known_files(names: list[str]) -> list[str]:
    """Return those of the names that belong to a bundle, sorted."""
    found = []
    for name in names:
        path = PurePosixPath(name)
        certificate = path.parts[:-1] == (FOLDER,) and any(map(path.match, CERTIFICATES))
        if name in _PLAIN or certificate:
            found.append(name)
    return sorted(found)


def own_files(folder: Path) -> list[str]:
    """Names of the files in a folder that belong to a bundle, sorted."""
    return known_files([path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()])


def push(
    bundle: Bundle,
    repo_id: str,
    *,
    card: str,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload a lynxstop bundle",
) -> str:
    """Upload a bundle in one commit; what of an earlier bundle does not belong to this one is deleted.

    Parameters
    ----------
    bundle : Bundle
        It is checked, the files that are not served included; only files that belong to a bundle go.
    repo_id : str
        Repository on the Hub, made when it is not there.
    card : str
        README.md to upload.
    private : bool
        For a repository that is made.
    revision : str, optional
        Branch; the main one by default.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    BundleError
        When the bundle is damaged.
    UpstreamError
        When the Hub cannot be reached, or refuses.
    """
    bundle.check()
    library = need("huggingface_hub", "hub")
    folder = bundle.path
    contents: dict[str, Any] = {name: str(folder / name) for name in own_files(folder)} | {
        "README.md": card.encode()
    }
    if SUMS in contents:
        contents[SUMS] = _sums(folder, contents).encode()
    with _asking(repo_id), warnings.catch_warnings():
        # Evidence is a table on purpose.
        warnings.filterwarnings("ignore", message=".*commit a data file", category=UserWarning)
        api = _api(library)
        api.create_repo(repo_id, private=private, exist_ok=True)
        there = known_files(list(api.list_repo_files(repo_id, revision=revision)))
        operations = [
            *(library.CommitOperationAdd(name, content) for name, content in contents.items()),
            *(library.CommitOperationDelete(name) for name in there if name not in contents),
        ]
        done = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    return str(done.commit_url)


def pull(
    repo_id: str,
    folder: Path,
    *,
    revision: str | None = None,
    force: bool = False,
) -> Bundle:
    """Download a bundle beside `folder`, check it, then move it into place.

    Parameters
    ----------
    repo_id : str
    folder : Path
        Where to put it.
    revision : str, optional
        Branch, tag or commit.
    force : bool
        Replace what is there.

    Raises
    ------
    ConfigError
        When there is something at `folder` already.
    BundleError
        When the repository holds no bundle, too much, or a damaged one; nothing is put in place.
    UpstreamError
        When the Hub cannot be reached, or refuses.
    """
    if folder.exists() and not force:
        raise ConfigError(f"{folder} is there already.", hint="Name another folder, or give --force.")
    library = need("huggingface_hub", "hub")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        fresh = Path(place) / "new"
        with _asking(repo_id):
            api = _api(library)
            about = api.model_info(repo_id, revision=revision, files_metadata=True)
            sizes = {entry.rfilename: entry.size or 0 for entry in about.siblings or ()}
            wanted = known_files(list(sizes))
            if NAME not in wanted:
                raise BundleError(f"{repo_id} holds no bundle: {NAME} is missing.", hint="Check the name.")
            if sum(sizes[name] for name in wanted) > MAX_BYTES:
                raise BundleError(f"{repo_id} is larger than a bundle can be and is not downloaded.")
            api.snapshot_download(repo_id, revision=about.sha, local_dir=fresh, allow_patterns=wanted)
        shutil.rmtree(fresh / ".cache", ignore_errors=True)
        Bundle.load(fresh).check()
        if folder.exists():
            folder.rename(Path(place) / "old")
        fresh.rename(folder)
    return Bundle.load(folder)


def _sums(folder: Path, contents: dict[str, Any]) -> str:
    """Digests of what goes, where a card may be another than the folder's."""
    return sums_text(
        {
            name: hashlib.sha256(content).hexdigest()
            if isinstance(content, bytes)
            else atomic.sha256(folder / name)
            for name, content in contents.items()
            if name != SUMS
        }
    )


def _api(library: Any) -> Any:
    return library.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="lynxstop")


@contextmanager
def _asking(repo_id: str) -> Iterator[None]:
    """Tell what went wrong at the Hub in one sentence, without headers and tokens."""
    errors = need("huggingface_hub.errors", "hub")
    # The client's own library for HTTP changed its name between versions; all of its errors are OSErrors or
    # have one of these bases.
    transport = need("huggingface_hub.utils", "hub").get_session().__class__.__module__.partition(".")[0]
    reasons = (errors.HfHubHTTPError, OSError, ValueError, need(transport, "hub").HTTPError)
    try:
        yield
    except BundleError:
        raise
    except errors.HFValidationError as error:
        raise ConfigError(f"{repo_id!r} names no repository.", hint="The form is OWNER/NAME.") from error
    except reasons as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        what = type(error).__name__ if status is None else f"{type(error).__name__}, HTTP {status}"
        raise UpstreamError(
            f"The Hub did not do what was asked about {repo_id}: {what}.",
            hint="Check the name and the connection; `hf auth login` gives access to what is private.",
        ) from None
