"""Every patch of vLLM, in one place: what its public interfaces do not offer.

Three things have no public interface: getting hold of the loaded model runner (hidden states, the tokens of a
step), the V2 runner's requests leaving their slots, and checking a request's arguments against the served
bundle. Each is one wrapped method. The wrappers are installed by vLLM's general-plugin hook in every process.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from lynxstop.core.points import CUE
from lynxstop.engines.vllm.compat import check_fields, check_version
from lynxstop.engines.vllm.patches import MARK, installed, served_name
from lynxstop.engines.vllm.request_options import PREFIX
from lynxstop.engines.vllm.settings import read_settings
from lynxstop.errors import ConfigError, LynxstopError

logger = logging.getLogger("vllm.lynxstop")


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


def _wrap(owner: type, name: str, around: Callable[..., Any]) -> None:
    inner = owner.__dict__.get(name)
    if inner is None or hasattr(inner, MARK):
        return

    @functools.wraps(inner)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(functools.partial(inner, self), self, *args, **kwargs)

    setattr(wrapped, MARK, True)
    setattr(owner, name, wrapped)


def _loading(load: Callable[..., Any], runner: Any, *args: Any, **kwargs: Any) -> Any:
    """Load the model, then hand the runner to the processor."""
    config = runner.vllm_config
    settings = read_settings(config.additional_config)
    if settings is None:
        return load(*args, **kwargs)
    from lynxstop.engines.vllm.served_bundle import check_engine, load_served

    check_version()
    check_engine(config, settings)
    result = load(*args, **kwargs)
    _hand_over(runner, load_served(config, settings))
    return result


def _hand_over(runner: Any, served: Any) -> None:
    from lynxstop.engines.vllm.adapters import V1Adapter, V2Adapter
    from lynxstop.engines.vllm.hidden import HiddenStates
    from lynxstop.engines.vllm.metrics import PluginMetrics
    from lynxstop.engines.vllm.recorder import Recorder
    from lynxstop.engines.vllm.row_files import MEMORY, RowBuffer, RowFiles

    config = runner.vllm_config
    first = hasattr(runner, "input_batch")
    for thing in (runner, runner.input_batch if first else runner.req_states):
        check_fields(thing)
    leads, samples = _rank()
    if not samples:
        logger.info("lynxstop: this pipeline stage does not sample and stays idle.")
        return
    ours = _processors(runner)
    if not ours:
        raise ConfigError(
            "vLLM did not take up lynxstop's logits processor.",
            hint="Install lynxstop so that its entry points are found, or pass --logits-processors "
            "lynxstop.engines.vllm.processor:LynxstopProcessor.",
        )
    model, layers = runner.get_model(), served.probe.layers
    # Part of the configuration's hash: a graph compiled without these taps must not be taken for one with
    # them.
    config.additional_config["lynxstop_layers"] = list(layers)
    hidden = HiddenStates(
        model,
        layers,
        served.depth,
        config.model_config.hf_text_config.hidden_size,
        config.scheduler_config.max_num_batched_tokens,
        config.model_config.dtype,
        runner.device,
    )
    slots = runner.max_num_reqs + 1
    speculation = config.speculative_config
    drafts = None if speculation is None else int(speculation.num_speculative_tokens)
    sessions = make_sessions(served, runner.device, slots, drafts)
    metrics = PluginMetrics(served_name(config), sessions.counters, leads=leads)
    recorder = None
    if served.settings.record is not None and leads:
        rows: RowBuffer | RowFiles = RowBuffer()
        if str(served.settings.record) != MEMORY:
            rows = RowFiles(served.settings.record, lost=lambda count: metrics.count("dropped", count))
        recorder = Recorder(rows, served.setup.policy.exit_ids[0])
    beside = _beside(served, slots, runner.device, leads)
    parts = (runner, served, sessions, hidden, metrics, recorder, *beside)
    adapter = V1Adapter(*parts) if first else V2Adapter(*parts, drafts=drafts)
    if isinstance(adapter, V2Adapter):
        _before(runner, "finish_requests", adapter.finishing)
        _before(runner, "add_requests", adapter.arriving)
        _before(runner, "sample", lambda hidden_states, batch, *rest: adapter.sampling(batch))
    ours[0].adapter = adapter
    logger.info(
        "lynxstop is active: %s, layers %s, default risk %s, mode %s.",
        served.name,
        list(layers),
        served.options.default_risk,
        served.settings.mode,
    )


def _rank() -> tuple[bool, bool]:
    """Whether this process is the one that tells of its requests, and whether it samples them.

    All ranks of tensor parallelism decide the same, and the last stage of a pipeline decides alone.
    """
    from vllm.distributed.parallel_state import get_pp_group, get_tensor_model_parallel_rank

    return get_tensor_model_parallel_rank() == 0, get_pp_group().is_last_rank


def _beside(served: Any, slots: int, device: Any, leads: bool) -> tuple[Any, Any]:
    """Make what reports exits to the server, in one process; and what ends thinking where a text ends."""
    from lynxstop.engines.vllm.end_of_text import EndOfText
    from lynxstop.engines.vllm.exit_reports import ExitReports

    settings, reports, ends = served.settings, None, None
    if settings.reports is not None and leads:
        reports = ExitReports(settings.reports)
    if settings.close_open_thinking and served.end_ids:
        ends = EndOfText(served.end_ids, served.setup.policy.exit_ids[served.closed - 1], slots, device)
    return reports, ends


def make_sessions(served: Any, device: Any, slots: int, drafts: int | None = None) -> Any:
    """Make the sessions: arithmetic on a device for a probe at cues, the core's own for everything else.

    `drafts` is the most drafts of a request in a step; None without speculative decoding.
    """
    from lynxstop.engines.vllm.device_sessions import DeviceSessions
    from lynxstop.engines.vllm.drafted_sessions import DraftedSessions
    from lynxstop.engines.vllm.fused_sessions import FusedSessions, can_fuse
    from lynxstop.engines.vllm.host_sessions import HostSessions
    from lynxstop.engines.vllm.per_request import PerRequestSessions

    policy = served.setup.policy
    if policy.rule is None and policy.points == CUE and policy.loop_guard is None:
        fused = served.settings.fused_kernel and can_fuse(device)
        if _on_host(device) and drafts is None and not fused:
            return HostSessions(served.automaton.watch, policy, served.probe, slots, served.closed)
        given = (served.automaton, policy, served.probe, device, slots, served.closed)
        sessions = DeviceSessions(*given) if drafts is None else DraftedSessions(*given, drafts=drafts)
        sessions.reports_exits = served.settings.reports is not None
        return FusedSessions(sessions) if fused else sessions
    if drafts is not None:
        raise ConfigError(
            "Under speculative decoding only a probe at cues is served, without a rule or a loop guard.",
            hint="Switch speculative decoding off, or serve a bundle of that kind.",
        )
    record = served.settings.record is not None
    return PerRequestSessions(
        served.automaton, policy, served.probe, device, slots, served.closed, record=record
    )


def _on_host(device: Any) -> bool:
    """Whether tokens and hidden states need not be waited for."""
    return str(device.type) == "cpu"


def recorder_of(runner: Any) -> Any | None:
    """Return what records at a runner; None where nothing does."""
    adapters = [one.adapter for one in _processors(runner) if one.adapter is not None]
    return adapters[0].recorder if adapters else None


def _processors(runner: Any) -> list[Any]:
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
    options = None
    if settings is not None:
        from lynxstop.engines.vllm.served_bundle import check_engine, read_request_options

        check_version()
        check_engine(config, settings)
        options = read_request_options(settings)
    make(*args, **kwargs)
    inner = processor.validate_logits_processors_params

    def validate(params: Any) -> None:
        inner(params)
        given = params.extra_args
        if not given or not any(key.startswith(PREFIX) for key in given):
            return
        from vllm.exceptions import VLLMValidationError

        try:
            if options is None:
                raise ConfigError("This server serves no lynxstop bundle.")
            options.read(given)
        except LynxstopError as error:
            raise VLLMValidationError(str(error)) from error

    processor.validate_logits_processors_params = validate
