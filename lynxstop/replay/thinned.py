"""Recordings under guards: exits were forced only at the decision points that these let exit."""

from __future__ import annotations

from typing import Any

from lynxstop.core.policy import GUARDS, StopPolicy
from lynxstop.errors import DataError


def guards_of(meta: Any) -> dict[str, Any]:
    """Return the guards of a recording, settings of `GUARDS`; one that says nothing of them has none."""
    return {name: getattr(meta, name, usual) for name, usual in GUARDS.items()}


def chosen_already(meta: Any, policy: StopPolicy) -> bool:
    """Say whether the recorded points are just those that the policy's guards let exit.

    A policy without guards takes the points as they were recorded.

    Raises
    ------
    DataError
        When the policy's guards are others than those of the recording: they could let an exit happen at a
        point that has no recorded answer.
    """
    guards = guards_of(meta)
    if guards == GUARDS:
        return False
    if policy.guarded and policy.guards != guards:
        own = ", ".join(f"{name} {value}" for name, value in guards.items() if value != GUARDS[name])
        raise DataError(
            f"These data were recorded at the decision points that other guards choose: {own}.",
            hint="Take the same guards, or collect again with those of the policy, or with none.",
        )
    return True
