"""A JSON object with a digest of itself, so that no field can be changed unnoticed by accident."""

from __future__ import annotations

import hashlib
import json
from typing import Any

DIGEST = "digest"
"""Key of the SHA-256 over all the rest."""


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with the digest of all the rest."""
    return content | {DIGEST: digest_of(content)}


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of all but the digest, independent of the order of keys and of white space."""
    rest = {name: value for name, value in content.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
