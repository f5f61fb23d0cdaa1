"""What a bundle watches for in a server's stream, and what may stop it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lynxstop.core.policy import StopPolicy
from lynxstop.core.stream import StreamWatch
from lynxstop.remote.fast_path import BatchedRule
from lynxstop.remote.tokens import beginnings


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """What is watched in a stream and what may stop it; one per bundle.

    Parameters
    ----------
    watch : StreamWatch
    policy : StopPolicy
    exit_text : str
    close : tuple of str
        Texts that close a thinking block.
    before : bool
        Whether an exit at a cue truncates before the cue instead of after it.
    exit_ids : tuple of int
        Tokens of the exit text in the server's vocabulary; empty where that is unknown.
    opened : bool
        Whether a block is open from the start, because the prompt's template opened it and the stream does
        not show that.
    opened_by : tuple of int
        The last tokens of a prompt that opened it; a request may render another. Empty where that is unknown.
    compared : str
        Whole exit text, where only a part of it is written: rules compare with what it begins with.
    open : tuple of str
        Texts that open a thinking block.
    exit_tokens : int
        Number of the tokens of the exit text, where only that is known; 0 takes it from `exit_ids`.
    bare : bool
        Whether the exit only closes the thinking, and the server writes all of the answer.
    """

    watch: StreamWatch
    policy: StopPolicy
    exit_text: str
    close: tuple[str, ...] = ("</think>",)
    before: bool = False
    exit_ids: tuple[int, ...] = ()
    opened: bool = False
    open: tuple[str, ...] = ("<think>",)
    exit_tokens: int = 0
    bare: bool = False
    opened_by: tuple[int, ...] = ()
    compared: str = ""
    closing: frozenset[bytes] = field(init=False)
    exits: frozenset[str] = field(init=False)
    _forgetful: StopPolicy = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "closing", frozenset(text.encode() for text in self.close))
        object.__setattr__(self, "exits", beginnings(self.compared or self.exit_text))
        object.__setattr__(self, "_forgetful", self._with_rule(keep=False))
        object.__setattr__(self, "exit_tokens", self.exit_tokens or len(self.exit_ids))

    def closing_only(self, exit_tokens: int = 0) -> StreamConfig:
        """Return the same with an exit that closes the thinking and leaves the answer to the server.

        Decisions stay as they are: a rule still compares with what the whole exit text begins with.

        Parameters
        ----------
        exit_tokens : int
            Number of tokens of the shorter exit text, as the server counts them.
        """
        text = closing_part(self.exit_text, self.close)
        whole = self.compared or self.exit_text
        return replace(self, exit_text=text, compared=whole, exit_ids=(), exit_tokens=exit_tokens, bare=True)

    def policy_for(self, *, keep: bool) -> StopPolicy:
        """Return the policy with its rule evaluated in batches; see `lynxstop.remote.fast_path.BatchedRule`.

        Parameters
        ----------
        keep : bool
            Whether tokens keep their log-probabilities once the rule has read them.
        """
        return self._with_rule(keep=True) if keep else self._forgetful

    def _with_rule(self, *, keep: bool) -> StopPolicy:
        rule = self.policy.rule
        return self.policy if rule is None else replace(self.policy, rule=BatchedRule(rule, self.exits, keep))


def closing_part(exit_text: str, close: Sequence[str]) -> str:
    """Return what of an exit text closes the thinking: up to the delimiter, and the blanks after it.

    A text without any delimiter, which the thinking is not closed by, is replaced by the first delimiter.
    """
    ends = [exit_text.index(mark) + len(mark) for mark in close if mark in exit_text]
    if not ends:
        return f"\n{close[0]}\n\n"
    rest = exit_text[min(ends) :]
    return exit_text[: min(ends)] + rest[: len(rest) - len(rest.lstrip())]
