"""The engine for models of transformers."""

from lynxstop.extras import need

need("torch", "transformers")
need("transformers", "transformers")

from lynxstop.engines.transformers.engine import TransformersEngine  # noqa: E402
from lynxstop.engines.transformers.processor import LynxStopProcessor  # noqa: E402

__all__ = ["LynxStopProcessor", "TransformersEngine"]
