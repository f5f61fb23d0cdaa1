"""Remote calls of the collector, through vLLM's own `collective_rpc`."""

from __future__ import annotations

from typing import Any


class RecordingWorker:
    """For `worker_extension_cls`: its methods become those of the workers."""

    def lynxstop_take_rows(self) -> bytes:
        """Return what was recorded since the last call, in the format of `row_files.unpack`."""
        from lynxstop.engines.vllm.attach import recorder_of
        from lynxstop.engines.vllm.row_files import RowBuffer

        runner: Any = self.model_runner  # type: ignore[attr-defined]
        recorder = recorder_of(runner)
        if recorder is None or not isinstance(recorder.rows, RowBuffer):
            return b""
        return recorder.rows.take()
