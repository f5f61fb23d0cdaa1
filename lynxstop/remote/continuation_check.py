"""How a server's answers are continued, tried out before the first request is watched.

A server may accept a continuation and yet not give one: a template drops the thinking of the last message,
closes its turn, or opens a second block. So a short greedy answer is cut, and continued: it has to go on as
it did, behind a prompt that is longer by just the tokens that were kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lynxstop.errors import UpstreamError
from lynxstop.remote.delta import reasoning_field
from lynxstop.remote.dialects.base import Dialect, Kept, Limits, Opening
from lynxstop.remote.server import Server
from lynxstop.remote.stream import chat_stream, continued_stream
from lynxstop.remote.tokens import StreamToken

QUESTION = "What is 17 + 25? Think, then answer."
EXIT = "\n</think>\n\n"
_TOKENS = 16
_SAME = 3
_PASSING = frozenset({"upstream_unreachable", "upstream_timeout", "upstream_died"})
_BUSY = frozenset({429, 503})
"""What says nothing of the way that was tried: another time it may be different."""


class UncontinuedError(UpstreamError):
    """The server cannot continue a cut answer, so that none may be cut."""


@dataclass(frozen=True, slots=True)
class SampleAnswer:
    """A short answer, as a server showed it.

    Parameters
    ----------
    opening : Opening
    tokens : sequence of StreamToken
    thought : str
        Text in the field of thinking.
    content : str
    field : str or None
        Name of the field of thinking, if it was used.
    usage : dict
    most : int
        Tokens of the event that has the most.
    covered : bool
        Whether all text in the field of thinking came with tokens.
    """

    opening: Opening
    tokens: Sequence[StreamToken]
    thought: str
    content: str
    field: str | None
    usage: dict[str, Any]
    most: int
    covered: bool


@dataclass(frozen=True, slots=True)
class CheckedContinuation:
    """A dialect as it speaks with one model.

    Parameters
    ----------
    dialect : Dialect
    verified : bool
        Whether continuing was tried out; a dialect that continues token ids has no need.
    shown : SampleAnswer
        What was tried on.
    exit_tokens : int
        Tokens of the exit text; 0 where that was not seen.
    opened : bool
        Whether the template opens a thinking block, and the stream shows nothing of it.
    """

    dialect: Dialect
    verified: bool
    shown: SampleAnswer
    exit_tokens: int = 0
    opened: bool = False


async def sample_answer(server: Server, dialect: Dialect, model: str, tokens: int = _TOKENS) -> SampleAnswer:
    """Ask a model for the first tokens of a greedy answer.

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
    }
    opening = await dialect.opening(server, body)
    found: list[StreamToken] = []
    thought = content = ""
    named: str | None = None
    usage: dict[str, Any] = {}
    most, covered = 0, True
    async with chat_stream(server, dialect, opening) as deltas:
        async for event, delta in deltas:
            if delta.thinking and named is None:
                named = reasoning_field(event["choices"][0]["delta"])
            thought, content = thought + delta.thinking, content + delta.content
            found += delta.tokens
            usage = delta.usage or usage
            most = max(most, len(delta.tokens))
            covered = covered and (bool(delta.tokens) or not delta.thinking)
    return SampleAnswer(opening, found, thought, content, named, usage, most, covered)


async def check_continuation(
    server: Server, dialect: Dialect, model: str, *, exit_text: str = EXIT, open: str = "<think>"
) -> CheckedContinuation:
    """Find the first way to continue answers of a model that does what it should.

    Raises
    ------
    UncontinuedError
        When there is none.
    UpstreamError
        When the server fails.
    """
    shown = await sample_answer(server, dialect, model)
    if not shown.tokens:
        raise UncontinuedError(
            "The server shows no log-probabilities of a chat's tokens.",
            code="no_logprobs",
            hint="Nothing can be decided on without; `lynxstop doctor` shows what it offers.",
        )
    if dialect.exact:
        return CheckedContinuation(dialect, False, shown, opened=await _opened(server, dialect, shown, open))
    troubles: list[str] = []
    for way in await dialect.routes(server, model):
        try:
            exit_tokens = await _try(server, way, shown, exit_text, open)
        except UpstreamError as error:
            troubles.append(f"By {way.describes}: {error}")
            if error.code in _PASSING or error.status_code in _BUSY:
                raise
        else:
            return CheckedContinuation(way, True, shown, exit_tokens, await _opened(server, way, shown, open))
    told = " ".join(dict.fromkeys(troubles))
    raise UncontinuedError(
        f"The server cannot continue an answer that was cut. {told}", code="no_continuation"
    )


async def _opened(server: Server, way: Dialect, shown: SampleAnswer, open: str) -> bool:
    if shown.thought or shown.content.lstrip().startswith(open):
        return False
    try:
        end = await way.prompt_end(server, shown.opening)
    except UpstreamError:
        return False
    return end is not None and end.rstrip().endswith(open)


async def _try(server: Server, way: Dialect, shown: SampleAnswer, exit_text: str, open: str) -> int:
    """Cut and continue; return the number of tokens of the exit text.

    Raises
    ------
    UncontinuedError
        When the continuation is none.
    UpstreamError
        When the server refuses it.
    """
    length = len(shown.tokens)
    for cut in (length // 2, length // 3):
        text, prompt = await _continued(server, way, shown, cut, "", open)
        rest = b"".join(token.text for token in shown.tokens[cut:]).decode(errors="replace")
        begun = b"".join(token.text for token in shown.tokens[cut : cut + _SAME]).decode(errors="replace")
        if cut and begun and (text.startswith(begun) or (text and rest.startswith(text))):
            break
    else:
        raise UncontinuedError("A greedy answer goes on in another way than it did.")
    before = shown.usage.get("prompt_tokens")
    if prompt is None or before is None:
        raise UncontinuedError("It counts no tokens, so that what it reads cannot be told.")
    unseen = max(0, int(shown.usage.get("completion_tokens", len(shown.tokens))) - len(shown.tokens))
    # Among so few tokens the one that opens the block is unseen, or those around an answer that came already.
    most = before + cut + unseen
    least = before + cut if shown.thought and shown.content else most
    if not least <= prompt <= most:
        raise UncontinuedError(f"It reads {prompt} tokens where {most} were said.")
    _, whole = await _continued(server, way, shown, cut, exit_text, open)
    added = -1 if whole is None else whole - prompt
    if not 0 < added <= len(exit_text.encode()):
        raise UncontinuedError("Its template takes away the thinking that is closed.")
    return added


async def _continued(
    server: Server, way: Dialect, shown: SampleAnswer, cut: int, exit_text: str, open: str
) -> tuple[str, int | None]:
    """The continuation's text, and the number of tokens it was given to read."""
    # A token that belongs together with the exit's first would hide that they were two.
    kept = Kept(shown.tokens[:cut], b"", exit_text, (), open, bool(shown.thought))
    call = await way.continuation(server, shown.opening, kept, Limits(_SAME if not exit_text else 1))
    said = ""
    usage: dict[str, Any] = {}
    async with continued_stream(server, way, call) as deltas:
        async for _, delta in deltas:
            said += delta.content
            usage = delta.usage or usage
    return said, usage.get("prompt_tokens")
