"""What a collection costs, before anyone spends a GPU hour on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lynxstop.core.policy import StopPolicy
from lynxstop.core.rule import eligible_mask
from lynxstop.errors import ConfigError


@dataclass(frozen=True)
class Cost:
    """The cost of full traces and of the exits forced in them.

    Parameters
    ----------
    cues : int
        Decision points of a trace.
    kept : int
        Those that the guards let exit: where exits are forced.
    forced_exits : int
        Of all traces.
    thinking_tokens, answer_tokens : int
        Generated for the traces, and for the exits.
    read_tokens : int
        Read again before the exits by an engine without a prefix cache.
    hours : float
        Of generating, with a prefix cache.
    """

    cues: int
    kept: int
    forced_exits: int
    thinking_tokens: int
    answer_tokens: int
    read_tokens: int
    hours: float


def cost(
    traces: int,
    guards: StopPolicy,
    *,
    cues: int,
    thinking_tokens: int,
    answer_tokens: int = 32,
    tokens_per_second: float = 1000.0,
) -> Cost:
    """Estimate a collection whose traces have their cues at equal distances.

    Parameters
    ----------
    traces : int
    guards : StopPolicy
        Its guards choose among the cues, as they do live.
    cues, thinking_tokens : int
        Of a trace.
    answer_tokens : int
        Of an exit: the exit text and the answer after it.
    tokens_per_second : float
        That the engine generates, all requests together.

    Raises
    ------
    ConfigError
        On a number that is not positive, or more cues than tokens.

    Examples
    --------
    >>> made = cost(1000, StopPolicy((0,), stride=4, max_points=30), cues=160, thinking_tokens=12_000)
    >>> made.kept, made.forced_exits, made.thinking_tokens, made.answer_tokens
    (30, 30000, 12000000, 960000)
    """
    if min(traces, thinking_tokens, answer_tokens) < 1 or cues < 0 or not tokens_per_second > 0:
        raise ConfigError("Traces, tokens and tokens per second are positive, and cues are not negative.")
    if cues > thinking_tokens:
        raise ConfigError(f"{cues} cues do not fit into {thinking_tokens} thinking tokens.")
    positions = (np.arange(1, cues + 1) * thinking_tokens) // (cues + 1)
    kept = positions[eligible_mask(guards, positions)]
    thought, forced = traces * thinking_tokens, traces * len(kept)
    return Cost(
        cues=cues,
        kept=len(kept),
        forced_exits=forced,
        thinking_tokens=thought,
        answer_tokens=forced * answer_tokens,
        read_tokens=traces * int(kept.sum()),
        hours=(thought + forced * answer_tokens) / tokens_per_second / 3600,
    )
