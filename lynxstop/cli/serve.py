"""`lynxstop serve`: start vLLM's OpenAI server with a bundle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lynxstop.cli._checks import check_folder
from lynxstop.cli._options import ServedRisk
from lynxstop.core.conditions import NEUTRAL, Uncertified
from lynxstop.core.families import ROWS
from lynxstop.errors import ConfigError

if TYPE_CHECKING:
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.proxy.config import ProxyConfig

PATIENCE = 30.0
"""Seconds between the signal that ends the server and its being killed, besides vLLM's --shutdown-timeout."""
FRONT = "lynxstop.proxy.vllm_middleware.VllmMiddleware"
"""What vLLM's server puts before its routes; it needs the configuration that `serve` writes."""
IGNORED = frozenset({"--api-server-count", "-asc", "--grpc", "--headless"})
"""Flags that vLLM's module takes and does nothing with: only its `vllm serve` obeys them."""
CHOSEN: dict[str, str | None] = {
    "think": "qwen3",  # reads a block that the prompt opens, and one that the model does
    "cohere": None,  # needs a package that vLLM does not bring
    "muse": None,  # is named otherwise in other versions
}
"""vLLM's reasoning parser of families where it is not the first that `lynxstop.core.families` names."""


def serve(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model folder (Hugging Face).")],
    bundle: Annotated[Path, typer.Option(help="Bundle made for this model.")],
    risk: ServedRisk = None,
    mode: Annotated[
        str | None, typer.Option(help="stop (default), or shadow: decide and count, never force.")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Folder to record the features of cues to.")] = None,
    uncertified: Annotated[
        Uncertified | None,
        typer.Option(
            help="Requests outside the certified conditions (sampling, penalties, budget, engine, "
            "data type): think, to the end (default); or stop, without a certificate."
        ),
    ] = None,
    loop_guard: Annotated[
        int | None,
        typer.Option(
            help="Copies of one passage in a row after which thinking is closed, beside any score.", min=2
        ),
    ] = None,
    close_open_thinking: Annotated[
        bool,
        typer.Option(
            "--close-open-thinking", help="Where a text ends inside the thinking, let the model answer."
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A lynxstop.toml: reasoning_effort and canary of [policy], and [monitor], as in the proxy."
        ),
    ] = None,
) -> None:
    """Serve a model with vLLM, stopping each request when its answer is known.

    Everything that follows is handed to vLLM. The bundle's data type, sampling parameters and reasoning
    parser are set unless given.

    **Examples**

    - `lynxstop serve data/reasoner --bundle probes/reasoner --port 8000`

    - `lynxstop serve MODEL --bundle BUNDLE --risk 0.05 --max-model-len 32768 --tensor-parallel-size 2`
    """
    from importlib.util import find_spec

    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.artifacts.fingerprint import fingerprint, require_same, require_same_template
    from lynxstop.engines.vllm.request_options import RequestOptionsReader
    from lynxstop.engines.vllm.settings import parse_risk, read_settings
    from lynxstop.errors import MissingExtraError
    from lynxstop.proxy.vllm_exchange import MiddlewareSetup
    from lynxstop.proxy.vllm_middleware import VARIABLE

    if find_spec("vllm") is None:
        raise MissingExtraError("vllm", "vllm")
    loaded = Bundle.load(bundle)
    recorded = loaded.policy.fingerprint
    require_same(recorded, fingerprint(model), f"The bundle {bundle}")
    if (template := _take(context.args, "--chat-template")[0]) is not None:
        require_same_template(recorded, template, f"The bundle {bundle}")
    settings: dict[str, Any] = {"bundle": str(bundle.resolve())}
    if mode is not None:
        settings["mode"] = mode
    if uncertified is not None:
        settings["uncertified"] = str(uncertified)
    if risk is not None:
        settings["risk"] = parse_risk(risk)
    if record is not None:
        check_folder(record, "--record")
        settings["record"] = str(record.resolve())
    if loop_guard is not None:
        settings["loop_guard"] = loop_guard
    if close_open_thinking:
        settings["close_open_thinking"] = True
    checked = read_settings({"lynxstop": settings})
    assert checked is not None
    # The middleware has to know what the plugin would read from the environment.
    settings |= {"mode": str(checked.mode), "uncertified": str(checked.uncertified)}
    if checked.risk is not None:
        settings["risk"] = checked.risk
    RequestOptionsReader(checked, loaded.policy.stop_policy(), loaded.policy.default_risk)
    middleware = middleware_config(config, loaded, settings)
    with tempfile.TemporaryDirectory(prefix="lynxstop-serve-") as folder:
        (reports := Path(folder) / "reports").mkdir()
        settings["reports"] = str(reports)
        written = Path(folder) / "middleware.json"
        MiddlewareSetup.write(written, middleware, bundle.resolve(), reports)
        environment = {"PROMETHEUS_MULTIPROC_DIR": folder, **os.environ, VARIABLE: str(written)}
        drain = _take(context.args, "--shutdown-timeout")[0] or "0"
        patience = PATIENCE + (float(drain) if drain.isdecimal() else 0.0)
        raise typer.Exit(run(command(model, loaded, settings, context.args), environment, patience))


def middleware_config(path: Path | None, bundle: Bundle, settings: dict[str, Any]) -> ProxyConfig:
    """Return the configuration of the middleware: [policy] and [monitor].

    Parameters
    ----------
    path : Path, optional
        As the proxy reads it; without one, nothing is audited and no effort has a level.
    bundle : Bundle
    settings : dict
        Of the plugin; they win over [policy].

    Raises
    ------
    ConfigError
        When the file cannot be read or is wrong, or audits do not go together with the bundle.
    """
    from lynxstop.proxy.config import PolicyConfig, ProxyConfig
    from lynxstop.proxy.monitoring import Monitoring
    from lynxstop.proxy.request_options import check_levels
    from lynxstop.proxy.sources import load

    found = ProxyConfig() if path is None else load(path, {}, {}).config
    given: dict[str, Any] = {
        name: settings[name] for name in ("risk", "mode", "uncertified") if name in settings
    }
    for name in sorted({"mode", "uncertified", "grace_days"} & found.policy.model_fields_set):
        if (value := getattr(found.policy, name)) != settings.get(name, 0.0):
            raise ConfigError(
                f"{path} says policy.{name} = {value}, and the plugin is started otherwise.",
                hint=f"Give --{name}, or leave it out of the file."
                if name != "grace_days"
                else "Set LYNXSTOP_GRACE_DAYS, and leave it out of the file.",
            )
    policy = PolicyConfig.model_validate({**found.policy.model_dump(), **given})
    middleware = ProxyConfig(policy=policy, monitor=found.monitor)
    check_levels(middleware.policy, bundle.policy.stop_policy())
    Monitoring.check(middleware, bundle)
    return middleware


def command(model: Path, bundle: Bundle, settings: dict[str, Any], flags: Sequence[str]) -> list[str]:
    """Write the command line of vLLM's server.

    Parameters
    ----------
    model : Path
        Model folder.
    bundle : Bundle
        Gives the data type, the sampling parameters and the delimiters it was certified with.
    settings : dict
        What goes under "lynxstop" in the additional configuration.
    flags : sequence of str
        Flags of vLLM; they win over what the bundle says.

    Raises
    ------
    ConfigError
        When the flags hold an additional configuration that is not a JSON object, or one of `IGNORED`.
    """
    policy = bundle.policy
    names = {flag.partition("=")[0].replace("_", "-") for flag in flags}
    if ignored := sorted(IGNORED & names):
        raise ConfigError(
            f"The server that `lynxstop serve` starts does not obey {', '.join(ignored)}.",
            hint="Leave it out, or use `vllm serve` with --additional-config, which reports no exits.",
        )
    given, rest = _take(flags, "--additional-config")
    try:
        additional = json.loads(given or "{}") | {"lynxstop": settings}
    except (json.JSONDecodeError, TypeError) as error:
        raise ConfigError("--additional-config is not a JSON object.") from error
    # The model's generation_config.json may name settings that no certificate is made under, and a limit.
    sampling: dict[str, Any] = {name: value for name, value in NEUTRAL.items() if value is not None}
    sampling |= {key: getattr(policy.sampling, key) for key in ("temperature", "top_p", "top_k")}
    sampling["max_new_tokens"] = None
    defaults = {
        "--dtype": policy.dtype.partition(",")[0],
        "--override-generation-config": json.dumps(sampling),
        "--reasoning-parser": reasoning_parser(policy.think_open[0]),
    }
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    line += ["--additional-config", json.dumps(additional), "--middleware", FRONT]
    for flag, value in defaults.items():
        if value is not None and _take(rest, flag)[0] is None:
            line += [flag, value]
    return line + rest


def reasoning_parser(opening: str) -> str | None:
    """Return vLLM's parser of a model whose thinking opens with a text; None where none is sure to start."""
    for row in ROWS:
        if opening in row.open:
            return CHOSEN.get(row.name, next(iter(row.parsers), None))
    return None


def run(line: Sequence[str], environment: dict[str, str], patience: float = PATIENCE) -> int:
    """Run a server to its end, passing on the signals that end it; return its exit status.

    Parameters
    ----------
    line : sequence of str
    environment : dict
    patience : float
        Seconds that it has to end after such a signal. Then it is killed with all its processes: vLLM can
        wait for ever for a stream whose engine is gone.
    """
    process = subprocess.Popen(line, env=environment, start_new_session=True)
    timer = threading.Timer(patience, _kill, (process, patience))
    timer.daemon = True

    def pass_on(number: int, frame: object) -> None:
        process.send_signal(number)
        if timer.ident is None:
            timer.start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    try:
        status = process.wait()
    finally:
        timer.cancel()
    return status if status >= 0 else 128 - status


def _kill(process: subprocess.Popen[bytes], patience: float) -> None:
    print(f"lynxstop: the server did not end within {patience:g} s; killing it.", file=sys.stderr)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _take(flags: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Split off a flag given as `--name value` or `--name=value`; return its value and the other flags."""
    rest, value = list(flags), None
    for i, flag in enumerate(flags):
        if flag == name and i + 1 < len(flags):
            value, rest = flags[i + 1], [*flags[:i], *flags[i + 2 :]]
        elif flag.startswith(f"{name}="):
            value, rest = flag.partition("=")[2], [*flags[:i], *flags[i + 1 :]]
    return value, rest
