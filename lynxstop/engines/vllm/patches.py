"""Whether lynxstop's wrappers are in place, and which versions of vLLM they fit."""

from __future__ import annotations

from typing import Any

import vllm

from lynxstop.errors import ConfigError

TESTED = ("0.32",)
"""Versions of vLLM whose inner workings are known."""

MARK = "_lynxstop"
"""Attribute of a method that is wrapped."""


def installed() -> bool:
    """Say whether the wrappers are in place in this process."""
    from vllm.v1.engine.input_processor import InputProcessor

    return hasattr(InputProcessor.__init__, MARK)


def check_version() -> None:
    """Refuse a vLLM whose inner workings are not known.

    Raises
    ------
    ConfigError
        Names the versions that are.
    """
    version = vllm.__version__
    if not any(version == known or version.startswith(f"{known}.") for known in TESTED):
        raise ConfigError(
            f"lynxstop does not know vLLM {version}.",
            hint=f"Install vLLM {' or '.join(TESTED)}, or a newer lynxstop.",
        )


def report_disabled(config: Any) -> None:
    """Show on /metrics that a bundle is configured but not active."""
    from lynxstop.engines.vllm.metrics import PluginMetrics

    PluginMetrics(served_name(config)).count("disabled")


def served_name(config: Any) -> str:
    """Name of the model on vLLM's own metrics."""
    name = config.model_config.served_model_name
    return str(name[0] if isinstance(name, list) else name)
