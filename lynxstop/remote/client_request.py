"""A client's request, as it is to be watched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lynxstop.core.conditions import Conditions, limit_of
from lynxstop.core.exits import Mode


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """The body of a request, and what lynxstop is to do.

    Parameters
    ----------
    body : dict
        The chat request, without the key `lynxstop`.
    risk : float or None
    mode : Mode
    group : str or None
    served : Conditions or None
        How it is sampled; None as the bundle's own.
    """

    body: Mapping[str, Any]
    risk: float | None
    mode: Mode = Mode.STOP
    group: str | None = None
    served: Conditions | None = None

    @property
    def usage(self) -> bool:
        """Whether the client wants the event with usage."""
        return bool((self.body.get("stream_options") or {}).get("include_usage")) or not self.body.get(
            "stream"
        )

    @property
    def logprobs(self) -> int | None:
        """Alternatives per token the client asked for; None without log-probabilities."""
        return int(self.body.get("top_logprobs") or 0) if self.body.get("logprobs") else None

    @property
    def max_tokens(self) -> int | None:
        """Limit of tokens."""
        found = self.body.get("max_completion_tokens")
        found = limit_of(self.body.get("max_tokens") if found is None else found)
        return None if found is None else int(found)
