"""Check that a server answers by its chat route after an exit, before the first such request is watched.

A template may drop thinking from the message that is continued, close its turn, or open a second block; a
parser may take the answer for thinking; a grammar may not start. So a short greedy answer to a request of the
same kind is truncated and closed. The server must then read all that was kept, and answer where answers go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lynxstop.errors import UpstreamError
from lynxstop.remote.chat_route import ways
from lynxstop.remote.continuation_check import EXIT, QUESTION, SampleAnswer, UncontinuedError, sample_answer
from lynxstop.remote.delta import Json
from lynxstop.remote.dialects.base import CHAT, AnswerLimits, Call, Dialect, Kept
from lynxstop.remote.server import Server
from lynxstop.remote.stream import continued_stream

ANSWER_TOKENS = 24
_SLACK = 2
"""Tokens by which a count may be off: where text is cut, blanks and the next token may merge."""

_TOOL: Json = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two integers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
_CALLED: list[Json] = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call_000000001",
                "type": "function",
                "function": {"name": "add", "arguments": '{"a": 17, "b": 25}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_000000001", "content": "42"},
]
_SCHEMA: Json = {
    "type": "json_schema",
    "json_schema": {
        "name": "sum",
        "schema": {
            "type": "object",
            "properties": {"answer": {"type": "integer"}},
            "required": ["answer"],
            "additionalProperties": False,
        },
    },
}
_TEMPLATE = ("model", "messages", "tools", "chat_template", "chat_template_kwargs", "reasoning_effort")


@dataclass(frozen=True, slots=True)
class ExitText:
    """What an exit puts after the thinking, as most models have it; see `StreamConfig` for its parts."""

    exit_text: str = EXIT
    close: tuple[str, ...] = ("</think>",)
    open: tuple[str, ...] = ("<think>",)
    opened: bool = False


@dataclass(frozen=True, slots=True)
class _Answered:
    thinking: str
    content: str
    called: bool
    ended: bool
    prompt_tokens: int | None


def probe(need: frozenset[str]) -> Json:
    """Return what makes the probe's request one of this kind; for `need` see `chat_route.ways`."""
    made: Json = {}
    if "tools" in need:
        made["tools"] = [_TOOL]
    if "structured_output" in need:
        made["response_format"] = _SCHEMA
    if "tool_turns" in need:
        made["messages"] = [{"role": "user", "content": QUESTION}, *_CALLED]
    return made


async def check_chat_route(
    server: Server, dialect: Dialect, model: str, exit: ExitText, need: frozenset[str]
) -> tuple[Dialect, int]:
    """Find the first way in which a server answers such requests after an exit.

    Parameters
    ----------
    server : Server
    dialect : Dialect
    model : str
    exit : ExitText
        With the exit text that these requests get.
    need : frozenset of str
        See `lynxstop.remote.chat_route.ways`.

    Returns
    -------
    (Dialect, int)
        The way, and the number of tokens of the exit text; 0 where the server does not count them.

    Raises
    ------
    UncontinuedError
        When no way does.
    UpstreamError
        When the server fails, or refuses such requests.
    """
    shown = await sample_answer(server, dialect, model, more=probe(need))
    if not shown.tokens:
        raise UncontinuedError(
            "The server shows no log-probabilities for such a request.", code="no_logprobs"
        )
    if not shown.thought and not exit.opened and not shown.content.lstrip().startswith(exit.open):
        raise UncontinuedError("The model does not think about such a request.", code="no_continuation")
    troubles = []
    for way in ways(dialect, exit.close, need):
        try:
            return way, await _try(server, way, shown, exit, need)
        except UpstreamError as error:
            if not isinstance(error, UncontinuedError) and not refused(error):
                raise
            troubles.append(f"By {way.describes}: {error}")
    reasons = " ".join(dict.fromkeys(troubles))
    raise UncontinuedError(f"The server cannot answer after an exit. {reasons}", code="no_continuation")


def refused(error: UpstreamError) -> bool:
    """Say whether a server understood a request and will never do it."""
    return error.code == "upstream_refused" and error.status_code not in (401, 403, 429, 502, 503)


