"""policy.json: read with every check, written with a digest of itself."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lynxstop.artifacts import atomic
from lynxstop.artifacts.migrations import POLICY, Content, upgrade
from lynxstop.artifacts.policy import Policy
from lynxstop.artifacts.seal import DIGEST, digest_of, seal
from lynxstop.artifacts.strict import first_of
from lynxstop.errors import BundleError, ConfigError, LynxstopError, StepError

NAME = "policy.json"
MAX_BYTES = 4 << 20
MAX_CERTIFICATE = 64 << 20


def write_policy(path: Path, policy: Policy) -> None:
    """Write policy.json into a bundle's folder, atomically."""
    atomic.write_text(path / NAME, json.dumps(seal(policy.model_dump(mode="json")), indent=2) + "\n")


def read_policy(folder: Path) -> Policy:
    """Read policy.json of a bundle's folder.

    Raises
    ------
    StepError
        When there is none.
    BundleError
        When it is too large, damaged, changed, of a newer version, or says what cannot be served.
    OSError
        When the folder cannot be looked into.
    """
    path = folder / NAME
    try:
        there = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        there = False
    if not there:
        raise StepError(
            f"There is no bundle at {folder}: {NAME} is missing.",
            hint="Make one with `lynxstop collect` and `lynxstop train`.",
        )
    content = read_object(path, MAX_BYTES, "a policy")
    digest = content.pop(DIGEST, None)
    if (digest is None and content.get("schema_version") != 1) or digest not in (None, digest_of(content)):
        found = upgrade(content, POLICY, str(path), BundleError)
        raise BundleError(
            f"{path} is damaged or was changed by hand: its digest differs "
            f"(schema version {found['schema_version']}).",
            hint="Copy the bundle again, or train it again.",
        )
    try:
        policy = Policy.model_validate(upgrade(content, POLICY, str(path), BundleError))
        policy.stop_policy(), policy.cues, policy.delimiters
    except ValidationError as error:
        raise BundleError(
            f"{path} is damaged: {first_of(error)}.", hint="Copy the bundle again, or train it again."
        ) from error
    except ConfigError as error:
        raise BundleError(f"{path} cannot be served: {error.message}", hint=error.hint) from error
    return policy


def read_object(path: Path, most: int, what: str, refusal: type[LynxstopError] = BundleError) -> Content:
    """Read a JSON object of at most `most` bytes; `what` it should be is named in errors.

    Raises
    ------
    LynxstopError
        Of the class `refusal`: when the file cannot be read, is larger, or holds something else, such as
        numbers that are not finite.
    """
    hint = "Copy the bundle again, or make it again."
    try:
        if path.stat().st_size > most:
            raise refusal(f"{path} is larger than {what} can be.", hint=hint)
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise refusal(
            f"{path} cannot be read: {error.strerror}.", hint=f"Give a bundle, or {what} in one."
        ) from error
    except (ValueError, RecursionError) as error:
        raise refusal(f"{path} is damaged: {error}.", hint=hint) from error
    if not isinstance(content, dict):
        raise refusal(f"{path} does not hold {what}.", hint=hint)
    return content


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")
