"""Answers of exits forced in recorded traces, in bulk: one pass over a trace serves all its cuts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lynxstop.core.types import Answer, Generation, Request, Sampling
from lynxstop.engines.transformers.batch import PaddedBatch, survivors
from lynxstop.engines.transformers.observe import Observer
from lynxstop.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ForcedExitInputs:
    """What forced exits need of an engine.

    Parameters
    ----------
    model : torch.nn.Module
    device : torch.device
        Where its inputs go.
    exit_ids : tuple of int
        Tokens forced at an exit.
    eos_ids : frozenset of int
        Tokens that end a sequence.
    batch_size : int
        Exits decoded at once.
    uniforms : callable
        Maps requests and sampling to the uniform numbers of all their output positions, on the device: shape
        (requests, max_tokens + 1).
    context : float
        Most tokens of a prompt and its output together.
    """

    model: nn.Module
    device: torch.device
    exit_ids: tuple[int, ...]
    eos_ids: frozenset[int]
    batch_size: int
    uniforms: Callable[[Sequence[Request], Sampling], Tensor]
    context: float


@dataclass(slots=True)
class _Exit:
    trace: int
    ordinal: int
    cut: int
    room: float
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    first_entropy: float = math.nan


@torch.inference_mode()
def force_exits(
    inputs: ForcedExitInputs,
    generations: Sequence[Generation],
    cuts: Sequence[Sequence[int]],
    sampling: Sampling,
) -> list[list[Answer]]:
    """Serve `TransformersEngine.force_exits`, which describes it."""
    answers: list[list[Answer]] = [[Answer((), (), "length")] * len(places) for places in cuts]
    for generation, places in zip(generations, cuts, strict=True):
        if places and not 0 <= min(places) <= max(places) < len(generation.output_ids):
            raise ConfigError(f"A cut of request {generation.request.id!r} lies outside its trace.")
    for group in _groups(inputs, generations, cuts, sampling):
        for exit, finish in _decode(inputs, generations, group, sampling):
            answers[exit.trace][exit.ordinal] = Answer(
                tuple(exit.ids), tuple(exit.logprobs), finish, exit.first_entropy
            )
    return answers


def _groups(
    inputs: ForcedExitInputs,
    generations: Sequence[Generation],
    cuts: Sequence[Sequence[int]],
    sampling: Sampling,
) -> Iterator[list[_Exit]]:
    """Group traces of similar length, a batch of cuts at a time; leave out cuts without room to answer."""
    forced = len(inputs.exit_ids)
    group: list[_Exit] = []
    lengths = [
        len(g.request.prompt_ids) + max(places, default=0)
        for g, places in zip(generations, cuts, strict=True)
    ]
    for trace in sorted(range(len(cuts)), key=lengths.__getitem__):
        most = min(sampling.max_tokens, inputs.context - len(generations[trace].request.prompt_ids))
        for ordinal, cut in enumerate(cuts[trace]):
            room = min(sampling.answer_tokens, most - (cut + 1 + forced))
            if room > 0:
                group.append(_Exit(trace, ordinal, cut, room))
        if len(group) >= inputs.batch_size:
            yield group
            group = []
    if group:
        yield group


def _prefill(
    inputs: ForcedExitInputs, generations: Sequence[Generation], exits: Sequence[_Exit]
) -> tuple[PaddedBatch, Tensor]:
    """Read the prefixes of all exits and the exit tokens after them; return the logits after those."""
    batch = PaddedBatch(inputs.model, inputs.device)
    forced = list(inputs.exit_ids)

    def prefix(exit: _Exit) -> list[int]:
        generation = generations[exit.trace]
        return [*generation.request.prompt_ids, *generation.output_ids[: exit.cut + 1]]

    if batch.windowed:
        return batch, batch.prefill([prefix(exit) + forced for exit in exits])
    longest: dict[int, _Exit] = {}
    for exit in exits:
        if exit.trace not in longest or longest[exit.trace].cut < exit.cut:
            longest[exit.trace] = exit
    batch.prefill([prefix(exit) for exit in longest.values()])
    place = {trace: row for row, trace in enumerate(longest)}
    batch.keep([place[exit.trace] for exit in exits])
    batch.forget([longest[exit.trace].cut - exit.cut for exit in exits])
    return batch, batch.advance(torch.tensor([forced] * len(exits), device=inputs.device))


def _decode(
    inputs: ForcedExitInputs, generations: Sequence[Generation], exits: list[_Exit], sampling: Sampling
) -> Iterator[tuple[_Exit, str]]:
    start = 1 + len(inputs.exit_ids)
    steps = torch.arange(sampling.answer_tokens)
    positions = torch.tensor([exit.cut + start for exit in exits]).unsqueeze(1) + steps
    numbers = inputs.uniforms([generations[exit.trace].request for exit in exits], sampling)
    numbers = numbers.gather(1, positions.clamp(max=sampling.max_tokens).to(inputs.device))
    observer = Observer(None, width=0, end_token=0, record=True)
    batch, logits = _prefill(inputs, generations, exits)
    while True:
        seen = observer.look(logits, numbers[:, len(exits[0].ids)], sampling, ())
        leaving: set[int] = set()
        for place, exit in enumerate(exits):
            if not exit.ids:
                exit.first_entropy = float(seen.statistics[place][0])
            if seen.tokens[place] in inputs.eos_ids:
                leaving.add(place)
                yield exit, "stop"
                continue
            exit.ids.append(seen.tokens[place])
            exit.logprobs.append(seen.logprobs[place])
            if len(exit.ids) == exit.room:
                leaving.add(place)
                yield exit, "length"
        if len(leaving) == len(exits):
            return
        if leaving:
            order = survivors(leaving, len(exits))
            exits = [exits[place] for place in order]
            numbers = numbers[order]
            batch.keep(order)
        logits = batch.advance(torch.tensor([[exit.ids[-1]] for exit in exits], device=inputs.device))
