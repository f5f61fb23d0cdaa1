"""What a bundle promises of a request: its level, and whether the request is what that was certified for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lynxstop.artifacts.bundle import Bundle, CertifiedLevel
from lynxstop.artifacts.certified import Certified
from lynxstop.core.conditions import Conditions
from lynxstop.core.stream import StreamWatch
from lynxstop.proxy.request_options import RequestOptions
from lynxstop.remote.stream_config import StreamConfig


class Promise:
    """The levels of a bundle.

    Parameters
    ----------
    bundle : Bundle or None
        None: nothing is promised, and nothing ever stopped.
    grace : timedelta
        How long after its expiry a level is still used.

    Attributes
    ----------
    certified : Certified or None
        What the levels were certified for; None where there are none.
    policy : StopPolicy or None
    """

    def __init__(self, bundle: Bundle | None, grace: timedelta) -> None:
        self.bundle = bundle
        self.certified = None if bundle is None else Certified.of(bundle, grace=grace)
        self.policy = None if bundle is None else bundle.policy.stop_policy()
        self._saved = {} if bundle is None else _saved_shares(bundle)

    def level(self, options: RequestOptions) -> CertifiedLevel | None:
        """Return the certified level that a request has."""
        if self.bundle is None or self.policy is None or options.risk is None:
            return None
        found = self.policy.level(options.risk, options.group, options.served)
        return self.bundle.policy.certified(found)

    def served(self, body: Mapping[str, Any]) -> Conditions | None:
        """Read how a request is sampled, with certified values of what it leaves out.

        None without a bundle.
        """
        if self.certified is None:
            return None
        limits = (body.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
        most = next((limit for limit in limits if limit is not None), None)
        return Conditions.read({**body, "max_tokens": most}, self.certified.conditions)

    def departures(self, options: RequestOptions) -> tuple[str, ...]:
        """Name what a request departs from its level's certificate in; empty where that holds for it."""
        if self.certified is None or self.policy is None or options.served is None:
            return ()
        level = self.policy.level(options.risk, options.group, options.served)
        return self.certified.departures(options.served, level)

    def with_certified_sampling(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the certified value of each sampling setting that a request leaves to the server."""
        if self.certified is None:
            return body
        known = self.certified.conditions
        settings = {"temperature": known.temperature}
        if known.temperature > 0:
            settings |= {"top_p": known.top_p} if known.top_p < 1 else {}
            settings |= {"top_k": known.top_k} if known.top_k > 0 else {}
        missing = {name: value for name, value in settings.items() if body.get(name) is None}
        return {**body, **missing} if missing else body

    def saved(self, level: CertifiedLevel | None) -> float | None:
        """Return the share of the thinking tokens that a level saved when it was certified."""
        return None if level is None else self._saved.get(level.certificate)


def stream_config_of(bundle: Bundle) -> StreamConfig:
    """Return what a bundle watches for in a stream."""
    policy = bundle.policy
    return StreamConfig(
        StreamWatch(policy.cues, policy.delimiters),
        policy.stop_policy(),
        policy.exit_text,
        policy.think_close,
        policy.cut == "before",
        open=policy.delimiters.open,
    )


def _saved_shares(bundle: Bundle) -> Mapping[str, float]:
    """Share of the thinking tokens that each level saved when it was certified, by its certificate."""
    found = {}
    for level in bundle.policy.levels:
        saved = json.loads((bundle.path / level.certificate).read_text()).get("saved")
        if isinstance(saved, int | float):
            found[level.certificate] = float(saved)
    return found
