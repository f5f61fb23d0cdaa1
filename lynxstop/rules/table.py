"""All rules by name; a new one is one file and one row here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from lynxstop.errors import ConfigError
from lynxstop.rules.base import Rule
from lynxstop.rules.baselines.cascade import Cascade
from lynxstop.rules.baselines.combined_trial import CombinedTrial
from lynxstop.rules.baselines.eat import AnswerEntropy, Eat
from lynxstop.rules.baselines.puma import Puma
from lynxstop.rules.baselines.trials import Convergence, Deer, Dynasor
from lynxstop.rules.deviation import Rpdi, RpdiShort, RpdiTransitions
from lynxstop.rules.either import CombinedOrLower, Either, LynxOrRpdi
from lynxstop.rules.learned import Combined, LogprobProbe, RunProbe
from lynxstop.rules.lynx import Lynx, QExit, Smoothed
from lynxstop.rules.plain import Budget, Looping, Redundant, Sched, ThinkBrake

GROUP = "lynxstop.rules"
"""Entry-point group of other packages' rules: a name, and an instance of `Rule`."""

_ROWS: tuple[Rule, ...] = (
    Lynx(),
    LogprobProbe(),
    RunProbe(),
    Combined(),
    CombinedTrial(),
    Cascade(),
    LynxOrRpdi((Lynx(), RpdiShort())),
    CombinedOrLower((Combined(), RpdiShort(), Redundant(), Looping())),
    Redundant(),
    Looping(),
    AnswerEntropy(),
    Rpdi(),
    RpdiShort(),
    RpdiTransitions(),
    Deer(),
    Dynasor(),
    Convergence(),
    Puma(),
    ThinkBrake(),
    Eat(),
    Sched(),
    QExit(),
    Smoothed(),
    Budget(),
)

RULES: Mapping[str, Rule] = {rule.name: rule for rule in _ROWS}
"""Every rule with its published constants."""


@cache
def all_rules() -> Mapping[str, Rule]:
    """Return lynxstop's rules and those of installed packages, by name.

    Raises
    ------
    ConfigError
        When another package's entry is no `Rule`, or takes a name of ours.
    """
    found = dict(RULES)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        rule = entry.load()
        if not isinstance(rule, Rule) or entry.name in found or rule.name != entry.name:
            raise ConfigError(
                f"The rule {entry.name!r} of an installed package cannot be used.",
                hint="Its entry point must name an instance of lynxstop.rules.Rule with a new name.",
            )
        found[entry.name] = rule
    return found


def rule_named(name: str) -> Rule:
    """Look up a rule.

    Raises
    ------
    ConfigError
        When there is none of this name; lists all.
    """
    rules = all_rules()
    if name not in rules:
        raise ConfigError(f"There is no rule {name!r}.", hint=f"There are: {', '.join(rules)}.")
    return rules[name]


def rule_from(name: str, constants: Mapping[str, Any]) -> Rule:
    """Rebuild a rule from `Rule.constants`.

    Raises
    ------
    ConfigError
        When the constants are not the rule's.
    """
    kind = type(rule_named(name))
    values = {key: _frozen(value) for key, value in constants.items()}
    try:
        if issubclass(kind, Either):
            values["members"] = tuple(rule_from(m["name"], m["constants"]) for m in constants["members"])
        return kind(**values)
    except (TypeError, KeyError) as error:
        raise ConfigError(f"The constants of the rule {name!r} are damaged.") from error


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
