"""Check that a server continues a truncated answer faithfully, before the first request is watched.

A server may accept a continuation and still not continue: a template may drop the thinking of the last
message, close its turn, or open a second block. So a short greedy answer is truncated and continued: the text
has to be the same as before, and the prompt has to be longer by exactly the tokens that were kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from lynxstop.errors import UpstreamError
from lynxstop.remote.delta import reasoning_field
from lynxstop.remote.dialects.base import AnswerLimits, Dialect, Kept, Opening
from lynxstop.remote.server import Server
from lynxstop.remote.stream import chat_stream, continued_stream
from lynxstop.remote.tokens import StreamToken

QUESTION = "What is 17 + 25? Think, then answer."
EXIT = "\n</think>\n\n"
_TOKENS = 16
_SAME = 3
_OPENING = 16
"""Most tokens at the end of a prompt that open a thinking block."""

_PASSING = frozenset({"upstream_unreachable", "upstream_timeout", "upstream_died"})
_BUSY = frozenset({429, 503})
"""Failures that say nothing about the method that was tried, and may pass."""


class UncontinuedError(UpstreamError):
    """The server cannot continue a truncated answer, so none may be truncated."""


@dataclass(frozen=True, slots=True)
class SampleAnswer:
    """A short answer as the server streamed it.

    Parameters
    ----------
    opening : Opening
    tokens : sequence of StreamToken
    thought : str
        Text in the field for thinking.
    content : str
    field : str or None
        Name of the field for thinking, if it was used.
    usage : dict
    most : int
        Largest number of tokens in one event.
    covered : bool
        Whether all text in the field for thinking came with tokens.
    system_fingerprint : str or None
        What the server calls its configuration, if it does.
    """

    opening: Opening
    tokens: Sequence[StreamToken]
    thought: str
    content: str
    field: str | None
    usage: dict[str, Any]
    most: int
    covered: bool
    system_fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class CheckedContinuation:
    """How answers of one model are continued.

    Parameters
    ----------
    dialect : Dialect
    verified : bool
        Whether it was tried; a dialect that continues from token ids need not be.
    shown : SampleAnswer
        The answer that it was tried on.
    exit_tokens : int
        Number of tokens of the exit text; 0 where it is unknown.
    opened : bool
        Whether the template opens a thinking block without showing that in the stream.
    opened_by : tuple of int
        Last tokens of a prompt that opens one so; empty where the server does not show them.
    """

    dialect: Dialect
    verified: bool
    shown: SampleAnswer
    exit_tokens: int = 0
    opened: bool = False
    opened_by: tuple[int, ...] = ()


async def sample_answer(
    server: Server,
    dialect: Dialect,
    model: str,
    tokens: int = _TOKENS,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> SampleAnswer:
    """Ask a model for the first tokens of a greedy answer; `more` is put into the request.

    Raises
    ------
    UpstreamError
        When the server fails.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": tokens,
        **more,
    }
    opening = await dialect.opening(server, body)
    found: list[StreamToken] = []
    thought = content = ""
    named: str | None = None
    system: str | None = None
    usage: dict[str, Any] = {}
    most, covered = 0, True
    async with chat_stream(server, dialect, opening) as deltas:
        async for event, delta in deltas:
            if delta.thinking and named is None:
                named = reasoning_field(event["choices"][0]["delta"])
            system = event.get("system_fingerprint") or system
            thought, content = thought + delta.thinking, content + delta.content
            found += delta.tokens
            usage = delta.usage or usage
            most = max(most, len(delta.tokens))
            covered = covered and (bool(delta.tokens) or not delta.thinking)
    return SampleAnswer(opening, found, thought, content, named, usage, most, covered, system)