async def _try(
    server: Server, way: Dialect, shown: SampleAnswer, exit: ExitText, need: frozenset[str]
) -> int:
    """Truncate, close and let the server answer; return the number of tokens of the exit text.

    Raises
    ------
    UncontinuedError
        When the server has not read what was kept, or does not answer as it should.
    """
    length = len(shown.tokens)
    cut = max(1, 2 * length // 3)
    kept = _kept(shown, cut, exit)
    call = await way.continuation(server, shown.opening, kept, AnswerLimits(ANSWER_TOKENS))
    answered = await _answer(server, way, call)
    if answered.thinking or answered.content.lstrip().startswith(exit.open):
        raise UncontinuedError("It takes the answer for thinking.")
    if not (answered.content.strip() or answered.called or answered.ended):
        raise UncontinuedError("It does not answer.")
    held = "structured_output" in need and not need & {"tools"}
    if held and not answered.content.lstrip().startswith("{"):
        raise UncontinuedError("The answer is not held to its form.")
    before = shown.usage.get("prompt_tokens")
    added = None
    if answered.prompt_tokens is not None and before is not None:
        unseen = max(0, int(shown.usage.get("completion_tokens", length)) - length)
        added = answered.prompt_tokens - before - cut - unseen
    if call.path == CHAT and not await _reads(server, shown, call.body, kept):
        await _counts(server, way, shown, cut, exit, added, answered.prompt_tokens)
    return max(0, added or 0)


async def _reads(server: Server, shown: SampleAnswer, body: Mapping[str, Any], kept: Kept) -> bool:
    """Compare what the server renders; False where it does not show that.

    Raises
    ------
    UncontinuedError
        When the template leaves something out, or adds something.
    """
    found = await rendered(server, body, resumed=True)
    begun = await rendered(server, shown.opening.body, resumed=False)
    if found is None or begun is None:
        return False
    # Templates trim blanks around thinking.
    want, got, opening = _bare(kept.text + kept.exit_text), _bare(found), _bare(begun)
    opened = opening.removesuffix(kept.open)
    if got != opened + kept.open + want.removeprefix(kept.open):
        raise UncontinuedError("Its template does not keep the thinking as it was.")
    return True


async def _counts(
    server: Server,
    way: Dialect,
    shown: SampleAnswer,
    cut: int,
    exit: ExitText,
    added: int | None,
    prompt: int | None,
) -> None:
    """Compare how many tokens the server reads, when more and when less is kept.

    Raises
    ------
    UncontinuedError
        When they are not those that were kept, and the exit.
    """
    less = max(1, cut // 2)
    call = await way.continuation(server, shown.opening, _kept(shown, less, exit), AnswerLimits(1))
    shorter = (await _answer(server, way, call)).prompt_tokens
    if added is None or prompt is None or shorter is None:
        raise UncontinuedError("It does not count tokens, so its prompt cannot be checked.")
    if abs((prompt - shorter) - (cut - less)) > _SLACK or not 0 < added <= len(exit.exit_text.encode()):
        raise UncontinuedError("Its template does not keep the thinking as it was.")


def _kept(shown: SampleAnswer, cut: int, exit: ExitText) -> Kept:
    return Kept(shown.tokens[:cut], b"", exit.exit_text, (), exit.open[0], bool(shown.thought))


async def _answer(server: Server, way: Dialect, call: Call) -> _Answered:
    thinking = content = ""
    called = ended = False
    usage: Json = {}
    async with continued_stream(server, way, call) as deltas:
        async for _, delta in deltas:
            thinking, content = thinking + delta.thinking, content + delta.content
            called, ended = called or delta.opaque, ended or delta.finish in ("stop", "tool_calls")
            usage = delta.usage or usage
    return _Answered(thinking, content, called, ended, usage.get("prompt_tokens"))


async def rendered(server: Server, body: Mapping[str, Any], *, resumed: bool) -> str | None:
    """Let a server write a chat as the model reads it; None where it does not show that."""
    asked = {name: body[name] for name in _TEMPLATE if body.get(name) is not None}
    asked |= {"add_generation_prompt": not resumed, "continue_final_message": resumed}
    try:
        found = await server.call("/tokenize", asked)
        tokens = found.get("tokens") if isinstance(found, dict) else None
        if not isinstance(tokens, list) or not tokens:
            return None
        shown = await server.call("/detokenize", {"model": body["model"], "tokens": tokens})
    except UpstreamError:
        return None
    text = shown.get("prompt") if isinstance(shown, dict) else None
    return text if isinstance(text, str) else None


def _bare(text: str) -> str:
    return "".join(text.split())
