"""Batched generation with early exit, for any causal language model of transformers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lynxstop.artifacts.certified import Certified
from lynxstop.artifacts.probe import Probe
from lynxstop.core.conditions import Conditions, Uncertified
from lynxstop.core.policy import StopPolicy
from lynxstop.core.session import Session
from lynxstop.core.statistics import UNKNOWN
from lynxstop.core.types import Answer, Generation, Request, Sampling
from lynxstop.core.watch import Watch
from lynxstop.engines.context import check_prompts
from lynxstop.engines.torch.device_probe import DeviceProbe
from lynxstop.engines.torch.random import uniforms
from lynxstop.engines.torch.sampling import exact_dtype
from lynxstop.engines.transformers.batch import PaddedBatch, survivors
from lynxstop.engines.transformers.eos import end_tokens
from lynxstop.engines.transformers.exits import ForcedExitInputs, force_exits
from lynxstop.engines.transformers.observe import Observation, Observer
from lynxstop.engines.transformers.row import Row
from lynxstop.engines.transformers.scoring import ProbeScorer
from lynxstop.engines.transformers.taps import Taps
from lynxstop.errors import ConfigError

OnToken = Callable[[Request, int], None]
Progress = Callable[[int, int], None]

DEFAULT_BATCH = 128
"""Default number of rows that run at once."""


class TransformersEngine:
    """Generates requests in batches, each stopped where its session decides.

    Parameters
    ----------
    model : torch.nn.Module
        A ``*ForCausalLM`` of transformers; it is put into evaluation mode.
    tokenizer : object
        Its tokenizer; only its end-of-sequence token is used.
    watch : Watch
        Cue and thinking automata compiled for the tokenizer.
    policy : StopPolicy
        Guards, certified levels and exit tokens.
    probe : Probe, optional
        Scores cues; without one, only a budget stops, or a rule that reads no hidden states.
    layers : sequence of int, optional
        Hidden states to record, if any; the probe's when there is one.
    device : str or torch.device, optional
        Where to run; where the model is when None.
    batch_size : int
        Rows that run at once.
    close_open_thinking : bool
        When the model ends its text inside a thinking block, force the policy's exit tokens and let it
        answer. Such an exit has the reason `end_of_text`, and no certificate covers it.
    certified : Certified, optional
        What the levels were certified for; the sampling of requests is not compared with it where None.
    uncertified : Uncertified
        What is done with requests at a risk level that depart from it.

    Attributes
    ----------
    context : float
        Tokens that a prompt and its output may have together; infinite where the model does not say.
    departures : Counter of str
        Requests outside the certified conditions, by what departs.
    failures : int
        Cues whose scoring failed or was not finite; their requests continue without being stopped there.

    Raises
    ------
    ConfigError
        When `layers` are not the probe's.
    ModelError
        When the model has no such layers.
    """

    id: ClassVar[str] = "transformers"
    decides_like: ClassVar[Mapping[str, tuple[str, ...]]] = {"float32": ("vllm",)}
    """`tests/vllm/test_collect.py` compares them token by token, in float32."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        watch: Watch,
        policy: StopPolicy,
        *,
        probe: Probe | None = None,
        layers: Sequence[int] | None = None,
        device: str | torch.device | None = None,
        batch_size: int = DEFAULT_BATCH,
        close_open_thinking: bool = False,
        certified: Certified | None = None,
        uncertified: Uncertified = Uncertified.THINK,
    ) -> None:
        if probe is not None and layers is not None and tuple(layers) != probe.layers:
            raise ConfigError(f"The probe reads layers {probe.layers}, not {tuple(layers)}.")
        if batch_size < 1:
            raise ConfigError("A batch has at least 1 row.")
        self.model: nn.Module = (model if device is None else model.to(device)).eval()
        self.device = next(self.model.parameters()).device
        self.watch = watch
        self.policy = policy
        self.probe = probe
        self.layers = probe.layers if probe is not None else tuple(layers or ())
        self.batch_size = batch_size
        self.close_open_thinking = close_open_thinking
        self.certified = certified
        self.uncertified = uncertified
        self.departures: Counter[str] = Counter()
        self.failures = 0
        self.eos_ids = end_tokens(model, tokenizer)
        config = model.config.get_text_config()
        self.vocabulary: int = config.vocab_size
        self.context = _context(config)
        self.width: int = config.hidden_size * len(self.layers)
        self._probe = None if probe is None else DeviceProbe(probe, self.device)
        if probe is not None and probe.width != self.width:
            raise ConfigError(f"The probe takes {probe.width} features, the model gives {self.width}.")
        if self.layers:
            Taps(self.model, self.layers).close()

    @property
    def exits_at_once(self) -> int:
        """Forced exits that make a batch."""
        return self.batch_size

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        record: bool = False,
        on_token: OnToken | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Generation]:
        """Generate all requests; results come as they finish, in no fixed order.

        Parameters
        ----------
        requests : sequence of Request
            Prompts with their risk levels.
        sampling : Sampling
            Shared by all requests.
        record : bool
            Fill features, signals and log-probabilities of the results.
        on_token : callable, optional
            Called with the request and the token, for every token of the output, forced ones included.
        progress : callable, optional
            Called with the numbers of finished and of all requests.

        Raises
        ------
        ConfigError
            When a risk is not certified or there is no probe to hold it, or a prompt is empty or not of this
            vocabulary.
        DataError
            When a prompt fills the model's context.
        """
        check_prompts(requests, self.context, "Leave it out, or take a model with a longer context.")
        for request in requests:
            self.policy.level(request.risk)
            if request.risk is not None and self.probe is None and self.policy.needs_probe:
                raise ConfigError("Stopping at a risk level needs a probe.")
            if not request.prompt_ids:
                raise ConfigError(f"The prompt of request {request.id!r} is empty.")
            if min(request.prompt_ids) < 0 or max(request.prompt_ids) >= self.vocabulary:
                raise ConfigError(f"The prompt of request {request.id!r} has tokens outside the vocabulary.")
        asked = [self._compare(request, sampling) for request in requests]
        return self._generate(asked, sampling, record, on_token, progress)

    def _compare(self, request: Request, sampling: Sampling) -> Request:
        """Let a request outside the certified conditions think, unless it is to be stopped all the same."""
        if self.certified is None or request.risk is None:
            return request
        served = Conditions.of(sampling).within(self.context - len(request.prompt_ids))
        level = self.policy.level(request.risk, request.group, served)
        departures = self.certified.departures(served, level)
        self.departures.update(departures)
        thinks = departures and self.uncertified is Uncertified.THINK
        return replace(request, risk=None) if thinks else request

    def force_exits(
        self,
        generations: Sequence[Generation],
        sampling: Sampling,
        cuts: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Answer]]:
        """Decode, for recorded traces, the answers of exits forced after given tokens.

        An answer is the one a live exit would have given: same exit tokens, uniform numbers and limits.

        Parameters
        ----------
        generations : sequence of Generation
            Recorded traces.
        sampling : Sampling
            As they were generated with.
        cuts : sequence of sequence of int, optional
            For each trace the indices of the tokens after which to exit; `seen_at` of its events when None.

        Returns
        -------
        list of list of Answer
            For each trace, in the order given, the answers in the order of its cuts.

        Raises
        ------
        ConfigError
            When a cut lies outside its trace.
        """
        places = [[event.seen_at for event in g.events] for g in generations] if cuts is None else cuts
        inputs = ForcedExitInputs(
            self.model,
            self.device,
            self.policy.exit_ids,
            self.eos_ids,
            self.batch_size,
            self.uniforms,
            self.context,
        )
        return force_exits(inputs, generations, places, sampling)

    @torch.inference_mode()
    def _generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        record: bool,
        on_token: OnToken | None,
        progress: Progress | None,
    ) -> Iterator[Generation]:
        ordered = sorted(requests, key=lambda request: len(request.prompt_ids))
        finished = 0
        for start in range(0, len(ordered), self.batch_size):
            group = ordered[start : start + self.batch_size]
            for generation in self._run(group, sampling, record, on_token):
                finished += 1
                yield generation
                if progress is not None:
                    progress(finished, len(requests))

    def _session(self, request: Request, sampling: Sampling) -> Session:
        return Session(
            self.watch,
            self.policy,
            request.prompt_ids,
            risk=request.risk,
            mode=request.mode,
            group=request.group,
            served=Conditions.of(sampling),
        )

    def _run(
        self, requests: Sequence[Request], sampling: Sampling, record: bool, on_token: OnToken | None
    ) -> Iterator[Generation]:
        rows = [
            Row(request, self._session(request, sampling), sampling, self.context) for request in requests
        ]
        numbers = self.uniforms(requests, sampling)
        batch = PaddedBatch(self.model, self.device)
        taps = Taps(self.model, self.layers) if self._probe is not None or (record and self.layers) else None
        scorer = None if taps is None else ProbeScorer(taps, self._probe)
        end_token = self.policy.exit_ids[0]
        watch = record or (self.policy.rule is not None and self.policy.rule.statistics)
        observer = Observer(scorer, width=self.width, end_token=end_token, record=record, watch=watch)
        try:
            logits = batch.prefill([request.prompt_ids for request in requests])
            while True:
                scored = [place for place, row in enumerate(rows) if row.wanted]
                seen = observer.look(logits, numbers[:, len(rows[0].ids)], sampling, scored)
                forced = _decide(rows, scored, seen, record, watch)
                if self.close_open_thinking:
                    forced |= _close_thinking(rows, seen.tokens, forced, self.eos_ids)
                logprobs = observer.logprobs(seen, forced)
                leaving: set[int] = set()
                for place, row in enumerate(rows):
                    token = forced.get(place, seen.tokens[place])
                    if token in self.eos_ids and place not in forced:
                        leaving.add(place)
                        yield row.close("stop", record, self.width)
                        continue
                    row.read(token)
                    if watch:
                        row.logprobs.append(logprobs[place])
                    if on_token is not None:
                        on_token(row.request, token)
                    if len(row.ids) >= row.end:
                        leaving.add(place)
                        yield row.close("length", record, self.width)
                if len(leaving) == len(rows):
                    return
                if leaving:
                    order = survivors(leaving, len(rows))
                    rows = [rows[place] for place in order]
                    numbers = numbers[order]
                    batch.keep(order)
                logits = batch.advance(torch.tensor([[row.ids[-1]] for row in rows], device=self.device))
        finally:
            if taps is not None and scorer is not None:
                self.failures += scorer.failures
                taps.close()

    def uniforms(self, requests: Sequence[Request], sampling: Sampling) -> Tensor:
        """Uniform numbers of all output positions, on the device: shape (requests, max_tokens + 1)."""
        count = sampling.max_tokens + 1
        numbers = np.stack([uniforms(sampling.seed, request.id, count) for request in requests])
        return torch.from_numpy(numbers).to(self.device, exact_dtype(self.device))


