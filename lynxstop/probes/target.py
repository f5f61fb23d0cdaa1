"""What a probe or a rule is trained to foresee."""

from __future__ import annotations

from typing import Literal, cast, get_args

from lynxstop.errors import ConfigError

Target = Literal["agrees", "right"]
"""That the answer forced at a point equals the full trace's, or that it equals gold."""


def target_named(name: str) -> Target:
    """Return the target of that name.

    Raises
    ------
    ConfigError
        When there is none.
    """
    if name not in get_args(Target):
        raise ConfigError(f"There is no target {name!r}.", hint=f"Targets: {', '.join(get_args(Target))}.")
    return cast(Target, name)
