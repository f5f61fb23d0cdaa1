"""vLLM's general-plugin hook: runs in the API server, the engine core and every worker."""

from __future__ import annotations


def register() -> None:
    """Install the wrappers; without a bundle configured they change nothing."""
    from lynxstop.engines.vllm import attach

    attach.install()
