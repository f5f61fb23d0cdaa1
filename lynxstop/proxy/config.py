"""The proxy's configuration: one value object per section of lynxstop.toml."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from lynxstop.core.conditions import Uncertified
from lynxstop.remote.dialects.table import DIALECTS
from lynxstop.remote.http.config import ConnectionConfig, Key, Section

Risk = Annotated[float, Field(gt=0, lt=1)] | Literal["off"]
"""A certified level of the bundle, or "off"."""


def _dialect(name: str) -> str:
    names = ("auto", *DIALECTS)
    if name not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return name


class ServeConfig(Section):
    """[serve]: where and how the proxy listens."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8400, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: PositiveInt = Field(default=1, description="Processes; limits hold for each of them.")
    api_keys: tuple[Key, ...] = Field(
        default=(),
        description="Keys that clients must show; none: the client's own key goes to the upstream.",
    )
    tls_certificate: Path | None = Field(default=None, description="PEM file of the certificate chain.")
    tls_key: Path | None = Field(default=None, description="PEM file of the private key.")
    drain_seconds: NonNegativeInt = Field(
        default=30, description="At SIGTERM, how long requests under way may go on."
    )
    otel: bool = Field(default=False, description="Send OpenTelemetry spans; OTEL_* variables say where to.")

    @model_validator(mode="after")
    def _whole_pair(self) -> ServeConfig:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        return self


class UpstreamConfig(ConnectionConfig):
    """[upstream]: the server that the proxy forwards to."""

    dialect: Annotated[str, AfterValidator(_dialect)] = Field(
        default="auto", description="What kind of server it is; auto asks it."
    )
    model: str | None = Field(
        default=None, description="Model that /ready is about; none: the first that the server lists."
    )
    recheck_seconds: PositiveFloat = Field(
        default=10.0, description="Age of an examination after which a watched model is examined again."
    )
    continuation_tries: int = Field(
        default=3, ge=1, le=3, description="How often a continuation is asked for before its first token."
    )


class PolicyConfig(Section):
    """[policy]: what is stopped, at which risk."""

    bundle: Path | None = Field(default=None, description="Bundle whose probe and certified levels are used.")
    risk: Risk | None = Field(
        default=None, description='Level of requests that name none, or "off"; none: the bundle\'s default.'
    )
    mode: Literal["stop", "shadow"] = Field(
        default="stop", description="shadow: decide and count, never stop."
    )
    reasoning_effort: dict[str, Risk] = Field(
        default={}, description="Level by the request's reasoning_effort, as in low=0.1,high=off."
    )
    uncertified: Uncertified = Field(
        default=Uncertified.THINK,
        description="Requests outside the certified conditions, or at an expired level: "
        "think, or stop without a certificate.",
    )
    grace_days: NonNegativeFloat = Field(
        default=0.0, description="Days for which a level is still used after it has expired."
    )
    canary: float = Field(
        default=1.0, ge=0, le=1, description="Share of the requests that may be stopped at all."
    )

    def level_of_effort(self, body: Mapping[str, Any]) -> Risk | None:
        """Return the level that the reasoning effort of a request stands for; None where it names none."""
        return self.reasoning_effort.get(str(body.get("reasoning_effort")))


class LimitsConfig(Section):
    """[limits]: what one process takes on."""

    body_bytes: PositiveInt = Field(
        default=64 * 2**20,
        description="Largest body of a request that is read into memory; relayed ones never are.",
    )
    body_seconds: PositiveFloat = Field(
        default=60.0, description="Longest wait for a body that is read into memory; then 408."
    )
    event_bytes: PositiveInt = Field(default=16 * 2**20, description="Largest streamed event.")
    concurrent: PositiveInt = Field(default=1024, description="Requests at a time.")
    queue: NonNegativeInt = Field(default=256, description="Requests that wait for their turn; more get 503.")
    queue_seconds: NonNegativeFloat = Field(default=10.0, description="Longest wait for the turn; then 503.")


class RecordConfig(Section):
    """[record]: shadow traffic kept in local files, for calibration on your own prompts."""

    folder: Path | None = Field(default=None, description="Folder to record to; none: nothing is recorded.")
    redact: bool = Field(default=True, description="Keep no prompts.")