def _decide(
    rows: Sequence[Row], scored: Sequence[int], seen: Observation, record: bool, watch: bool
) -> dict[int, int]:
    """Let every session decide on the token it read last; return the tokens forced next, by row."""
    scores = dict(zip(scored, seen.scores, strict=True))
    if record:
        for rank, place in enumerate(scored):
            rows[place].hold(seen.features[rank], seen.statistics[place])
    forced: dict[int, int] = {}
    for place, row in enumerate(rows):
        known = row.known(seen.statistics[place]) if watch else UNKNOWN
        token = row.session.decide(scores.get(place), known)
        if token is not None:
            forced[place] = token
        if record:
            row.settle()
    return forced


def _context(config: Any) -> float:
    """Return the tokens that a text model is made for, as vLLM reads them; infinite where it does not say."""
    length: int | None = getattr(config, "max_position_embeddings", None)
    if not length:
        return math.inf
    positions = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    stretched = positions.get("rope_type") in ("linear", "dynamic")
    return int(length * positions.get("factor", 1.0)) if stretched else length


def _close_thinking(
    rows: Sequence[Row], tokens: Sequence[int], forced: Mapping[int, int], eos_ids: Container[int]
) -> dict[int, int]:
    """Tokens to force, by row, where a text is about to end inside a thinking block."""
    ending = (place for place, token in enumerate(tokens) if token in eos_ids and place not in forced)
    found = {place: rows[place].session.close_thinking() for place in ending}
    return {place: token for place, token in found.items() if token is not None}
