"""Everything that reaches further than vLLM's public seams, in one place.

Three things have no public seam: getting hold of the loaded model runner (hidden states, the tokens of a
step),
the V2 runner's requests leaving their slots, and checking a request's arguments against the served bundle.
Each is one wrapped method. The wrappers are installed by vLLM's general-plugin hook in every process.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import vllm

from lynxstop.engines.vllm.settings import read_settings
from lynxstop.engines.vllm.terms import PREFIX
from lynxstop.errors import ConfigError, LynxstopError

if TYPE_CHECKING:
    from lynxstop.engines.vllm.processor import LynxstopProcessor
    from lynxstop.engines.vllm.recorder import Recorder

TESTED = ("0.32",)
"""Versions of vLLM whose inner workings are known."""

logger = logging.getLogger("vllm.lynxstop")
_MARK = "_lynxstop"


def installed() -> bool:
    """Say whether the wrappers are in place in this process."""
    from vllm.v1.engine.input_processor import InputProcessor

    return hasattr(InputProcessor.__init__, _MARK)


def install() -> None:
    """Put the wrappers in place; calling it again changes nothing."""
    if installed():
        return
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.worker import cpu_model_runner, gpu_model_runner
    from vllm.v1.worker.gpu import model_runner

    for runner in (
        gpu_model_runner.GPUModelRunner,
        cpu_model_runner.CPUModelRunner,
        model_runner.GPUModelRunner,
    ):
        _wrap(runner, "load_model", _loading)
    _wrap(InputProcessor, "__init__", _checking)


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
    """Show on /metrics that a bundle is configured but not at work."""
    from lynxstop.engines.vllm.metrics import Metrics

    Metrics(served_name(config)).count("disabled")


def served_name(config: Any) -> str:
    """Name of the model on vLLM's own metrics."""
    name = config.model_config.served_model_name
    return str(name[0] if isinstance(name, list) else name)


def _wrap(owner: type, name: str, around: Callable[..., Any]) -> None:
    inner = owner.__dict__.get(name)
    if inner is None or hasattr(inner, _MARK):
        return

    @functools.wraps(inner)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(functools.partial(inner, self), self, *args, **kwargs)

    setattr(wrapped, _MARK, True)
    setattr(owner, name, wrapped)


def _loading(load: Callable[..., Any], runner: Any, *args: Any, **kwargs: Any) -> Any:
    """Load the model, then hand the runner to the processor."""
    config = runner.vllm_config
    settings = read_settings(config.additional_config)
    if settings is None:
        return load(*args, **kwargs)
    from lynxstop.engines.vllm.arming import arm, check_engine

    check_version()
    check_engine(config, settings)
    result = load(*args, **kwargs)
    _hand_over(runner, arm(config, settings))
    return result


def _hand_over(runner: Any, armed: Any) -> None:
    from lynxstop.engines.vllm.desk import FirstDesk, SecondDesk
    from lynxstop.engines.vllm.draws import Draws
    from lynxstop.engines.vllm.hidden import HiddenStates
    from lynxstop.engines.vllm.metrics import Metrics
    from lynxstop.engines.vllm.recorder import Recorder
    from lynxstop.engines.vllm.spool import Spool
    from lynxstop.engines.vllm.watcher import Watcher

    config = runner.vllm_config
    first = hasattr(runner, "input_batch")
    if not first and runner.sampler is None:
        logger.info("lynxstop: this pipeline stage does not sample and stays idle.")
        return
    ours = _processors(runner)
    if not ours:
        raise ConfigError(
            "vLLM did not take up lynxstop's logits processor.",
            hint="Install lynxstop so that its entry points are found, or pass --logits-processors "
            "lynxstop.engines.vllm.processor:LynxstopProcessor.",
        )
    model, layers = runner.get_model(), armed.probe.layers
    # Part of the configuration's hash: a graph compiled without these taps must not be taken for one with
    # them.
    config.additional_config["lynxstop_layers"] = list(layers)
    hidden = HiddenStates(
        model,
        layers,
        armed.depth,
        config.model_config.hf_text_config.hidden_size,
        config.scheduler_config.max_num_batched_tokens,
        config.model_config.dtype,
        runner.device,
    )
    slots = runner.max_num_reqs + 1
    sessions = make_sessions(armed, runner.device, slots)
    metrics = Metrics(served_name(config), sessions.counters)
    recorder = None
    if armed.settings.record is not None:
        spool = Spool(armed.settings.record, lost=lambda rows: metrics.count("dropped", rows))
        recorder = Recorder(spool, slots, armed.setup.policy.exit_ids[0])
    watcher = Watcher(sessions, hidden, metrics, recorder, Draws(slots))
    desk = (FirstDesk if first else SecondDesk)(runner, armed, watcher)
    if isinstance(desk, SecondDesk):
        _before(runner, "finish_requests", desk.finishing)
        _before(runner, "add_requests", desk.arriving)
        _before(runner, "sample", lambda hidden_states, batch, *rest: desk.sampling(batch))
    ours[0].desk = desk
    logger.info(
        "lynxstop is at work: %s, layers %s, default risk %s, mode %s.",
        armed.name,
        list(layers),
        armed.terms.default_risk,
        armed.settings.mode,
    )


