"""lynxstop: stop reasoning models when they know the answer, with a certified risk per request.

The names below are loaded when they are first used: `import lynxstop` itself loads Python's own library only.
`certify` does the whole work. Its steps, in order: `load_problems`, `record`, `ProbeTrainer`, `calibrate`,
`verify`, `load_engine` and `compare`.
"""

from lynxstop._version import __version__
from lynxstop.errors import LynxstopError

TYPE_CHECKING = False
"""As in `typing`, which takes longer to import than all of this; type checkers take it for true."""

if TYPE_CHECKING:
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.artifacts.probe import Probe
    from lynxstop.artifacts.recipe import Recipe
    from lynxstop.calibration.certificate import Certificate
    from lynxstop.calibration.run import calibrate
    from lynxstop.calibration.traces import TraceTable
    from lynxstop.calibration.verify import verify
    from lynxstop.collect.options import CollectOptions
    from lynxstop.collect.recording import record
    from lynxstop.core.policy import StopPolicy
    from lynxstop.engines.transformers.engine import TransformersEngine as Engine
    from lynxstop.engines.transformers.loading import load_engine
    from lynxstop.evaluate.compare import compare
    from lynxstop.probes.trainer import ProbeTrainer
    from lynxstop.recordings.problems import load_problems
    from lynxstop.recordings.storage import Recording
    from lynxstop.workflows.certify import certify

__all__ = [
    "Bundle",
    "Certificate",
    "CollectOptions",
    "Engine",
    "LynxstopError",
    "Probe",
    "ProbeTrainer",
    "Recipe",
    "Recording",
    "StopPolicy",
    "TraceTable",
    "__version__",
    "calibrate",
    "certify",
    "compare",
    "load_engine",
    "load_problems",
    "record",
    "verify",
]

_HOMES = {
    "Bundle": "artifacts.bundle",
    "Certificate": "calibration.certificate",
    "CollectOptions": "collect.options",
    "Engine": "engines.transformers.engine:TransformersEngine",
    "Probe": "artifacts.probe",
    "ProbeTrainer": "probes.trainer",
    "Recipe": "artifacts.recipe",
    "Recording": "recordings.storage",
    "StopPolicy": "core.policy",
    "TraceTable": "calibration.traces",
    "calibrate": "calibration.run",
    "certify": "workflows.certify",
    "compare": "evaluate.compare",
    "load_engine": "engines.transformers.loading",
    "load_problems": "recordings.problems",
    "record": "collect.recording",
    "verify": "calibration.verify",
}

if not TYPE_CHECKING:

    def __getattr__(name):
        """Load a public name from the module that defines it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module, _, own = _HOMES[name].partition(":")
        found = globals()[name] = getattr(import_module(f"lynxstop.{module}"), own or name)
        return found


def __dir__() -> list[str]:
    """List the public names and what is loaded."""
    return sorted({*globals(), *__all__})
