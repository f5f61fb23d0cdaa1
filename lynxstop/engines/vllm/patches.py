"""Whether lynxstop's wrappers are in place, and what is said where they are not."""

from __future__ import annotations

from typing import Any

from lynxstop.engines.vllm import compat

MARK = "_lynxstop"
"""Attribute of a method that is wrapped."""


def installed() -> bool:
    """Say whether the wrappers are in place in this process."""
    if compat.problem():
        return False
    from vllm.v1.engine.input_processor import InputProcessor

    return hasattr(InputProcessor.__init__, MARK)


def report_disabled(config: Any) -> None:
    """Show on /metrics that a bundle is configured but not active."""
    from lynxstop.engines.vllm.metrics import PluginMetrics

    PluginMetrics(served_name(config)).count("disabled")


def served_name(config: Any) -> str:
    """Name of the model on vLLM's own metrics."""
    name = config.model_config.served_model_name
    return str(name[0] if isinstance(name, list) else name)
