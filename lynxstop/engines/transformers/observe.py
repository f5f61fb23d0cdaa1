"""One decoding step: drawn tokens, scores and statistics, copied to the host in one transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.core.statistics import NEXT
from lynxstop.core.types import Sampling
from lynxstop.engines.torch.sampling import draw
from lynxstop.engines.torch.statistics import bits, statistics
from lynxstop.engines.transformers.scoring import ProbeScorer


@dataclass(frozen=True, slots=True)
class Observation:
    """One step, on the host.

    `tokens` has one entry per row, and so have `logprobs` and `statistics` (those of the next token, NEXT
    columns), which are empty unless they are watched; `scores` and `features` have one per row that was
    scored, and `features` are empty unless recording.
    """

    tokens: list[int]
    scores: list[float]
    logprobs: list[float] = field(default_factory=list)
    features: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    statistics: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, NEXT), np.float32))


class Observer:
    """Observes the steps of one batch.

    Parameters
    ----------
    scorer : ProbeScorer or None
        Source of features and scores; None when none are needed.
    width : int
        Number of features.
    end_token : int
        First token of the forced exit, for the end margin.
    record : bool
        Bring features, statistics and log-probabilities too.
    watch : bool
        Bring statistics and log-probabilities.
    """

    def __init__(
        self, scorer: ProbeScorer | None, *, width: int, end_token: int, record: bool, watch: bool = False
    ) -> None:
        self._scorer = scorer
        self._width = width
        self._end_token = end_token
        self._record = record
        self._watch = watch or record
        self._logprobs: Tensor | None = None

    def look(
        self, logits: Tensor, uniforms: Tensor, sampling: Sampling, scored: Sequence[int]
    ) -> Observation:
        """Draw a token for every row, score the rows `scored`, and copy all of it to the host at once.

        Parameters
        ----------
        logits : Tensor, shape (rows, vocabulary)
        uniforms : Tensor, shape (rows,)
        sampling : Sampling
        scored : sequence of int
            Rows whose score is needed.
        """
        parts = [draw(logits, uniforms, sampling).to(torch.int32)]
        rows = torch.tensor(scored, dtype=torch.long, device=logits.device) if scored else None
        features = scores = None
        if rows is not None and self._scorer is not None:
            features, scores = self._scorer.score(rows)
        if self._watch:
            self._logprobs = logits.float().log_softmax(dim=-1)
            drawn = parts[0].long().unsqueeze(1)
            parts.append(bits(self._logprobs.gather(1, drawn)))
            parts.append(bits(statistics(self._logprobs, self._end_token)))
        if self._record and features is not None:
            parts.append(bits(features))
        if scores is not None:
            parts.append(bits(scores))
        host = (torch.cat(parts) if len(parts) > 1 else parts[0]).cpu().numpy()
        return self._unpack(host, len(logits), len(scored), features is not None, scores is not None)

    def logprobs(self, seen: Observation, forced: Mapping[int, int]) -> list[float]:
        """Log-probabilities of the last step's tokens: those drawn, except in the rows `forced`."""
        taken = list(seen.logprobs)
        if forced and self._logprobs is not None:
            picked = self._logprobs[list(forced.keys()), list(forced.values())].tolist()
            for place, logprob in zip(forced, picked, strict=True):
                taken[place] = logprob
        return taken

    def _unpack(
        self, host: NDArray[np.int32], rows: int, count: int, featured: bool, found: bool
    ) -> Observation:
        tokens, rest = host[:rows].tolist(), host[rows:].view(np.float32)
        observation: dict[str, object] = {}
        if self._watch:
            observation["logprobs"], rest = rest[:rows].tolist(), rest[rows:]
            observation["statistics"], rest = rest[: NEXT * rows].reshape(rows, NEXT), rest[NEXT * rows :]
        if self._record and count:
            size = self._width * count if featured else 0
            absent = np.full((count, self._width), np.nan, np.float32)
            observation["features"] = rest[:size].reshape(count, -1) if featured else absent
            rest = rest[size:]
        scores = rest.tolist() if found else [float("nan")] * count
        if found and self._scorer is not None:
            self._scorer.check(scores)
        return Observation(tokens, scores, **observation)  # type: ignore[arg-type]
