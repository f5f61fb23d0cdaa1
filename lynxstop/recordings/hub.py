"""Problems from a data set of the Hub, or from a local folder that the `datasets` library reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lynxstop.errors import DataError
from lynxstop.extras import need

PREFIX = "hf://"

_FORM = re.compile(
    r"hf://(?P<name>[^:@]+?)(@(?P<revision>[^:/]+))?(:(?P<config>[^/]+))?"
    r"/(?P<split>[^/:@[]+(\[[^]]*\])?)"
)
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """A data set's name: ``hf://NAME[@REVISION][:CONFIG]/SPLIT``.

    `name` is as `datasets.load_dataset` takes it: an organisation and a name, or a local folder. The split
    may be sliced, as in ``train[:500]``.
    """

    name: str
    split: str
    config: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Take a name apart.

        Raises
        ------
        DataError
            When it has another form.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise DataError(
                f"{text!r} does not name a data set.",
                hint="The form is hf://NAME[@REVISION][:CONFIG]/SPLIT, such as hf://openai/gsm8k:main/test.",
            )
        return cls(**match.groupdict())

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        config = "" if self.config is None else f":{self.config}"
        return f"{PREFIX}{self.name}{revision}{config}/{self.split}"

    @property
    def is_fixed(self) -> bool:
        """Whether the revision is a commit; a branch or a tag may name another one tomorrow."""
        return _COMMIT.fullmatch(self.revision or "") is not None


def at_commit(text: str) -> str:
    """Name the commit that a data set is read at now.

    What has none, such as a local folder, stays as it is.

    Raises
    ------
    DataError
        As `hub_records`.
    """
    wanted = HubName.parse(text)
    if wanted.is_fixed:
        return text
    commit = _commit(_load(wanted))
    return text if commit is None else str(replace(wanted, revision=commit))


def hub_records(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the rows of a split, numbered from 1.

    Raises
    ------
    DataError
        When the data set, its configuration, its split or the commit that is asked for cannot be had;
        MissingExtraError without `datasets`.
    """
    yield from enumerate(_load(HubName.parse(text)), start=1)


def _load(wanted: HubName) -> Any:
    library = need("datasets", "datasets")
    try:
        rows = library.load_dataset(wanted.name, wanted.config, split=wanted.split, revision=wanted.revision)
    except Exception as error:  # its HTTP clients raise errors of their own, which differ by version
        why = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise DataError(
            f"{wanted} cannot be read: {why}.",
            hint="Check name, configuration and split; a private one needs `hf auth login`.",
        ) from error
    # Where the Hub does not answer, the library takes what is newest in its cache.
    if wanted.is_fixed and (commit := _commit(rows)) not in (None, wanted.revision):
        raise DataError(
            f"{wanted} cannot be read: without the Hub there is another commit of it, {commit}.",
            hint="Check the connection, and that HF_HUB_OFFLINE is not set.",
        )
    return rows


def _commit(rows: Any) -> str | None:
    """Return the commit that rows were read at: in the cache, the name of their folder."""
    folders = {Path(file["filename"]).parent.name for file in rows.cache_files}
    found = folders.pop() if len(folders) == 1 else ""
    return found if _COMMIT.fullmatch(found) else None
