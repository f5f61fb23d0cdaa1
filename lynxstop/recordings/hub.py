"""Problems from a data set of the Hub, or from a local folder that the `datasets` library reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lynxstop.errors import DataError
from lynxstop.extras import need

PREFIX = "hf://"

_FORM = re.compile(
    r"hf://(?P<name>[^:@]+?)(@(?P<revision>[^:/]+))?(:(?P<config>[^/]+))?"
    r"/(?P<split>[^/:@[]+(\[[^]]*\])?)"
)


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


def hub_records(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the rows of a split, numbered from 1.

    Raises
    ------
    DataError
        When the data set, its configuration or its split cannot be had; MissingExtraError without `datasets`.
    """
    wanted = HubName.parse(text)
    library = need("datasets", "datasets")
    try:
        rows = library.load_dataset(wanted.name, wanted.config, split=wanted.split, revision=wanted.revision)
    except (library.exceptions.DatasetsError, OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise DataError(
            f"{text} cannot be read: {why}.",
            hint="Check name, configuration and split; a private one needs `hf auth login`.",
        ) from error
    yield from enumerate(rows, start=1)