class MonitorConfig(Section):
    """[monitor]: audits of the certified risk on live traffic, and what follows from them."""

    state: Path | None = Field(
        default=None, description="Folder of the journal of audits; none: nothing is audited."
    )
    redis: SecretStr | None = Field(
        default=None, description="Redis server that keeps the journal in place of the folder, for replicas."
    )
    audit: float = Field(default=0.01, ge=0, le=1, description="Share of the requests that are audited.")
    holdout: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share that is never stopped, for comparison; each prompt is also answered again.",
    )
    key: Key | None = Field(
        default=None, description="Secret that draws these requests; none: another one in every process."
    )
    level: float = Field(default=0.01, gt=0, lt=1, description="Probability that an alarm is ever false.")
    on_alarm: Literal["think", "stricter", "warn"] = Field(
        default="think",
        description="think: no exits at that level; stricter: those of the next stricter; warn: only tell.",
    )
    stop_on_change: bool = Field(
        default=False,
        description="Take a recent rise of the risk for an alarm, too; found sooner, false at times.",
    )
    grader: str | None = Field(
        default=None,
        description="Compares answers; none: the grader of the bundle. A function has to be named.",
    )
    concurrent: PositiveInt = Field(default=2, description="Audits of one process at a time.")
    waiting: PositiveInt = Field(default=64, description="Audits that wait; while so many do, none is begun.")
    seconds: PositiveFloat = Field(default=600.0, description="Longest audit; then it counts as a loss.")
    priority: int | None = Field(
        default=None,
        description="Priority of an audit's requests, for vLLM with --scheduling-policy priority.",
    )

    @model_validator(mode="after")
    def _whole(self) -> MonitorConfig:
        if self.audit + self.holdout > 1:
            raise ValueError("audit and holdout are shares of the traffic, together at most 1")
        return self

    @property
    def on(self) -> bool:
        """Whether anything is audited."""
        return self.state is not None or self.redis is not None


class AdminConfig(Section):
    """[admin]: a port of its own for the page of operators, answer now, reload and metrics."""

    host: str = Field(default="127.0.0.1", description="Address that the admin port listens on.")
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Admin port, which then alone has /lynxstop and /metrics; none: the port of the traffic.",
    )
    api_keys: tuple[Key, ...] = Field(
        default=(), description="Keys of operators; none: those of serve.api_keys."
    )


class BackendConfig(Section):
    """[[backend]]: models with a server or a bundle of their own.

    In the file it has the keys of [upstream] and [policy] side by side; what it leaves out is as there,
    except the bundle and the model.
    """

    models: tuple[str, ...] = Field(
        min_length=1, description="Names in requests, or patterns such as qwen-*, that go to this backend."
    )
    upstream: UpstreamConfig = UpstreamConfig()
    policy: PolicyConfig = PolicyConfig()

    @property
    def name(self) -> str:
        """What logs and metrics call it."""
        return self.models[0]

    def takes(self, model: str) -> bool:
        """Whether requests for a model go to this backend."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)


class ProxyConfig(Section):
    """The whole configuration; unknown keys are refused."""

    serve: ServeConfig = ServeConfig()
    admin: AdminConfig = AdminConfig()
    upstream: UpstreamConfig = UpstreamConfig()
    policy: PolicyConfig = PolicyConfig()
    limits: LimitsConfig = LimitsConfig()
    record: RecordConfig = RecordConfig()
    monitor: MonitorConfig = MonitorConfig()
    backend: tuple[BackendConfig, ...] = ()

    @model_validator(mode="after")
    def _guarded(self) -> ProxyConfig:
        open_to_all = self.admin.port is not None and not _is_loopback(self.admin.host)
        if open_to_all and not (self.admin.api_keys or self.serve.api_keys):
            raise ValueError("admin.host is reached from outside, so admin.api_keys must name a key")
        if self.admin.port is not None and self.admin.port == self.serve.port:
            raise ValueError("admin.port and serve.port are the same")
        if self.backend and self.policy.bundle is not None and "url" not in self.upstream.model_fields_set:
            raise ValueError(
                "policy.bundle is that of upstream.url, which is not given; give each [[backend]] its bundle"
            )
        if self.backend and self.monitor.redis is not None:
            raise ValueError("monitor.redis has the audits of one bundle; with backends, use monitor.state")
        named = [pattern for one in self.backend for pattern in one.models]
        if twice := sorted({pattern for pattern in named if named.count(pattern) > 1}):
            raise ValueError(f"two backends are for {twice[0]}; put a load balancer in front of its servers")
        folders = {_folder(one.name): one.name for one in self.backend}
        if shared := [one.name for one in self.backend if folders[_folder(one.name)] != one.name]:
            other = folders[_folder(shared[0])]
            raise ValueError(
                f"the backends {shared[0]} and {other} would share a folder; name another model first"
            )
        return self

    def parts(self) -> Iterator[tuple[BackendConfig | None, ProxyConfig]]:
        """Give each backend and the configuration that holds for its requests.

        The last is [upstream] itself, for all other models, with None: where there are backends, only if its
        url was given.
        """
        for one in self.backend:
            own = {"upstream": one.upstream, "policy": one.policy, "backend": ()}
            folders = {
                "record": self.record.model_copy(update={"folder": _below(self.record.folder, one.name)}),
                "monitor": self.monitor.model_copy(update={"state": _below(self.monitor.state, one.name)}),
            }
            yield one, self.model_copy(update={**own, **folders})
        if not self.backend or "url" in self.upstream.model_fields_set:
            yield None, self.model_copy(update={"backend": ()})


def _below(folder: Path | None, name: str) -> Path | None:
    """Return a backend's own part of a folder."""
    return None if folder is None else folder / _folder(name)


def _folder(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
