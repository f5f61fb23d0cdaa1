"""The answer of vLLM's server on its way to the client: the report is added, and an audit listens."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.expiry import NO_GRACE
from lynxstop.core.exits import Exit, Reason
from lynxstop.engines.vllm.exit_reports import read_report
from lynxstop.monitor.arms import Arm
from lynxstop.proxy.audit import AuditDraw
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.live_risk import Treatment
from lynxstop.proxy.promise import Promise
from lynxstop.proxy.vllm_audited import AuditedRequest, Json, Message, Send
from lynxstop.remote.report import as_headers, report, with_exit

logger = logging.getLogger("vllm.lynxstop")


@dataclass(frozen=True, slots=True)
class MiddlewareSetup:
    """What is served, and how.

    Parameters
    ----------
    config : ProxyConfig
        Its sections [policy] and [monitor].
    promise : Promise
        Of the bundle.
    reports : Path
        Folder in which the plugin leaves its reports.
    """

    config: ProxyConfig
    promise: Promise
    reports: Path

    @classmethod
    def load(cls, path: Path) -> MiddlewareSetup:
        """Read what `write` has written."""
        content = json.loads(path.read_text(encoding="utf-8"))
        config = ProxyConfig.model_validate(content["config"])
        promise = Promise(Bundle.load(Path(content["bundle"])), NO_GRACE)
        return cls(config, promise, Path(content["reports"]))

    @staticmethod
    def write(path: Path, config: ProxyConfig, bundle: Path, reports: Path) -> None:
        """Write a configuration for the server's processes, readable by their owner only."""
        sections = {name: getattr(config, name) for name in ("policy", "monitor")}
        content = {
            "config": {name: _plain(section.model_dump()) for name, section in sections.items()},
            "bundle": str(bundle),
            "reports": str(reports),
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(content), encoding="utf-8")


def _plain(section: Json) -> Json:
    shown = {
        name: value.get_secret_value() if hasattr(value, "get_secret_value") else value
        for name, value in section.items()
    }
    return {name: str(value) if isinstance(value, Path) else value for name, value in shown.items()}


