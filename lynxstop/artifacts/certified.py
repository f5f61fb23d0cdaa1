"""What a bundle's certificates hold for, and what of it a request departs from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.expiry import NO_GRACE, ExpiryDates, expiry_dates
from lynxstop.core.conditions import Conditions
from lynxstop.core.policy import Level


@dataclass(frozen=True, slots=True)
class Certified:
    """The conditions of a bundle's certificates, and how long these last.

    Parameters
    ----------
    conditions : Conditions
        How the requests of the calibration data were decoded.
    always : tuple of str
        What departs in every request: the engine's own settings.
    dates : ExpiryDates
        When the levels expire.
    """

    conditions: Conditions
    always: tuple[str, ...] = ()
    dates: ExpiryDates = field(default_factory=ExpiryDates)

    @classmethod
    def of(cls, bundle: Bundle, *, dtype: str | None = None, grace: timedelta = NO_GRACE) -> Certified:
        """Read them from a bundle that is served in some data type, or in one that is not known (None)."""
        policy = bundle.policy
        always = () if dtype in (None, policy.dtype) else ("dtype",)
        return cls(policy.sampling.conditions, always, expiry_dates(bundle.path, policy, grace))

    def departures(self, served: Conditions, level: Level) -> tuple[str, ...]:
        """Name what a request departs from: empty where the certificate of its level holds for it."""
        expired = ("expired",) * self.dates.expired(level.risk, level.group)
        return self.always + self.conditions.departures(served) + expired
