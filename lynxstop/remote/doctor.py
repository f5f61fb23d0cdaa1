"""Find out what a server can do, with a few tokens."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lynxstop.errors import ModelError, UpstreamError
from lynxstop.remote.chat_route_check import ExitText, check_chat_route
from lynxstop.remote.continuation_check import (
    CheckedContinuation,
    SampleAnswer,
    UncontinuedError,
    check_continuation,
    sample_answer,
)
from lynxstop.remote.dialects.base import CHAT, Dialect
from lynxstop.remote.dialects.table import choose, version
from lynxstop.remote.server import Server, listed_models

_LONG = 256
_READ = 4
_SECONDS = 5.0


PASSED = "pass through"


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found out; None where it is unknown.

    Parameters
    ----------
    kind : str
        Name of the dialect.
    version : str or None
    models : tuple of str
        What the server lists.
    model : str
        The model that was tried.
    thinking : str
        Field in which it arrives; "raw" for delimiters in the content, "raw, opened by the template" where
        only the end shows, "none seen" otherwise.
    logprobs : int
        Log-probabilities per token, the token's own included; 0 when there are none.
    per_token : bool
        Whether every event holds one token.
    in_thinking : bool or None
        Whether thinking comes with log-probabilities.
    token_ids : bool
    usage : bool
        Whether tokens are counted at the end of a stream.
    reasoning_tokens : bool
        Whether thinking tokens are counted separately.
    continuation : str or None
        How a truncated answer would be continued.
    verified : bool
        Whether a greedy answer stayed the same when it was truncated and continued.
    plugin : bool
        Whether lynxstop runs inside the server.
    overshoot : int or None
        Tokens that the server generated of 256 after 4 events were read and the stream was closed.
    trouble : str or None
        Why nothing can be stopped.
    tools, forms : str
        How requests with tools, or with a JSON schema, are answered after an exit; "pass through" and why,
        where they are not stopped.
    """

    kind: str
    version: str | None
    models: tuple[str, ...]
    model: str
    thinking: str
    logprobs: int
    per_token: bool
    in_thinking: bool | None
    token_ids: bool
    usage: bool
    reasoning_tokens: bool
    continuation: str | None
    verified: bool
    plugin: bool
    overshoot: int | None
    trouble: str | None
    tools: str = PASSED
    forms: str = PASSED

    @property
    def mode(self) -> str:
        """How the proxy would work with this server: "plugin", "stream" or "pass through"."""
        return "plugin" if self.plugin else "pass through" if self.trouble else "stream"

    def document(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "mode": self.mode}


async def examine(server: Server, *, model: str | None = None, dialect: str = "auto") -> Examination:
    """Try what a server can do.

    Parameters
    ----------
    server : Server
    model : str, optional
        By default the first that the server lists.
    dialect : str
        Kind of server; "auto" asks it.

    Raises
    ------
    ModelError
        When the server lists no model, or not this one.
    UpstreamError
        When the server cannot be reached, or does not answer a chat.
    """
    spoken = await choose(dialect, server)
    models = tuple(listed_models(await server.call("/v1/models")))
    if model is None and not models:
        raise ModelError("The server lists no models.", hint="Name one with --model.")
    model = models[0] if model is None else model
    plugin = await spoken.has_plugin(server)
    checked: CheckedContinuation | None = None
    trouble: str | None = None
    try:
        checked = await check_continuation(server, spoken, model)
        shown = checked.shown
    except UncontinuedError as error:
        trouble, shown = str(error), await sample_answer(server, spoken, model)
    return Examination(
        kind=spoken.name,
        version=await version(server, spoken),
        models=models,
        model=model,
        thinking=_thinking(shown, checked),
        logprobs=max((len(token.top.values) for token in shown.tokens), default=0),
        per_token=bool(shown.tokens) and shown.most <= 1,
        in_thinking=shown.covered if shown.thought else None,
        token_ids=any(token.id is not None for token in shown.tokens),
        usage="completion_tokens" in shown.usage,
        reasoning_tokens="reasoning_tokens" in (shown.usage.get("completion_tokens_details") or {}),
        continuation=None if checked is None else checked.dialect.describes,
        verified=checked is not None and checked.verified,
        plugin=plugin,
        overshoot=await overshoot(server, spoken, model),
        trouble=trouble,
        tools=await _by_chat(server, model, checked, "tools"),
        forms=await _by_chat(server, model, checked, "structured_output"),
    )


