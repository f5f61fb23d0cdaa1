"""Notice that the server behind the proxy has changed: it may have been replaced by another under its name.

Three signs show it: what the server calls its configuration in every chunk (`system_fingerprint`), what it
lists of its models (as `root`, or the number of parameters), and a failure after which it comes back. Where
there is none, a model that has been watched is examined again from time to time.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from lynxstop.errors import UpstreamError
from lynxstop.proxy.logs import logger
from lynxstop.remote.server import Server, listed_models

if TYPE_CHECKING:
    from lynxstop.proxy.service import Services

CHECK_SECONDS = 3.0
"""Time between two looks at the server's list of models."""

ANSWER_SECONDS = 5.0
"""Longest wait for that list; after each look in vain, so much longer."""

IN_VAIN = 4
"""Looks in a row without an answer after which a server is away: 50 seconds of waiting."""

_CHANGING = frozenset({"created", "permission"})
"""Keys of a listed model that are new in every answer."""

STUCK_SECONDS = 5.0
"""Age of an examination after which a model that could not be served is examined again."""

_WITHOUT_KEY = 30
"""So many times as old gets an examination that only a client's key allows: its request waits for it."""

_REFUSED = range(400, 500)


@dataclass(slots=True)
class Freshness:
    """What the server looked like, by model.

    Attributes
    ----------
    fingerprints : dict
        What it called its configuration when it was examined; several, behind a load balancer.
    examined_at : dict
        When, by `time.monotonic`.
    asked : set of str
        Models that requests have named since.
    suspects : set of str
        Models to examine again.
    signs : dict or None
        Digests of what it lists, by model; None before it has listed any.
    unanswered : int
        Looks in a row at that list that took too long.
    away : str or None
        Why it cannot be reached.
    keyless : bool
        Whether it wants a key that only clients have.
    first : str or None
        The first model that it lists.
    """

    fingerprints: dict[str, set[str | None]] = field(default_factory=dict)
    examined_at: dict[str, float] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    suspects: set[str] = field(default_factory=set)
    signs: dict[str, str] | None = None
    unanswered: int = 0
    away: str | None = None
    keyless: bool = False
    first: str | None = None

    def examined(self, model: str, fingerprint: str | None) -> None:
        """Take note of an examination."""
        self.fingerprints.setdefault(model, set()).add(fingerprint)
        self.examined_at[model] = time.monotonic()
        self.asked.discard(model)
        self.suspects.discard(model)

    def knows(self, model: str, fingerprint: Any) -> bool:
        """Say whether a fingerprint is one of an examination; also True where there is nothing to compare."""
        known = self.fingerprints.get(model)
        return fingerprint is None or known is None or fingerprint in known

    def clear(self) -> None:
        """Forget all examinations."""
        self.fingerprints.clear()
        self.examined_at.clear()
        self.asked.clear()
        self.suspects.clear()

    def is_older(self, model: str, seconds: float) -> bool:
        """Say whether the examination of a model is at least so old."""
        return self.examined_at.get(model, -math.inf) <= time.monotonic() - seconds

    def due(self, seconds: float) -> set[str]:
        """Return the models to examine again: suspects, and those asked for since an examination so old."""
        old = seconds * (_WITHOUT_KEY if self.keyless else 1)
        return self.suspects | {model for model in self.asked if self.is_older(model, old)}


async def keep_fresh(
    services: Services, server: Server, recheck_seconds: float, on_checked: Callable[[], None]
) -> None:
    """Look at the server for ever, and examine it again when it may have changed; see `check`.

    Parameters
    ----------
    services : Services
    server : Server
    recheck_seconds : float
    on_checked : callable
        Called after every look.
    """
    while True:
        try:
            await check(services, server, recheck_seconds)
            on_checked()
        except Exception as error:  # the next look may fare better; requests go on
            logger.warning("not_checked", extra={"fields": {"error": type(error).__name__}})
        await asyncio.sleep(CHECK_SECONDS)


async def check(services: Services, server: Server, recheck_seconds: float) -> None:
    """Look at the server once.

    Parameters
    ----------
    services : Services
    server : Server
        Without a client's key: a server that wants one says only that it is there.
    recheck_seconds : float
        Age of an examination after which a model that is watched is examined again.
    """
    freshness = services.freshness
    try:
        async with asyncio.timeout(ANSWER_SECONDS * (1 + freshness.unanswered)):
            models = listed_models(await server.call("/v1/models"))
        freshness.unanswered = 0
    except UpstreamError as error:
        freshness.unanswered = 0
        if error.status_code not in _REFUSED:
            is_away(services, str(error))
            return
        models = None
    except TimeoutError:
        # Busy, for all that is known: models in use are examined again when it is time for that.
        freshness.unanswered = min(freshness.unanswered + 1, IN_VAIN)
        if freshness.unanswered == IN_VAIN or freshness.away is not None:
            is_away(services, "It does not answer.")
            return
        models = None
    if freshness.away is not None:
        logger.info("upstream_back", extra={"fields": {}})
        services.forget("upstream_back")
        freshness.away = None
    if models is not None:
        _compare(services, {name: sign(entry) for name, entry in models.items()})
    await services.ready(server)
    for model in freshness.due(recheck_seconds) | services.troubled(STUCK_SECONDS):
        await services.again(server, model)


def is_away(services: Services, trouble: str) -> None:
    """Forget a server that cannot be reached: another may come back."""
    if services.freshness.away is None:
        logger.warning("upstream_away", extra={"fields": {"trouble": trouble}})
        services.forget("upstream_away")
    services.freshness.away = trouble


def _compare(services: Services, signs: dict[str, str]) -> None:
    """Forget a server that lists a model otherwise than before, or another first one."""
    before, services.freshness.signs = services.freshness.signs, signs
    services.freshness.first = next(iter(signs), None)
    if before is None:
        return
    changed = [name for name, known in before.items() if signs.get(name, known) != known]
    gone = any(model not in signs for model in services.states() if model in before)
    if changed or gone:
        services.forget("upstream_changed")


def sign(entry: Mapping[str, Any]) -> str:
    """Digest what a listed model says of itself, except what is new in every answer."""
    kept = {name: value for name, value in entry.items() if name not in _CHANGING}
    return hashlib.sha256(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)).hexdigest()
