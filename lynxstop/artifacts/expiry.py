"""Whether certificates still hold today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lynxstop.artifacts.policy import Policy
from lynxstop.artifacts.policy_file import MAX_CERTIFICATE, read_object
from lynxstop.errors import BundleError

NO_GRACE = timedelta(0)


def expired(expires: datetime | None, *, grace: timedelta = NO_GRACE, now: datetime | None = None) -> bool:
    """Whether a date of expiry, and the grace after it, have passed; None never expires.

    Parameters
    ----------
    expires : datetime, optional
        With a time zone.
    grace : timedelta
        How long after its expiry a certificate may still be used.
    now : datetime, optional
        With a time zone; the present by default.
    """
    return expires is not None and (now or datetime.now(UTC)) - expires > grace


@dataclass(frozen=True, slots=True)
class ExpiryDates:
    """When the levels of a bundle expire.

    Parameters
    ----------
    dates : mapping of (risk, whose) to datetime
        By `lynxstop.core.policy.Level`; levels that never expire are left out.
    grace : timedelta
        How long after its expiry a level may still be used.
    """

    dates: Mapping[tuple[float, str | None], datetime] = field(default_factory=dict)
    grace: timedelta = NO_GRACE

    def expired(self, risk: float, whose: str | None = None, now: datetime | None = None) -> bool:
        """Whether a certified level, named by its risk and whose it is, has expired."""
        return expired(self.dates.get((risk, whose)), grace=self.grace, now=now)


def expiry_dates(folder: Path, policy: Policy, grace: timedelta = NO_GRACE) -> ExpiryDates:
    """Read when the levels of a bundle expire.

    Parameters
    ----------
    folder : Path
        Of the bundle, which was loaded: its certificates are those that the policy names.
    policy : Policy
    grace : timedelta
        How long after its expiry a level may still be used.

    Raises
    ------
    BundleError
        When a certificate cannot be read, or its date is none.
    """
    found = {
        (level.risk, level.served.whose): _expires(folder / level.certificate) for level in policy.levels
    }
    return ExpiryDates({key: date for key, date in found.items() if date is not None}, grace)


def _expires(path: Path) -> datetime | None:
    said = read_object(path, MAX_CERTIFICATE, "a certificate").get("expires")
    if said is None:
        return None
    try:
        found = datetime.fromisoformat(said)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path} is damaged: {said!r} is not a date.", hint="Calibrate again.") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
