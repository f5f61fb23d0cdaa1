"""A request that the plugin in vLLM decided on, as an audit sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from lynxstop.artifacts.policy import Policy
from lynxstop.core.exits import Mode, Reason
from lynxstop.errors import UpstreamError
from lynxstop.proxy.full_answer import Answered, after_thinking

Json = dict[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

COMPLETIONS = "/v1/completions"

_KEPT = (
    "model", "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "logit_bias", "bad_words", "allowed_token_ids",
)  # fmt: skip
"""Settings that a continuation takes over. Not the seed: a second stream would draw its numbers again."""


@dataclass(slots=True)
class AuditedRequest:
    """Collects what a client gets, and asks the same server again; see `lynxstop.proxy.audit.Audited`.

    Parameters
    ----------
    ask : callable
        Sends a body to a path of the server, off the client's way, and returns the answer.
    body : dict
        The client's request.
    path : str
        Its route.
    policy : Policy
        Of the bundle.
    mode : Mode
    """

    ask: Callable[[str, Json], Awaitable[Json]]
    body: Json
    path: str
    policy: Policy
    mode: Mode
    prompt: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    told: Mapping[str, Any] = field(default_factory=dict)
    reasoning_tokens: int = 0
    done: bool = False
    watched: bool = True

    @property
    def answer(self) -> str:
        """What the client got after the thinking."""
        return after_thinking("".join(self.said), self.policy.think_close)

    @property
    def exited(self) -> bool:
        """Whether it was stopped under its certificate."""
        certified = self.told.get("exit") in (Reason.SCORE, Reason.BUDGET)
        return certified and bool(self.told.get("stopped")) and not self.told.get("departures")

    @property
    def thought(self) -> int:
        """Thinking tokens."""
        return int(self.told.get("thinking_tokens") or self.reasoning_tokens)

    @property
    def inputs(self) -> tuple[float | None, int]:
        """Nothing: scores of decision points without an exit stay inside the engine."""
        return None, 0

    @property
    def exit_score(self) -> float | None:
        """Score that the exit was decided by."""
        score = self.told.get("score")
        return None if score is None else float(score)

    @property
    def messages(self) -> Any:
        """What the client sent."""
        return self.body.get("messages")

    async def exit_answer(self, most: int) -> Answered:
        """Let the model answer after the exit."""
        exit_ids = list(self.policy.exit_ids)
        return await self._continued(self._kept + exit_ids, most, self.policy.exit_text)

    async def finished_thinking(self, most: int, extra: Mapping[str, Any]) -> Answered:
        """Finish the thinking: the same tokens up to the exit, continued to their own end."""
        kept = self._kept
        limit = self.body.get("max_completion_tokens") or self.body.get("max_tokens") or most
        return await self._continued(kept, max(1, int(limit) - len(kept)), "", extra)

    async def answered_again(self, most: int, extra: Mapping[str, Any]) -> Answered:
        """Answer the prompt once more, in full, by another draw."""
        limit = self.body.get("max_completion_tokens") or self.body.get("max_tokens") or most
        return await self._continued([], int(limit), "", extra)

    @property
    def _kept(self) -> list[int]:
        """The generated tokens before the exit's own."""
        exit_ids, first = list(self.policy.exit_ids), int(self.told["thinking_tokens"])
        for start in range(first, len(self.ids)):
            told = self.ids[start : start + len(exit_ids)]
            if told and told == exit_ids[: len(told)]:
                return self.ids[:start]
        raise UpstreamError("The exit is not among the tokens.", code="exit_not_found")

    async def _continued(
        self, kept: list[int], most: int, written: str, extra: Mapping[str, Any] | None = None
    ) -> Answered:
        """Continue the prompt and some tokens, without exits; `written` is what they hold of the answer."""
        if not self.prompt:
            raise UpstreamError("The server does not tell the tokens.", code="no_token_ids")
        own = {name: self.body[name] for name in _KEPT if self.body.get(name) is not None}
        asked = {
            **own,
            "prompt": self.prompt + kept,
            "max_tokens": most,
            "skip_special_tokens": False,
            "vllm_xargs": {"lynxstop_risk": "off"},
            **(extra or {}),
        }
        answer = await self.ask(COMPLETIONS, asked)
        text = written + str(answer["choices"][0]["text"])
        tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
        ended = any(mark in text for mark in self.policy.think_close)
        return Answered(after_thinking(text, self.policy.think_close) if ended else None, tokens)
