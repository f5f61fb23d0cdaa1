"""The interface of a dialect: how to request tokens, read them, and continue a truncated answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.server import Server
from lynxstop.remote.tokens import StreamToken

CHAT = "/v1/chat/completions"

TOP = 20
"""Log-probabilities requested per token: the most that OpenAI's protocol allows."""


@dataclass(slots=True)
class Opening:
    """What is known of a request before its first token.

    Parameters
    ----------
    body : dict
        The chat request, as the client sent it.
    prompt_ids : sequence of int, optional
        Tokens of the rendered prompt.
    prompt_text : str, optional
        The rendered prompt.
    counted : int, optional
        Number of the prompt's tokens, as the server counts them at the end of its answer.
    path : str
        Where the request goes.
    """

    body: Mapping[str, Any]
    prompt_ids: Sequence[int] | None = None
    prompt_text: str | None = None
    counted: int | None = None
    path: str = CHAT

    @property
    def prompt_tokens(self) -> int | None:
        """Number of tokens of the prompt, if known."""
        return self.counted if self.prompt_ids is None else len(self.prompt_ids)


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays of a truncated answer, and what is put after it.

    Parameters
    ----------
    tokens : sequence of StreamToken
        Whole tokens that stay.
    tail : bytes
        Part of one more token.
    exit_text : str
    exit_ids : sequence of int
        Tokens of the exit text; empty where the server's vocabulary is unknown.
    open : str
        The text that opens a thinking block.
    by_field : bool
        Whether the field of the text, not a delimiter, opened the block.
    """

    tokens: Sequence[StreamToken]
    tail: bytes
    exit_text: str
    exit_ids: Sequence[int] = ()
    open: str = "<think>"
    by_field: bool = False

    @property
    def text(self) -> str:
        """The text that stays."""
        return (b"".join(token.text for token in self.tokens) + self.tail).decode(errors="replace")

    @property
    def hidden(self) -> str:
        """The delimiter that opened the block, if the server did not show it."""
        return self.open if self.by_field and not self.text.lstrip().startswith(self.open) else ""


@dataclass(frozen=True, slots=True)
class Call:
    """A request that continues a truncated answer."""

    path: str
    body: Json
    forced: int = 0
    """Number of tokens of the exit text, which count as generated; 0 where it is unknown."""
    whole: bool = False
    """Whether its events are those of a chat, which the client gets as they are: tool calls included."""


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """What a continuation may generate.

    Parameters
    ----------
    max_tokens : int or None
        None leaves it to the server.
    logprobs : int or None
        Alternatives per token to report.
    """

    max_tokens: int | None
    logprobs: int | None = None


Place = tuple[str, str]
"""A path that answers GET with a JSON object, and a key of it."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What is fixed for a kind of server.

    Parameters
    ----------
    owner : str, optional
        `owned_by` of the models that it lists.
    sign : Place, optional
        A place that only this kind of server has.
    version : Place, optional
        Where it says its version.
    counters : (str, str), optional
        Metrics of the requests that run, and of the tokens generated.
    completion_limit : int, optional
        Tokens that it generates when a request for completions names no limit; None for no limit.
    thinking_budget : str, optional
        Its key for the most tokens that a request may think.
    empty_content : str, optional
        What it writes as the content of a message that has thinking or calls, and no answer.
    splits_choices : bool
        Whether it runs `n` choices as `n` requests, with seeds that count up from the one given.
    """

    owner: str | None = None
    sign: Place | None = None
    version: Place | None = None
    counters: tuple[str, str] | None = None
    completion_limit: int | None = 16
    thinking_budget: str | None = None
    empty_content: str | None = None
    splits_choices: bool = False


class Dialect(Protocol):
    """How to talk to one kind of server; stateless.

    Attributes
    ----------
    name : str
    facts : ServerFacts
    describes : str
        How answers are continued, in a few words.
    exact : bool
        Whether answers are continued from token ids, so that nothing needs to be verified.
    neutral : mapping
        Sampling parameters that switch off what the server does by default.
    prioritises : bool
        Whether the server is known to schedule by the key `priority`, the lowest first.
    in_place : bool
        Whether the server is known to end the thinking of a running request when asked to.
    """

    name: str
    facts: ServerFacts
    describes: str
    exact: bool
    neutral: Mapping[str, Any]
    prioritises: bool
    in_place: bool

    async def routes(self, server: Server, model: str) -> Sequence[Dialect]:
        """Return the methods to continue an answer of this model, the best first.

        Raises
        ------
        UpstreamError
            When the server cannot be reached.
        """

    async def has_plugin(self, server: Server) -> bool:
        """Whether lynxstop runs inside the server's engine."""

    def watched(self, body: Mapping[str, Any]) -> Json:
        """Return the chat request to send, so that its stream shows tokens and log-probabilities."""

    async def opening(self, server: Server, body: Mapping[str, Any]) -> Opening:
        """Find out what a continuation will need; may call the server."""

    def read(self, event: Json) -> Delta:
        """Read one event of a chat stream."""

    async def continuation(self, server: Server, opening: Opening, kept: Kept, limits: AnswerLimits) -> Call:
        """Make the request that continues a truncated answer.

        Raises
        ------
        UpstreamError
            When this server cannot continue it.
        """

    def read_continuation(self, event: Json) -> Delta:
        """Read one event of the stream that `continuation` asked for."""

    async def prioritised(self, server: Server, model: str) -> Dialect:
        """Find out what not every server of the kind does: schedule by priority, end thinking in place.

        Returns the dialect that knows it.

        Raises
        ------
        UpstreamError
            When the server cannot be reached.
        """

    async def end_thinking(self, server: Server, id: str) -> bool:
        """Tell the server to end the thinking of a running request in place; False where it does not.

        Parameters
        ----------
        server : Server
        id : str
            Of the events of its stream.
        """

    async def prompt_end(self, server: Server, opening: Opening) -> str | None:
        """Return the end of the rendered prompt, where the template may open a block; None if it is unknown.

        Raises
        ------
        UpstreamError
            When the server fails.
        """

    async def tokenize(self, server: Server, model: str, text: str) -> tuple[int, ...]:
        """Return the token ids of a text in the server's vocabulary; empty when they are not shown."""

    def clean(self, event: Json, body: Mapping[str, Any]) -> None:
        """Remove from an event what only `watched` requested."""


