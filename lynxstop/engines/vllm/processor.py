"""The logits processor that vLLM loads: one class for both of its model runners."""

from __future__ import annotations

import importlib
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lynxstop.engines.vllm import compat, patches
from lynxstop.engines.vllm.request_options import PREFIX
from lynxstop.engines.vllm.settings import PluginSettings, read_settings

if TYPE_CHECKING:
    from torch import Tensor

    from lynxstop.engines.vllm.adapters import RunnerAdapter

logger = logging.getLogger("vllm.lynxstop")


def _interfaces() -> tuple[type, ...]:
    """Find the interfaces of both runners; a vLLM beyond the supported ones may lack one and still starts."""
    found = []
    for module in (compat.FIRST_PROCESSORS, compat.SECOND_PROCESSORS):
        with suppress(ImportError, AttributeError):
            found.append(importlib.import_module(module).LogitsProcessor)
    return tuple(found)


class LynxstopProcessor(*_interfaces()):  # type: ignore[misc]
    """Stops thinking early, inside the engine.

    Both runners construct it at start-up; without a bundle configured it stays idle. It begins its work
    when the loaded runner is handed to it (`lynxstop.engines.vllm.attach`).

    Attributes
    ----------
    adapter : RunnerAdapter or None
        Serves the steps of the runner; None while idle.
    """

    def __init__(self, config: Any, *rest: Any) -> None:
        self.settings: PluginSettings | None = read_settings(config.additional_config)
        self.adapter: RunnerAdapter | None = None
        if self.settings is not None:
            compat.check_version()
        if self.settings is not None and not patches.installed():
            logger.error(
                "lynxstop is disabled: its plugin was not loaded in this process. "
                "Add 'lynxstop' to VLLM_PLUGINS."
            )
            patches.report_disabled(config)
            self.settings = None

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse arguments of lynxstop that would have no effect; `attach` checks them where a bundle is
        served."""
        if not patches.installed() and any(
            key.startswith(PREFIX) for key in sampling_params.extra_args or ()
        ):
            raise ValueError("lynxstop is not active on this server: its plugin was not loaded.")

    def is_argmax_invariant(self) -> bool:
        """Say that greedy sampling may skip this; true only while idle."""
        return self.settings is None

    def update_state(self, batch_update: Any) -> None:
        """Follow changes of the batch (first runner)."""
        if self.adapter is not None and batch_update is not None:
            self.adapter.update(batch_update)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take a request into a slot (second runner); True when it is watched."""
        return self.adapter is not None and self.adapter.add(req_idx, sampling_params)

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """Read the step and raise the logits of forced tokens in place."""
        if self.adapter is not None:
            self.adapter.apply(logits, ctx)
        return logits
