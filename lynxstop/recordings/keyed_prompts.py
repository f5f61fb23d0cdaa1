"""Prompts of live traffic, told apart and compared with those of calibration without being kept."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any

from lynxstop.errors import DataError
from lynxstop.recordings.prompts import prompt_digest, read_prompt


class KeyedPrompts:
    """Digests prompts under a secret.

    Parameters
    ----------
    key : bytes
        Without it, a digest cannot be compared with that of a guessed prompt.
    calibrated : iterable of str
        Digests of the prompts of the calibration data, `lynxstop.recordings.prompts.prompt_digest`.
    """

    def __init__(self, key: bytes, calibrated: Iterable[str] = ()) -> None:
        self._key, self._calibrated = key, frozenset(calibrated) - {""}

    def digest(self, messages: Any) -> tuple[str, bool]:
        """Return the keyed digest of chat messages, and whether calibration had this prompt.

        Empty for what is not text and cannot be compared.

        Examples
        --------
        >>> prompts = KeyedPrompts(b"secret", [prompt_digest("Add 2 and 3.")])
        >>> prompts.digest([{"role": "user", "content": "ADD 2 and 3."}])[1]
        True
        >>> prompts.digest([{"role": "user", "content": [{"type": "image_url"}]}])
        ('', False)
        """
        try:
            plain = prompt_digest(read_prompt(messages, "messages"))
        except DataError:
            return "", False
        keyed = hmac.new(self._key, plain.encode(), hashlib.sha256).hexdigest()[:16]
        return keyed, plain in self._calibrated
