"""The options of a request for lynxstop: a key of the body, or headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lynxstop.core.conditions import Conditions
from lynxstop.core.exits import Mode
from lynxstop.core.policy import StopPolicy
from lynxstop.errors import ConfigError, RequestError
from lynxstop.proxy.config import PolicyConfig
from lynxstop.proxy.exchange import Incoming

KEY = "lynxstop"
OFF = "off"
_NAMES = ("risk", "mode", "race", "group")
_MOST_RACING = 16


@dataclass(frozen=True, slots=True)
class ExitOptions:
    """What one request wants from lynxstop.

    Parameters
    ----------
    risk : float or None
        A certified level; None is off.
    mode : Mode
    race : int
        Samples of which the first to finish answers.
    group : str or None
    named : bool
        Whether the request itself named anything.
    departures : tuple of str
        What lies outside the conditions of its level's certificate.
    served : Conditions or None
        How the request is sampled; None without a bundle.
    """

    risk: float | None
    mode: Mode
    race: int = 1
    group: str | None = None
    named: bool = False
    departures: tuple[str, ...] = ()
    served: Conditions | None = None

    @property
    def certified(self) -> bool:
        """Whether the certificate of its level holds for it."""
        return not self.departures


def read_options(
    incoming: Incoming,
    body: Mapping[str, Any],
    config: PolicyConfig,
    policy: StopPolicy | None,
    default: float | None,
) -> ExitOptions:
    """Read the options of a request: from its body, its headers, its reasoning effort, or the defaults.

    Parameters
    ----------
    incoming : Incoming
    body : dict
        Its parsed body.
    config : PolicyConfig
        The proxy's own settings.
    policy : StopPolicy or None
        Has the certified levels; None takes any level, for a server that checks it itself.
    default : float or None
        The bundle's default level.

    Raises
    ------
    RequestError
        On an unknown key, a level that is not certified (the message lists them), or an impossible value.
    """
    given = _given(incoming, body)
    asked = given.get("risk", config.level_of_effort(body))
    if asked is None:
        asked = config.risk if config.risk is not None else (default if default is not None else OFF)
    risk = _risk(asked)
    if policy is not None and risk is not None:
        try:
            policy.level(risk)
        except ConfigError as error:
            raise RequestError(
                error.message, code="risk_not_certified", hint='Choose one of them, or "off".'
            ) from None
    mode = given.get("mode", config.mode)
    try:
        found = Mode(mode)
    except ValueError:
        raise RequestError(
            f"lynxstop.mode is stop or shadow, not {str(mode)[:40]!r}.", code="bad_lynxstop"
        ) from None
    return ExitOptions(risk, found, _race(given.get("race", 1)), _group(given.get("group")), bool(given))


def check_levels(config: PolicyConfig, policy: StopPolicy | None) -> None:
    """Make sure that the levels of the configuration are certified.

    Raises
    ------
    ConfigError
        When one is not; the message lists those that are.
    """
    if policy is not None:
        for risk in (config.risk, *config.reasoning_effort.values()):
            policy.level(risk if isinstance(risk, float) else None)


def _given(incoming: Incoming, body: Mapping[str, Any]) -> dict[str, Any]:
    given = body.get(KEY)
    if given is None:
        given = {
            name: value for name in _NAMES if (value := incoming.header(f"x-lynxstop-{name}")) is not None
        }
    if not isinstance(given, dict):
        raise RequestError('The key "lynxstop" is an object, such as {"risk": 0.05}.', code="bad_lynxstop")
    given = {name: value for name, value in given.items() if value is not None}
    if given and (unknown := sorted(set(given) - set(_NAMES))):
        raise RequestError(
            f'The key "lynxstop" has no {str(unknown[0])[:40]!r}.',
            code="bad_lynxstop",
            hint=f"It has: {', '.join(_NAMES)}.",
        )
    return given


def _risk(asked: Any) -> float | None:
    if asked == OFF:
        return None
    try:
        risk = float(asked)
    except (TypeError, ValueError):
        risk = -1.0
    if isinstance(asked, bool) or not 0 < risk < 1:
        raise RequestError(
            f'lynxstop.risk is a certified level or "off", not {str(asked)[:40]!r}.', code="bad_lynxstop"
        )
    return risk


def _race(asked: Any) -> int:
    try:
        race = int(asked)
    except (TypeError, ValueError):
        race = 0
    if not 1 <= race <= _MOST_RACING or isinstance(asked, bool):
        raise RequestError(f"lynxstop.race is a number from 1 to {_MOST_RACING}.", code="bad_lynxstop")
    return race


def _group(asked: Any) -> str | None:
    if asked is not None and not isinstance(asked, str):
        raise RequestError("lynxstop.group is a text.", code="bad_lynxstop")
    return asked


def for_plugin(own: PolicyConfig, options: ExitOptions, *, tools: bool) -> dict[str, Any]:
    """Return the parameters for a plugin in the server, which cannot see tools; empty when nothing is set."""
    given: dict[str, Any] = {"lynxstop_tools": 1} if tools else {}
    if not (options.named or own.risk is not None or own.mode != "stop" or own.reasoning_effort):
        return given
    given |= {
        "lynxstop_risk": "off" if options.risk is None else options.risk,
        "lynxstop_mode": str(options.mode),
    }
    return given if options.group is None else {**given, "lynxstop_group": options.group}
