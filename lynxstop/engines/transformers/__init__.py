"""The engine for models of transformers."""

import warnings

from lynxstop.extras import need

need("torch", "transformers")
need("transformers", "transformers")

from lynxstop.engines.transformers.engine import TransformersEngine  # noqa: E402
from lynxstop.engines.transformers.processor import EarlyExitProcessor  # noqa: E402

__all__ = ["EarlyExitProcessor", "TransformersEngine"]


def __getattr__(name: str) -> object:
    """Return `EarlyExitProcessor` by its former, documented name."""
    if name == "LynxStopProcessor":
        warnings.warn(
            "LynxStopProcessor is now EarlyExitProcessor.", category=DeprecationWarning, stacklevel=2
        )
        return EarlyExitProcessor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
