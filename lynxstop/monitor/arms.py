"""Which requests are audited or held out: a keyed hash of the id, independent of content."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum

from lynxstop.errors import ConfigError

_RANGE = 2**64


class Arm(StrEnum):
    """How a request is treated."""

    SERVE = "serve"
    """Stopped where its level says so."""
    AUDIT = "audit"
    """The same, and its thinking is also finished, so that both answers can be compared."""
    HOLDOUT = "holdout"
    """Never stopped: unbiased savings and latency; its prompt is also answered a second time, so that the
    disagreement of two full answers is known."""
    OUTSIDE = "outside"
    """Never stopped: the canary share does not cover it."""


@dataclass(frozen=True, slots=True)
class ArmShares:
    """Shares of the traffic.

    Parameters
    ----------
    key : bytes
        Secret of this deployment, so that a client cannot choose its arm.
    audit, holdout : float
        In [0, 1], together at most 1.
    canary : float
        Share of all requests that may be stopped at all, in [0, 1]; the other arms are drawn from these.

    Raises
    ------
    ConfigError
        When a share is impossible, or the key is empty.
    """

    key: bytes
    audit: float = 0.01
    holdout: float = 0.0
    canary: float = 1.0

    def __post_init__(self) -> None:
        if min(self.audit, self.holdout, self.canary) < 0 or self.canary > 1 or self.audit + self.holdout > 1:
            raise ConfigError("Shares of traffic lie in [0, 1]; audit and holdout together are at most 1.")
        if not self.key:
            raise ConfigError("Choosing audited requests needs a secret key.", hint="Set the audit key.")

    def arm(self, request_id: str) -> Arm:
        """Return the arm of a request, the same for the same id in every process."""
        if self._uniform(b"canary", request_id) >= self.canary:
            return Arm.OUTSIDE
        drawn = self._uniform(b"arm", request_id)
        if drawn < self.audit:
            return Arm.AUDIT
        return Arm.HOLDOUT if drawn < self.audit + self.holdout else Arm.SERVE

    def _uniform(self, purpose: bytes, request_id: str) -> float:
        digest = hmac.new(self.key, purpose + b"\0" + request_id.encode(), hashlib.sha256).digest()
        return int.from_bytes(digest[:8], "big") / _RANGE
