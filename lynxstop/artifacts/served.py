"""What a bundle is served as: everything that its certificates depend on."""

from __future__ import annotations

from typing import Any

from lynxstop.artifacts.policy import LATER_SETTINGS, Policy

SHARED = ("engine", "dtype", "cue_words", "cue_paragraph", "think_open", "think_close", "exit_ids", "budget")
"""Settings that recorded data and the bundle have in common."""


def served_as(policy: Policy) -> dict[str, Any]:
    """Everything a certificate of this bundle depends on, as plain JSON."""
    names = ("fingerprint", "sampling", "min_tokens", "cooldown", "exit_text", *SHARED)
    dumped = policy.model_dump(mode="json")
    return {name: dumped[name] for name in names} | {
        name: dumped[name] for name, usual in LATER_SETTINGS.items() if dumped[name] != usual
    }