class Exchange:
    """A request on its way through the server, and its answer.

    Parameters
    ----------
    setup : MiddlewareSetup
    asked : dict
        What vLLM gets.
    body : dict
        What the client has sent.
    name : str
        Its name in the reports.
    treated : Treatment
    case : AuditedRequest, optional
        Collects the answer, for the arms that are looked at.
    """

    def __init__(
        self,
        setup: MiddlewareSetup,
        asked: Json,
        body: Json,
        name: str,
        treated: Treatment,
        case: AuditedRequest | None,
    ) -> None:
        self.body, self.treated = body, treated
        self.arrived = time.monotonic()
        self.draw: AuditDraw | None = None
        self._setup, self._name, self._case = setup, name, case
        self._listens = case is not None and treated.arm in (Arm.AUDIT, Arm.HOLDOUT)
        self._usage = bool((body.get("stream_options") or {}).get("include_usage"))
        more: Json = {}
        if self._listens:
            more["return_token_ids"] = True
        if body.get("stream"):
            more["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
            if not self._usage:
                # Alone it shows nothing.
                more["stream_options"]["continuous_usage_stats"] = False
        self.content = json.dumps({**asked, **more}).encode()
        self._told: Json | None = None
        self._start: Message | None = None
        self._body: list[bytes] = []
        self._streams = False
        self._left = b""
        self._held: list[bytes] = []

    def sending(self, send: Send) -> Send:
        """Wrap what sends the answer."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._begin(message, send)
            elif message["type"] != "http.response.body" or self._start is None:
                await send(message)
            elif self._streams:
                await self._stream(message, send)
            else:
                await self._whole(message, send)

        return sent

    def closed(self) -> AuditedRequest | None:
        """Return what an audit has to know, once the answer is sent or cut off."""
        told = self._report() or {}
        if self._case is not None:
            self._case.told = told
        return self._case

    async def _begin(self, message: Message, send: Send) -> None:
        kind = dict(message["headers"]).get(b"content-type", b"")
        self._streams = kind.startswith(b"text/event-stream")
        if message["status"] != 200 or not (self._streams or kind.startswith(b"application/json")):
            await send(message)
            return
        self._start = message
        if self._streams:
            await send({**message, "headers": [*message["headers"], *self._announced()]})

    async def _whole(self, message: Message, send: Send) -> None:
        """Add the report to an answer in one piece."""
        assert self._start is not None
        self._body.append(message.get("body", b""))
        if message.get("more_body"):
            return
        content, shown, whole = b"".join(self._body), [], False
        try:
            answer = orjson.loads(content)
            if "choices" in answer:
                self._hear(answer)
                found = self._found(answer.get("usage"))
                answer = self._without_ids(answer)
                if answer.get("usage"):
                    answer["usage"] = with_exit(answer["usage"], found)
                content = orjson.dumps({**answer, "lynxstop": found})
                shown = as_headers(found)
                whole = True
        except Exception as error:
            logger.error("lynxstop could not report on a request: %s.", type(error).__name__)
        headers = [*sized(self._start["headers"], len(content)), *shown]
        await send({**self._start, "headers": headers})
        await send({**message, "body": content})
        self._complete(whole)

    async def _stream(self, message: Message, send: Send) -> None:
        """Pass events on; from the one that names the end on, wait for the last, which gets the report."""
        *events, self._left = (self._left + message.get("body", b"")).split(b"\n\n")
        out, whole = [], False
        for event in events:
            if event.strip() == b"data: [DONE]":
                out += [*self._last(), event]
                whole = True
            elif self._held or b'"finish_reason":"' in event:
                self._held.append(event)
            elif (shown := self._shown(event)) is not None:
                out.append(shown)
        body = b"".join(event + b"\n\n" for event in out)
        if not message.get("more_body"):
            body += b"".join(event + b"\n\n" for event in self._held) + self._left
            self._held, self._left = [], b""
        if body or not message.get("more_body"):
            await send({**message, "body": body})
        self._complete(whole)

    def _shown(self, event: bytes) -> bytes | None:
        """Return an event as the client gets it; its tokens and texts are kept for an audit."""
        if not self._listens:
            return event
        try:
            content = orjson.loads(event.removeprefix(b"data: "))
            self._hear(content)
            shown = self._without_ids(content)
        except (orjson.JSONDecodeError, TypeError, AttributeError):
            return event
        choices = shown.get("choices") or ()
        if choices and all("delta" in one and not any(one["delta"].values()) for one in choices):
            return None
        return b"data: " + orjson.dumps(shown)

    def _last(self) -> list[bytes]:
        """Return the events that were held back, the last of them with the report."""
        held, self._held = self._held, []
        try:
            events = [orjson.loads(event.removeprefix(b"data: ")) for event in held]
            for event in events:
                self._hear(event)
            usage = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
            found = self._found(usage)
            if not self._usage:
                # vLLM puts what it says of the whole answer into the event with usage.
                more = {name: value for name, value in events[-1].items() if name not in ("choices", "usage")}
                events = [event for event in events if event.get("choices")]
                for event in events:
                    event.pop("usage", None)
                events[-1:] = [{**more, **event} for event in events[-1:]]
            elif usage is not None:
                events[-1]["usage"] = with_exit(usage, found)
            if events:
                events[-1]["lynxstop"] = found
            return [b"data: " + orjson.dumps(self._without_ids(event)) for event in events]
        except Exception as error:
            logger.error("lynxstop could not report on a request: %s.", type(error).__name__)
            return held

    def _hear(self, content: Json) -> None:
        """Keep what an audit needs of an answer, or of an event of it."""
        if (case := self._case) is None:
            return
        if content.get("usage"):
            details = content["usage"].get("completion_tokens_details") or {}
            case.reasoning_tokens = int(details.get("reasoning_tokens") or 0)
        if not self._listens:
            return
        case.prompt = content.get("prompt_token_ids") or case.prompt
        for choice in content.get("choices") or ():
            case.prompt = choice.get("prompt_token_ids") or case.prompt
            case.ids += choice.get("token_ids") or ()
            part = choice.get("delta") or choice.get("message") or {}
            case.said.append(part.get("content") or choice.get("text") or "")

    def _without_ids(self, content: Json) -> Json:
        """Leave out the tokens that only we asked for."""
        if not self._listens or self.body.get("return_token_ids"):
            return content
        names = ("prompt_token_ids", "token_ids")
        content = {name: value for name, value in content.items() if name not in names}
        if content.get("choices"):
            content["choices"] = [
                {name: value for name, value in one.items() if name not in names}
                for one in content["choices"]
            ]
        return content

    def _complete(self, whole: bool) -> None:
        if self._case is not None and whole:
            self._case.done = True

    def _found(self, usage: Json | None) -> Json:
        """Return the report for the client."""
        options, told = self.treated.options, self._report() or {}
        level = self._setup.promise.level(options)
        details = (usage or {}).get("completion_tokens_details") or {}
        thinking = told.get("thinking_tokens") or details.get("reasoning_tokens")
        taken = None
        if told.get("exit") is not None:
            numbers = [float("nan") if told[name] is None else told[name] for name in ("score", "threshold")]
            taken = Exit(Reason(told["exit"]), -1, -1, thinking or 0, *numbers)
        own_budget = taken is not None and taken.reason is Reason.BUDGET and self._own_budget
        certificate = None if level is None or own_budget else level.certificate
        return report(
            taken,
            thinking,
            stopped=bool(told.get("stopped")),
            saved_share=self._setup.promise.saved(level),
            certificate=certificate,
            departures=told.get("departures") or (),
        )

    @property
    def _own_budget(self) -> bool:
        return "lynxstop_budget" in (self.body.get("vllm_xargs") or {})

    def _report(self) -> Json | None:
        if self._told is None:
            self._told = read_report(self._setup.reports, self._name)
        return self._told

    def _announced(self) -> list[tuple[bytes, bytes]]:
        """Return the headers with what is known before the answer."""
        options = self.treated.options
        level = self._setup.promise.level(options)
        risk = None if level is None else f"{level.risk:g}"
        return as_headers({"request": self._name, "mode": str(options.mode), "risk": risk})


def unsized(headers: Any) -> list[tuple[bytes, bytes]]:
    """Return headers without the length of a body."""
    return [(name, value) for name, value in headers if name.lower() != b"content-length"]


def sized(headers: Any, size: int) -> list[tuple[bytes, bytes]]:
    """Return headers with another length of the body."""
    return [*unsized(headers), (b"content-length", str(size).encode())]