async def _by_chat(server: Server, model: str, checked: CheckedContinuation | None, kind: str) -> str:
    """Say how requests of a kind are answered after an exit."""
    if checked is None:
        return PASSED
    try:
        text = ExitText(opened=checked.opened)
        way, _ = await check_chat_route(server, checked.dialect, model, text, frozenset({kind}))
    except UpstreamError as error:
        return f"{PASSED}: {error}"
    return f"{way.describes}: verified"


def _thinking(shown: SampleAnswer, checked: CheckedContinuation | None) -> str:
    if shown.field is not None:
        return shown.field
    if checked is not None and checked.opened:
        return "raw, opened by the template"
    return "raw" if shown.content.lstrip().startswith("<think>") else "none seen"


async def overshoot(server: Server, dialect: Dialect, model: str) -> int | None:
    """Count what an otherwise idle server generates of a long answer whose stream is closed at once.

    Returns
    -------
    int or None
        Tokens; None where the server counts none, or was busy.
    """
    names = dialect.facts.counters
    if names is None:
        return None
    before = await _counts(server, names)
    if before is None or before[0] > 0:
        return None
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Count from 1 to 1000."}],
        "max_tokens": _LONG,
        "ignore_eos": True,
        "stream": True,
    }
    async with server.events(CHAT, body) as bursts:
        read = 0
        async for burst in bursts:
            read += len(burst)
            if read >= _READ:
                break
    try:
        async with asyncio.timeout(_SECONDS):
            while True:
                after = await _counts(server, names)
                if after is not None and after[0] == 0 and after[1] > before[1]:
                    return int(after[1] - before[1])
                await asyncio.sleep(0.1)
    except TimeoutError:
        return None


async def _counts(server: Server, names: tuple[str, str]) -> tuple[float, float] | None:
    """What runs, and the tokens generated so far."""
    try:
        text = (await server.text("/metrics")).decode(errors="replace")
    except UpstreamError:
        return None
    found = [_sum(text, name) for name in names]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _sum(text: str, name: str) -> float | None:
    """Sum of a metric over its labels; None when it is not there."""
    values = re.findall(rf"^{re.escape(name)}(?:\{{[^\n]*\}})? ([0-9.eE+-]+)$", text, re.MULTILINE)
    return sum(map(float, values)) if values else None


def rows(found: Examination) -> Mapping[str, str]:
    """Write what was found for people, by what it is about."""
    ids = "with token ids" if found.token_ids else "without token ids"
    spread = "one token per event" if found.per_token else "several tokens per event"
    inside = {True: ", also of thinking", False: ", not of thinking", None: ""}[found.in_thinking]
    verified = "verified" if found.verified else "exact by token ids, not tried"
    return {
        "server": " ".join(filter(None, (found.kind, found.version))),
        "models": ", ".join(found.models),
        "asked": found.model,
        "thinking": found.thinking,
        "log-probabilities": f"{found.logprobs} per token, {spread}, {ids}{inside}"
        if found.logprobs
        else "none",
        "usage": ("yes" if found.usage else "no") + (", thinking apart" if found.reasoning_tokens else ""),
        "continuation": f"{found.continuation}: {verified}" if found.continuation else "none",
        "tools": found.tools,
        "forms": found.forms,
        "plugin": "yes" if found.plugin else "no",
        "on disconnect": "not measured"
        if found.overshoot is None
        else f"stops after {found.overshoot} of {_LONG} tokens, {_READ} events read",
    }
