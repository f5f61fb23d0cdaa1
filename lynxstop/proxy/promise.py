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
from lynxstop.proxy.request_options import ExitOptions
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
        self._certificates = {} if bundle is None else _certificates(bundle)

    def level(self, options: ExitOptions) -> CertifiedLevel | None:
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

    def departures(self, options: ExitOptions) -> tuple[str, ...]:
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
        saved = None if level is None else self._certificates.get(level.certificate, {}).get("saved")
        return float(saved) if isinstance(saved, int | float) else None

    def subgroups(self, risk: float | None) -> list[dict[str, Any]]:
        """Return what was observed of subgroups when a level of all requests was certified, as plain JSON."""
        pooled = () if self.bundle is None else self.bundle.policy.pooled
        level = next((one for one in pooled if risk is not None and abs(one.risk - risk) < 1e-9), None)
        return (
            [] if level is None else list(self._certificates.get(level.certificate, {}).get("subgroups", ()))
        )


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


def _certificates(bundle: Bundle) -> Mapping[str, Mapping[str, Any]]:
    """What each level's certificate says beside the level, by its name."""
    found = {}
    for level in bundle.policy.levels:
        content = json.loads((bundle.path / level.certificate).read_text())
        found[level.certificate] = {name: content[name] for name in ("saved", "subgroups") if name in content}
    return found
