"""vLLM as the engine of collection: full traces with features in one pass, and forced exits in bulk.

Traces are generated with the plugin recording; the exits of a trace are then decoded from its prefixes, which
vLLM's prefix cache mostly still holds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lynxstop.artifacts.setup import Setup
from lynxstop.core.session import Phase, Session
from lynxstop.engines.types import Answer, Generation, Request, Sampling, Signals
from lynxstop.engines.vllm.spool import Recorded, read_spool
from lynxstop.errors import ConfigError, DataError

_PATIENCE = 10.0
"""Seconds to wait for rows that the engine's process has not written yet."""


@dataclass(slots=True)
class CacheUse:
    """Prompt tokens of forced exits, and how many of them the prefix cache held."""

    cached: int = 0
    total: int = 0


class VllmEngine:
    """Generates traces and forced exits in a running `vllm.LLM`.

    Parameters
    ----------
    llm : vllm.LLM
        Started with lynxstop recording to `spool`, by a recipe or with a bundle.
    setup : Setup
        Compiled for the model's tokenizer.
    layers : tuple of int
        Layers that are recorded.
    spool : Path
        Folder it records to.

    Attributes
    ----------
    cache : CacheUse
        Of all forced exits so far.
    """

    def __init__(self, llm: Any, setup: Setup, layers: tuple[int, ...], spool: Path) -> None:
        self.llm = llm
        self.watch = setup.watch
        self.policy = setup.policy
        self.layers = layers
        self.spool = spool
        config = llm.llm_engine.model_config
        self.width = config.hf_text_config.hidden_size * len(layers)
        ends = config.try_get_generation_config().get("eos_token_id", ())
        self.eos_ids = frozenset(ends if isinstance(ends, list) else [ends]) | {
            llm.get_tokenizer().eos_token_id
        }
        self.cache = CacheUse()
        self._run = 0

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, record: bool = False
    ) -> Iterator[Generation]:
        """Generate all requests; see `lynxstop.engines.transformers.TransformersEngine.generate`.

        Random numbers are vLLM's: a sampled trace is not repeated by another run.

        Raises
        ------
        DataError
            When rows that were recorded do not arrive.
        """
        self._run += 1
        names = [f"{os.getpid()}.{self._run}.{number}" for number in range(len(requests))]
        given = [
            {"lynxstop_risk": "off" if r.risk is None else r.risk, "lynxstop_mode": str(r.mode)}
            | ({"lynxstop_record": name} if record else {})
            for r, name in zip(requests, names, strict=True)
        ]
        params = [self._params(sampling, sampling.max_tokens, extra_args=args) for args in given]
        prompts = [{"prompt_token_ids": list(r.prompt_ids)} for r in requests]
        outputs = [result.outputs[0] for result in self.llm.generate(prompts, params, use_tqdm=False)]
        made = [self._generation(r, output, sampling) for r, output in zip(requests, outputs, strict=True)]
        if record:
            rows = self._rows({(n, e.index) for n, g in zip(names, made, strict=True) for e in g.events})
            for name, generation in zip(names, made, strict=True):
                _attach(generation, [rows[name, event.index] for event in generation.events], self.width)
        yield from made

    def force_exits(
        self,
        generations: Sequence[Generation],
        sampling: Sampling,
        cuts: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Answer]]:
        """Decode the answers of forced exits; see `TransformersEngine.force_exits`.

        Raises
        ------
        ConfigError
            When a cut lies outside its trace.
        """
        places = [[event.seen_at for event in g.events] for g in generations] if cuts is None else cuts
        answers: list[list[Answer]] = [[Answer((), (), "length")] * len(of_trace) for of_trace in places]
        prompts, params, targets = [], [], []
        forced = list(self.policy.exit_ids)
        for trace, (generation, of_trace) in enumerate(zip(generations, places, strict=True)):
            for ordinal, cut in enumerate(of_trace):
                if not 0 <= cut < len(generation.output_ids):
                    raise ConfigError(f"A cut of request {generation.request.id!r} lies outside its trace.")
                room = min(sampling.answer_tokens, sampling.max_tokens - (cut + 1 + len(forced)))
                if room > 0:
                    prefix = [*generation.request.prompt_ids, *generation.output_ids[: cut + 1], *forced]
                    prompts.append({"prompt_token_ids": prefix})
                    params.append(
                        self._params(
                            sampling, room, extra_args={"lynxstop_risk": "off", "lynxstop_record": 0}
                        )
                    )
                    targets.append((trace, ordinal))
        for (trace, ordinal), result in zip(
            targets, self.llm.generate(prompts, params, use_tqdm=False) if prompts else (), strict=True
        ):
            ids, logprobs, finish = self._strip(result.outputs[0])
            answers[trace][ordinal] = Answer(tuple(ids), tuple(logprobs), finish)
            self.cache.cached += result.num_cached_tokens or 0
            self.cache.total += len(result.prompt_token_ids)
        return answers

    def _params(self, sampling: Sampling, tokens: int, **options: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=tokens,
            logprobs=0,
            detokenize=False,
            **options,
        )

    def _strip(self, output: Any) -> tuple[list[int], list[float], str]:
        """Tokens without the end of sequence, their log-probabilities, and how they ended."""
        ids = list(output.token_ids)
        logprobs = [one[token].logprob for one, token in zip(output.logprobs, ids, strict=True)]
        ended = bool(ids) and ids[-1] in self.eos_ids
        return (ids[:-1], logprobs[:-1], "stop") if ended else (ids, logprobs, "length")

    def _generation(self, request: Request, output: Any, sampling: Sampling) -> Generation:
        """Replay the tokens through a session: events, and the limit of tokens behind the thinking block."""
        ids, logprobs, finish = self._strip(output)
        session = Session(self.watch, self.policy, request.prompt_ids, risk=None, mode=request.mode)
        end = sampling.max_tokens
        answering = False
        for number, token in enumerate(ids):
            if number >= end:
                ids, logprobs, finish = ids[:number], logprobs[:number], "length"
                break
            session.read(token)
            session.decide(None)
            if not answering and session.phase is Phase.ANSWERING:
                answering, end = True, min(end, number + 1 + sampling.answer_tokens)
        session.finish()
        thinking = session.thinking_tokens
        return Generation(request, ids, thinking, finish, session.events, session.exit, logprobs=logprobs)

    def _rows(self, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], Recorded]:
        late = time.monotonic() + _PATIENCE
        while True:
            rows = {(row.request, row.token): row for row in read_spool(self.spool)}
            if wanted <= rows.keys():
                return rows
            if time.monotonic() > late:
                missing = len(wanted - rows.keys())
                raise DataError(
                    f"{missing} recorded cues are missing from {self.spool}.", hint="Is its disk full?"
                )
            time.sleep(0.2)


def _attach(generation: Generation, rows: list[Recorded], width: int) -> None:
    generation.features = (
        np.stack([row.features for row in rows]) if rows else np.zeros((0, width), np.float32)
    )
    generation.signals = []
    start = 0
    for row in rows:
        since = generation.logprobs[start : row.token + 1]
        start = row.token + 1
        _, entropy, gap, margin = row.statistics.tolist()
        generation.signals.append(Signals(entropy, gap, margin, min(since), sum(since) / len(since)))