def hurried(dialect: Dialect, body: Mapping[str, Any]) -> Json:
    """Return the priority of a continuation: its request has waited already, so it goes before new ones."""
    return {"priority": int(body.get("priority") or 0) - 1} if dialect.prioritises else {}


def joined(prompt: str, kept: Kept) -> str:
    """Append what stays and the exit to a rendered prompt, which may have opened the block."""
    opened = prompt.rstrip().endswith(kept.open)
    return prompt + ("" if opened else kept.hidden) + kept.text + kept.exit_text


def written_again(kept: Kept, lead: str = "") -> str:
    """Return the text that the model is to continue: what stays, and the exit.

    Parameters
    ----------
    lead : str
        Put in front, with "{open}" for the delimiter, unless the server showed the delimiter.
    """
    shown = kept.text.lstrip().startswith(kept.open)
    return ("" if shown else lead.replace("{open}", kept.open)) + kept.text + kept.exit_text


def resumed(body: Mapping[str, Any], kept: Kept, limits: AnswerLimits, *, lead: str = "") -> Json:
    """Write the chat request that continues its own last message; for `lead` see `written_again`."""
    return resumed_message(body, {"content": written_again(kept, lead)}, limits)


def resumed_message(body: Mapping[str, Any], message: Json, limits: AnswerLimits) -> Json:
    """Write the chat request that continues one more message of the assistant."""
    made = {
        **{name: value for name, value in body.items() if name not in _LIMITS | NAMES},
        "messages": [*body["messages"], {"role": "assistant", **message}],
        "continue_final_message": True,
        "add_generation_prompt": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if limits.max_tokens is not None:
        made["max_tokens"] = limits.max_tokens
    if limits.logprobs is not None:
        made |= {"logprobs": True, "top_logprobs": limits.logprobs}
    return made


_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "logprobs", "top_logprobs"})

NAMES = frozenset({"request_id", "rid"})
"""What a client may call its request, at vLLM and SGLang. No second request is called so: SGLang keeps what
it knows of a request under its name, also of one that it is aborting."""

_CARRIED = (
    "model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "logit_bias", "user", "priority",
    "stop_token_ids", "ignore_eos", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "bad_words", "allowed_token_ids", "include_stop_str_in_output", "skip_special_tokens",
    "spaces_between_special_tokens", "cache_salt", "vllm_xargs", "watermarking", "repetition_detection",
    "session_id",
)  # fmt: skip


def carried(body: Mapping[str, Any]) -> Json:
    """Parameters of a chat request that mean the same to completions."""
    return {name: body[name] for name in _CARRIED if body.get(name) is not None}
