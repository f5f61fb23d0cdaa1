"""Early exit inside the `generate` of transformers."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from lynxstop.artifacts.probe import Probe
from lynxstop.core.conditions import Conditions
from lynxstop.core.exits import CueEvent, Exit, Mode
from lynxstop.core.policy import StopPolicy
from lynxstop.core.session import Session
from lynxstop.core.statistics import UNKNOWN, Statistics
from lynxstop.core.watch import Watch
from lynxstop.engines.torch.device_probe import DeviceProbe
from lynxstop.engines.torch.statistics import statistics
from lynxstop.engines.transformers.cache import cache_argument
from lynxstop.engines.transformers.eos import end_tokens
from lynxstop.engines.transformers.scoring import ProbeScorer
from lynxstop.engines.transformers.taps import Taps
from lynxstop.errors import ConfigError, ModelError


class EarlyExitProcessor(LogitsProcessor):  # type: ignore[misc]
    """A logits processor that stops thinking, for ``model.generate(..., logits_processor=[processor])``.

    Greedy decoding and sampling, left-padded batches and several returned sequences are served; every call of
    `generate` starts anew. The processor hangs hooks on the model: use it in a ``with`` block, or `close` it.

    Parameters
    ----------
    model : torch.nn.Module
        The model whose `generate` is called.
    watch : Watch
        Cue and thinking automata compiled for its tokenizer.
    policy : StopPolicy
        Guards, certified levels and exit tokens.
    probe : Probe, optional
        Scores cues; without one, only a budget stops, or a rule that reads no hidden states.
    risk : float, optional
        Certified level to stop at; None stops at a budget only.
    mode : Mode
        Stop, or only record what would have happened.
    served : Conditions, optional
        How `generate` will sample, where levels were certified at several samplings; by default as the
        bundle's own. It is not compared with what was certified.

    Raises
    ------
    ConfigError
        When `risk` is not certified, or there is no probe to hold it.
    ModelError
        When the model has no such layers; from `generate`, on beam search, assisted generation and guidance.
    """

    def __init__(
        self,
        model: Any,
        watch: Watch,
        policy: StopPolicy,
        *,
        probe: Probe | None = None,
        risk: float | None = None,
        mode: Mode = Mode.STOP,
        served: Conditions | None = None,
    ) -> None:
        policy.level(risk)
        if risk is not None and probe is None and policy.needs_probe:
            raise ConfigError("Stopping at a risk level needs a probe.")
        self._watch, self._policy, self._risk, self._mode = watch, policy, risk, mode
        self._served = served
        self._eos_ids = end_tokens(model)
        self._pad_id: int | None = getattr(model.generation_config, "pad_token_id", None)
        self._taps = None if probe is None else Taps(model, probe.layers)
        device = next(model.parameters()).device
        self._scorer = (
            None
            if probe is None or self._taps is None
            else ProbeScorer(self._taps, DeviceProbe(probe, device))
        )
        self._hook = model.register_forward_pre_hook(self._before_pass, with_kwargs=True)
        self.reset()

    @property
    def exits(self) -> list[Exit | None]:
        """For each sequence of the last call, the exit that was taken, or None."""
        return [session.exit for session in self._sessions]

    @property
    def events(self) -> list[list[CueEvent]]:
        """For each sequence of the last call, the cues that were seen."""
        return [session.events for session in self._sessions]

    @property
    def failures(self) -> int:
        """Cues whose scoring failed; their requests continue without being stopped there."""
        return 0 if self._scorer is None else self._scorer.failures

    def reset(self) -> None:
        """Forget the last call; `generate` does not need it."""
        self._sessions: list[Session] = []
        self._last: Tensor | None = None
        self._fresh = False
        self._passes = 0
        self._mask: Tensor | None = None
        self._logprobs: Tensor | None = None

    def close(self) -> None:
        """Take the hooks off the model; may be called twice."""
        self._hook.remove()
        if self._taps is not None:
            self._taps.close()

    def __enter__(self) -> EarlyExitProcessor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return `scores` (rows, vocabulary); where an exit is forced, only its token is left possible."""
        if not self._passes:
            raise ModelError(
                "The model has not run since the last token: assisted generation cannot be stopped early.",
                hint="Leave the assistant out, and close processors of other models.",
            )
        if self._fresh or not self._goes_on(input_ids):
            _refuse_beams(scores)
            self._start(input_ids)
            scored: list[int] = []
        elif self._passes > 1:
            raise ModelError(
                "The model has run twice since the last token: guidance cannot be stopped early.",
                hint="Leave guidance_scale out.",
            )
        else:
            scored = self._read(input_ids[:, -1].tolist())
        self._last = input_ids
        self._fresh, self._passes = False, 0
        values = self._score(scored)
        known = self._know(input_ids, scores)
        forced = {}
        for row, session in enumerate(self._sessions):
            token = session.decide(values.get(row), known[row] if known else UNKNOWN)
            if token is not None:
                forced[row] = token
        return _force(scores, forced) if forced else scores

    def _know(self, input_ids: Tensor, scores: Tensor) -> list[Statistics]:
        """Statistics of the last tokens, when the policy's rule needs them."""
        if self._policy.rule is None or not self._policy.rule.statistics:
            return []
        before, self._logprobs = self._logprobs, scores.float().log_softmax(dim=-1)
        found = statistics(self._logprobs, self._policy.exit_ids[0])
        same = before is not None and before.shape == self._logprobs.shape
        own = before.gather(1, input_ids[:, -1:]) if same and before is not None else found[:, :1] * math.nan
        return [Statistics(*row) for row in torch.cat([found, own], dim=1).tolist()]

    def _before_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See whether this pass starts a call of `generate`, and which of its tokens are padding."""
        self._passes += 1
        ids = args[0] if args else kwargs.get("input_ids")
        if not isinstance(ids, Tensor) or ids.shape[1] == 1:
            return
        cache = kwargs.get(cache_argument(kwargs))
        # Without a cache each pass reads everything.
        goes_on = self._goes_on(ids, whole=True) if cache is None else cache.get_seq_length() > 0
        self._fresh |= not goes_on
        self._mask = kwargs.get("attention_mask")

    def _goes_on(self, ids: Tensor, *, whole: bool = False) -> bool:
        """Whether these are the last sequences and one token more; judged by their shape unless `whole`."""
        before = self._last
        if before is None or ids.shape != (before.shape[0], before.shape[1] + 1):
            return False
        return not whole or torch.equal(ids[:, :-1], before)

    def _start(self, input_ids: Tensor) -> None:
        prompts = input_ids.tolist()
        # With a static cache it is a mask of pairs of tokens, or one for each kind of layer.
        if isinstance(self._mask, Tensor) and self._mask.shape == input_ids.shape:
            real = self._mask.tolist()
        else:
            real = [_without_padding(prompt, self._pad_id) for prompt in prompts]
        self._mask = None
        self._sessions = [
            Session(
                self._watch,
                self._policy,
                [token for token, kept in zip(prompt, mask, strict=True) if kept],
                risk=self._risk,
                mode=self._mode,
                served=self._served,
            )
            for prompt, mask in zip(prompts, real, strict=True)
        ]

    def _read(self, tokens: list[int]) -> list[int]:
        scored = []
        for row, (session, token) in enumerate(zip(self._sessions, tokens, strict=True)):
            # A row that a stopping criterion ended is padded.
            if token in self._eos_ids or token == self._pad_id:
                session.finish()
            elif session.read(token):
                scored.append(row)
        return scored

    def _score(self, scored: list[int]) -> dict[int, float]:
        if not scored or self._scorer is None:
            return {}
        _, scores = self._scorer.score(torch.tensor(scored))
        if scores is None:
            return {}
        values: list[float] = scores.tolist()
        self._scorer.check(values)
        return dict(zip(scored, values, strict=True))


def _force(scores: Tensor, forced: dict[int, int]) -> Tensor:
    rows, tokens = list(forced.keys()), list(forced.values())
    scores = scores.clone()
    scores[rows] = -torch.inf
    scores[rows, tokens] = 0.0
    return scores


def _refuse_beams(scores: Tensor) -> None:
    """Beam search hands log-probabilities to its processors, everything else raw logits."""
    if len(scores) > 1 and bool((scores.float().logsumexp(dim=-1).abs() < 1e-4).all()):
        raise ModelError(
            "Beam search cannot be stopped early: its beams change places.",
            hint="Use num_beams=1, with or without sampling.",
        )


def _without_padding(prompt: list[int], pad_id: int | None) -> list[bool]:
    """Mask of a left-padded prompt: True from the first token that is not padding."""
    start = next((place for place, token in enumerate(prompt) if token != pad_id), len(prompt))
    return [place >= start for place in range(len(prompt))]
