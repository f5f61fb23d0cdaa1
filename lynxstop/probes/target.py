"""What a probe or a rule is trained to predict."""

from __future__ import annotations

from typing import Literal, cast

from lynxstop.calibration.losses import LOSSES
from lynxstop.errors import ConfigError

Target = Literal["agrees", "right"]
"""That the answer forced at a point equals the full trace's, or that it equals gold."""

LOSS_OF = {"agrees": LOSSES["disagree"], "right": LOSSES["wrong"]}
"""The loss of an exit where the target is missed, by target."""


def target_named(name: str) -> Target:
    """Return the target of that name.

    Raises
    ------
    ConfigError
        When there is none.
    """
    if name not in LOSS_OF:
        raise ConfigError(f"There is no target {name!r}.", hint=f"Targets: {', '.join(LOSS_OF)}.")
    return cast(Target, name)