def make_sessions(armed: Any, device: Any, slots: int) -> Any:
    """Make the sessions: arithmetic on the device for a probe at cues, the core's own for everything else."""
    from lynxstop.core.points import CUE
    from lynxstop.engines.vllm.host import HostSessions
    from lynxstop.engines.vllm.sessions import Sessions
    from lynxstop.engines.vllm.single import SingleSessions

    policy = armed.setup.policy
    if policy.rule is None and policy.points == CUE:
        kind = HostSessions if device.type == "cpu" else Sessions
        return kind(armed.machine, policy, armed.probe, device, slots, armed.closed)
    record = armed.settings.record is not None
    return SingleSessions(
        armed.machine.watch, policy, armed.probe, device, slots, armed.closed, record=record
    )


def recorder_of(runner: Any) -> Recorder | None:
    """Return what records at a runner; None where nothing does."""
    desks = [one.desk for one in _processors(runner) if one.desk is not None]
    return desks[0].watcher.recorder if desks else None


def _processors(runner: Any) -> list[LynxstopProcessor]:
    from lynxstop.engines.vllm.processor import LynxstopProcessor

    if hasattr(runner, "input_batch"):
        everyone = runner.input_batch.logitsprocs.all
    else:
        everyone = getattr(runner.sampler, "logits_processors", ())
    return [one for one in everyone if isinstance(one, LynxstopProcessor)]


def _before(runner: Any, name: str, notice: Callable[..., None]) -> None:
    """Call `notice` with the arguments of a method before it runs; its errors are logged, never raised."""
    inner = getattr(runner, name)

    @functools.wraps(inner)
    def noticed(*args: Any, **kwargs: Any) -> Any:
        try:
            notice(*args, **kwargs)
        except Exception as error:
            logger.error("lynxstop could not follow %s.", name, exc_info=error)
        return inner(*args, **kwargs)

    setattr(runner, name, noticed)


def _checking(make: Callable[..., Any], processor: Any, *args: Any, **kwargs: Any) -> None:
    """Make the front end's input processor check lynxstop's arguments against the served bundle."""
    config = args[0] if args else kwargs["vllm_config"]
    settings = read_settings(config.additional_config)
    terms = None
    if settings is not None:
        from lynxstop.engines.vllm.arming import check_engine, read_terms

        check_version()
        check_engine(config, settings)
        terms = read_terms(settings)
    make(*args, **kwargs)
    inner = processor.validate_logits_processors_params

    def validate(params: Any) -> None:
        inner(params)
        given = params.extra_args
        if not given or not any(key.startswith(PREFIX) for key in given):
            return
        from vllm.exceptions import VLLMValidationError

        try:
            if terms is None:
                raise ConfigError("This server serves no lynxstop bundle.")
            terms.read(given)
        except LynxstopError as error:
            raise VLLMValidationError(str(error)) from error

    processor.validate_logits_processors_params = validate