async def check_continuation(
    server: Server, dialect: Dialect, model: str, *, exit_text: str = EXIT, open: str = "<think>"
) -> CheckedContinuation:
    """Find the first method that continues answers of a model faithfully.

    Raises
    ------
    UncontinuedError
        When no method does.
    UpstreamError
        When the server fails.
    """
    shown = await sample_answer(server, dialect, model)
    if not shown.tokens or (dialect.exact and shown.opening.prompt_ids is None):
        ids = ", or not their ids and those of the prompt, as vLLM before 0.12" if dialect.exact else ""
        raise UncontinuedError(
            f"The server shows no log-probabilities for the tokens of a chat{ids}.",
            code="no_logprobs",
            hint="Decisions need them; `lynxstop doctor` shows what the server offers.",
        )
    if dialect.exact:
        return CheckedContinuation(dialect, False, shown, 0, *await _opened(server, dialect, shown, open))
    troubles: list[str] = []
    for way in await dialect.routes(server, model):
        try:
            exit_tokens = await _try(server, way, shown, exit_text, open)
        except UpstreamError as error:
            troubles.append(f"By {way.describes}: {error}")
            if error.code in _PASSING or error.status_code in _BUSY:
                raise
        else:
            return CheckedContinuation(
                way, True, shown, exit_tokens, *await _opened(server, way, shown, open)
            )
    reasons = " ".join(dict.fromkeys(troubles))
    raise UncontinuedError(
        f"The server cannot continue an answer that was truncated. {reasons}", code="no_continuation"
    )


async def _opened(
    server: Server, way: Dialect, shown: SampleAnswer, open: str
) -> tuple[bool, tuple[int, ...]]:
    """Say whether the prompt opens a thinking block, and by which tokens, the fewest that show it."""
    if shown.thought or shown.content.lstrip().startswith(open):
        return False, ()
    ids = tuple(shown.opening.prompt_ids or ())
    try:
        if not await _opens(server, way, shown.opening, open):
            return False, ()
        for count in range(1, min(len(ids), _OPENING) + 1):
            if await _opens(server, way, replace(shown.opening, prompt_ids=ids[-count:]), open):
                return True, ids[-count:]
    except UpstreamError:
        return False, ()
    return True, ()


async def _opens(server: Server, way: Dialect, opening: Opening, open: str) -> bool:
    end = await way.prompt_end(server, opening)
    return end is not None and end.rstrip().endswith(open)


async def _try(server: Server, way: Dialect, shown: SampleAnswer, exit_text: str, open: str) -> int:
    """Truncate and continue; return the number of tokens of the exit text.

    Raises
    ------
    UncontinuedError
        When the answer is not continued as it was.
    UpstreamError
        When the server refuses the request.
    """
    length = len(shown.tokens)
    for cut in (length // 2, length // 3):
        text, prompt = await _continued(server, way, shown, cut, "", open)
        rest = b"".join(token.text for token in shown.tokens[cut:]).decode(errors="replace")
        begun = b"".join(token.text for token in shown.tokens[cut : cut + _SAME]).decode(errors="replace")
        if cut and begun and (text.startswith(begun) or (text and rest.startswith(text))):
            break
    else:
        raise UncontinuedError("A greedy answer continues differently from the first time.")
    before = shown.usage.get("prompt_tokens")
    if prompt is None or before is None:
        raise UncontinuedError("It does not count tokens, so its prompt cannot be checked.")
    unseen = max(0, int(shown.usage.get("completion_tokens", len(shown.tokens))) - len(shown.tokens))
    # The stream may not show the delimiter that opens the block, nor those around an answer that has begun.
    most = before + cut + unseen
    least = before + cut if shown.thought and shown.content else most
    if not least <= prompt <= most:
        raise UncontinuedError(f"It reads {prompt} prompt tokens; there should be {most}.")
    _, whole = await _continued(server, way, shown, cut, exit_text, open)
    added = -1 if whole is None else whole - prompt
    if not 0 < added <= len(exit_text.encode()):
        raise UncontinuedError("Its template removes thinking that is closed.")
    return added


async def _continued(
    server: Server, way: Dialect, shown: SampleAnswer, cut: int, exit_text: str, open: str
) -> tuple[str, int | None]:
    """Return the text of the continuation, and the number of its prompt tokens."""
    # No partial token: merged with the first token of the exit it would make the count wrong.
    kept = Kept(shown.tokens[:cut], b"", exit_text, (), open, bool(shown.thought))
    call = await way.continuation(server, shown.opening, kept, AnswerLimits(_SAME if not exit_text else 1))
    said = ""
    usage: dict[str, Any] = {}
    async with continued_stream(server, way, call) as deltas:
        async for _, delta in deltas:
            said += delta.content
            usage = delta.usage or usage
    return said, usage.get("prompt_tokens")
