"""vLLM's general-plugin hook: runs in the API server, the engine core and every worker."""

from __future__ import annotations


def register() -> None:
    """Install the wrappers; without a bundle configured they change nothing.

    A vLLM that lynxstop does not know is left as it is: the logits processor refuses to serve a bundle in it.
    """
    from lynxstop.engines.vllm import compat

    if compat.problem() is None:
        from lynxstop.engines.vllm import attach

        attach.install()
