"""What a bundle's certificates hold for, and what of it a request departs from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar, Protocol

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.expiry import NO_GRACE, ExpiryDates, expiry_dates
from lynxstop.core.conditions import Conditions
from lynxstop.core.policy import Level


class ServingEngine(Protocol):
    """What an engine's class says of the engine."""

    id: ClassVar[str]
    decides_like: ClassVar[Mapping[str, tuple[str, ...]]]
    """Other engines, by data type, that tests have shown to decide the same on the same model."""


@dataclass(frozen=True, slots=True)
class Certified:
    """The conditions of a bundle's certificates, and how long these last.

    Parameters
    ----------
    conditions : Conditions
        How the requests of the calibration data were decoded, where a level does not name its own sampling.
    always : tuple of str
        What departs in every request: the engine's own settings.
    dates : ExpiryDates
        When the levels expire.
    """

    conditions: Conditions
    always: tuple[str, ...] = ()
    dates: ExpiryDates = field(default_factory=ExpiryDates)

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        *,
        engine: type[ServingEngine] | None = None,
        dtype: str | None = None,
        grace: timedelta = NO_GRACE,
    ) -> Certified:
        """Read them from a bundle.

        Parameters
        ----------
        bundle : Bundle
        engine : type of ServingEngine, optional
            Serves it. Not compared where None: a server behind an API is part of the fingerprint.
        dtype : str, optional
            Served in; None where it is not known.
        grace : timedelta
            How long after its expiry a level may still be used.
        """
        policy = bundle.policy
        alike = () if engine is None else (engine.id, *engine.decides_like.get(policy.dtype, ()))
        always = ("engine",) * (engine is not None and policy.engine not in alike)
        always += ("dtype",) * (dtype not in (None, policy.dtype))
        return cls(policy.sampling.conditions, always, expiry_dates(bundle.path, policy, grace))

    def departures(self, served: Conditions, level: Level) -> tuple[str, ...]:
        """Name what a request departs from: empty where the certificate of its level holds for it.

        `level` is the one that `StopPolicy.level` gives for this request.
        """
        expired = ("expired",) * self.dates.expired(level.risk, level.whose)
        return self.always + (level.sampling or self.conditions).departures(served) + expired
