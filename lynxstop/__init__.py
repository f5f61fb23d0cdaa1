"""lynxstop: stop reasoning models when they know the answer, with a certified risk per request."""

from lynxstop._version import __version__
from lynxstop.errors import LynxstopError

__all__ = ["LynxstopError", "__version__"]
