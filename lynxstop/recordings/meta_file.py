"""meta.json: the settings of a recorded data set, and what says that it is finished."""

from __future__ import annotations

import json

from pydantic import ValidationError

from lynxstop.artifacts.migrations import META as META_STEPS
from lynxstop.artifacts.migrations import upgrade
from lynxstop.artifacts.strict import first_of
from lynxstop.errors import DataError, StepError
from lynxstop.recordings import shards
from lynxstop.recordings.schema import Meta
from lynxstop.recordings.store import Store

META = "meta.json"


def read_meta(store: Store) -> Meta:
    """Read meta.json.

    Raises
    ------
    StepError
        When the place holds no data set.
    DataError
        When it is damaged, or of a newer schema version.
    """
    try:
        content = json.loads(store.read(META))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StepError(
            f"There is no recorded data in {store}.", hint="Record some with `lynxstop collect`."
        ) from error
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{store}/{META} is damaged.", hint="Restore it from a copy, or collect again.")
    content = upgrade(content, META_STEPS, f"{store}/{META}", DataError)
    try:
        return Meta.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{store}/{META} is damaged: {first_of(error)}.", hint="Collect again.") from error


def write_meta(store: Store, meta: Meta) -> None:
    """Write meta.json."""
    store.write(META, (json.dumps(meta.model_dump(mode="json"), indent=1) + "\n").encode())


def seal(store: Store, meta: Meta) -> Meta:
    """Write the digests of all shards into meta.json: the data set is then finished.

    Raises
    ------
    DataError
        When a shard is missing.
    """
    known = dict(meta.digests or {})
    for number in range(meta.shards):
        if shards.names(number)[-1] not in known:
            known |= shards.digests(store, number)
    sealed = meta.model_copy(update={"digests": known})
    write_meta(store, sealed)
    return sealed
