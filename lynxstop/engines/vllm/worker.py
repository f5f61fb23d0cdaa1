"""What the collector asks of vLLM's workers, through vLLM's own remote calls."""

from __future__ import annotations

from typing import Any


class FlushingWorker:
    """For `worker_extension_cls`: its methods become those of the workers."""

    def lynxstop_flush(self) -> None:
        """Write what was recorded to the spool, now."""
        from lynxstop.engines.vllm.seams import recorder_of

        runner: Any = self.model_runner  # type: ignore[attr-defined]
        if (recorder := recorder_of(runner)) is not None:
            recorder.spool.flush()
