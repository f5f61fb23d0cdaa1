"""What the proxy serves by: a bundle, the server's dialect, and how the two go together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lynxstop.artifacts.bundle import Bundle, CertifiedLevel
from lynxstop.core.stream import StreamWatch
from lynxstop.errors import ConfigError
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.session import Terms

ENGINE = "openai"
"""Engine of the bundles whose traces were recorded through a server's stream."""


@dataclass(frozen=True, slots=True)
class Service:
    """A bundle served through a server's stream, or passed on to a plugin in the server.

    Parameters
    ----------
    bundle : Bundle or None
        None: nothing is ever stopped here.
    dialect : Dialect
    terms : Terms or None
        None: the server has the plugin, or there is no bundle; requests are relayed.
    """

    bundle: Bundle | None
    dialect: Dialect
    terms: Terms | None
    saved: Mapping[str, float] = field(default_factory=dict)
    """Share of the thinking tokens that each certificate's level saved when it was certified."""

    @property
    def plugin(self) -> bool:
        """Whether decisions are left to the plugin inside the server."""
        return self.bundle is not None and self.terms is None

    def level(self, risk: float | None, group: str | None) -> CertifiedLevel | None:
        """Return the certified level that a request has."""
        if self.bundle is None or risk is None:
            return None
        found = {level.group: level for level in self.bundle.policy.levels if abs(level.risk - risk) < 1e-9}
        return found.get(group, found.get(None))


def make_service(bundle: Bundle | None, dialect: Dialect) -> Service:
    """Decide how a bundle is served by a server of this dialect.

    Raises
    ------
    ConfigError
        When the bundle needs hidden states and the server takes no arguments for a plugin.
    """
    if bundle is None:
        return Service(None, dialect, None)
    policy = bundle.policy
    if policy.engine != ENGINE:
        if not dialect.plugin:
            raise ConfigError(
                f"The bundle {bundle.path} was certified inside the engine {policy.engine}; "
                f"a {dialect.name} server shows only its stream.",
                hint="Record with `lynxstop collect --engine openai` and certify a bundle on that.",
            )
        return Service(bundle, dialect, None, _saved(bundle))
    return Service(bundle, dialect, terms_of(bundle), _saved(bundle))


def terms_of(bundle: Bundle) -> Terms:
    """What a bundle watches for in a stream."""
    policy: Any = bundle.policy
    return Terms(
        StreamWatch(policy.cues, policy.delimiters),
        policy.stop_policy(),
        policy.exit_text,
        policy.think_close,
        policy.cut == "before",
    )


def _saved(bundle: Bundle) -> dict[str, float]:
    found = {}
    for level in bundle.policy.levels:
        saved = json.loads((bundle.path / level.certificate).read_text()).get("saved")
        if isinstance(saved, int | float):
            found[level.certificate] = float(saved)
    return found
