"""vLLM as the engine of collection: full traces with features in one pass, and forced exits in bulk.

Traces are generated with the plugin recording; the exits of a trace are then decoded from its prefixes, which
vLLM's prefix cache mostly still holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.setup import Setup
from lynxstop.artifacts.tokenizer import load_tokenizer
from lynxstop.core.policy import StopPolicy
from lynxstop.core.session import Phase, Session
from lynxstop.core.statistics import LOGPROB, NEXT, unknown
from lynxstop.core.types import Answer, Generation, Request, Sampling, Signals, Tokens
from lynxstop.engines.context import check_prompts
from lynxstop.engines.vllm.row_files import RecordedRow, unpack
from lynxstop.engines.vllm.tool_calls import guard_tool_calls
from lynxstop.errors import ConfigError, DataError

_AT_ONCE = 1 << 21
"""Prompt tokens of forced exits that are handed to vLLM in one call."""


@dataclass(slots=True)
class CacheUse:
    """Prompt tokens of forced exits, and how many of them the prefix cache held, as vLLM counts them."""

    cached: int = 0
    total: int = 0


class VllmEngine:
    """Generates traces and forced exits in a running `vllm.LLM`; see `lynxstop.engines.vllm.loading`.

    Greedy tokens are vLLM's own; others are drawn by the request's own random numbers, so that a trace is
    that of the transformers engine except for differences in the last bits of the logits. As in serving, what
    stands inside a tool call is not thinking and has no cues.

    Parameters
    ----------
    llm : vllm.LLM
        Started with lynxstop recording to ":memory:", by a recipe or with a bundle, and with
        `lynxstop.engines.vllm.loading.EXTENSION` as `worker_extension_cls`.
    setup : Setup
        Compiled for the model's tokenizer.
    layers : tuple of int
        Layers that are recorded.
    policy : StopPolicy, optional
        The policy that `llm` follows, where it is not that of `setup`.

    Attributes
    ----------
    cache : CacheUse
        Of all forced exits so far.
    context : int
        Tokens that a prompt and its output may have together.
    """

    id: ClassVar[str] = "vllm"
    decides_like: ClassVar[Mapping[str, tuple[str, ...]]] = {"float32": ("transformers",)}
    """`tests/vllm/test_collect.py` compares them token by token, in float32."""
    exits_at_once: ClassVar[int] = 4096
    """Forced exits that one call should have, so that its last few matter little."""

    def __init__(
        self,
        llm: Any,
        setup: Setup,
        layers: tuple[int, ...],
        policy: StopPolicy | None = None,
    ) -> None:
        self.llm = llm
        config = llm.llm_engine.model_config
        tokenizer = served_tokenizer(config)
        self.watch = guard_tool_calls(setup.watch, tokenizer)
        self.policy = policy or setup.policy
        self.layers = layers
        self.context: int = config.max_model_len
        self.width: int = config.hf_text_config.hidden_size * len(layers)
        ends = config.try_get_generation_config().get("eos_token_id", ())
        self.eos_ids = frozenset(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
        self.cache = CacheUse()
        self._run = 0

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        record: bool = False,
    ) -> Iterator[Generation]:
        """Generate all requests; see `lynxstop.engines.transformers.TransformersEngine.generate`.

        The prefix cache is emptied first: what comes out depends on these requests only.

        Raises
        ------
        DataError
            When rows that were recorded do not arrive, or a prompt fills the context.
        """
        remedy = "Leave it out, or raise max_model_len where the model allows it."
        check_prompts(requests, self.context, remedy)
        self.llm.reset_prefix_cache()
        self._run += 1
        params = []
        for number, request in enumerate(requests):
            arguments = {
                "lynxstop_risk": "off" if request.risk is None else request.risk,
                "lynxstop_mode": str(request.mode),
            }
            if record:
                arguments |= self._recording(number, sampling.max_tokens)
            params.append(self._params(sampling, sampling.max_tokens, request, 0, arguments))
        prompts = [{"prompt_token_ids": list(r.prompt_ids)} for r in requests]
        results = self.llm.generate(prompts, params, use_tqdm=False)
        rows = self._rows() if record else {}
        for number, (request, result) in enumerate(zip(requests, results, strict=True)):
            generation, thinking = self._generation(request, result.outputs[0], sampling)
            if record:
                self._attach(generation, thinking, rows.pop(self._name(number), {}))
            yield generation

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
        DataError
            When rows that were recorded do not arrive.
        """
        places = [[event.seen_at for event in g.events] for g in generations] if cuts is None else cuts
        answers: list[list[Answer]] = [[Answer((), (), "length")] * len(of_trace) for of_trace in places]
        prompts: list[dict[str, list[int]]] = []
        params: list[Any] = []
        targets: list[tuple[int, int]] = []
        tokens = 0
        self._run += 1
        for trace, (generation, of_trace) in enumerate(zip(generations, places, strict=True)):
            if of_trace and not 0 <= min(of_trace) <= max(of_trace) < len(generation.output_ids):
                raise ConfigError(f"A cut of request {generation.request.id!r} lies outside its trace.")
            for ordinal, cut in enumerate(of_trace):
                start = cut + 1 + len(self.policy.exit_ids)
                prompt = (
                    *generation.request.prompt_ids,
                    *generation.output_ids[: cut + 1],
                    *self.policy.exit_ids,
                )
                room = min(sampling.answer_tokens, sampling.max_tokens - start, self.context - len(prompt))
                if room <= 0:
                    continue
                prompts.append({"prompt_token_ids": list(prompt)})
                arguments = {"lynxstop_risk": "off"} | self._recording(len(targets), 1)
                params.append(self._params(sampling, room, generation.request, start, arguments))
                targets.append((trace, ordinal))
                tokens += len(prompts[-1]["prompt_token_ids"])
            if prompts and (tokens >= _AT_ONCE or trace == len(generations) - 1):
                for (at, ordinal), answer in zip(targets, self._answers(prompts, params), strict=True):
                    answers[at][ordinal] = answer
                prompts, params, targets, tokens = [], [], [], 0
                self._run += 1
        return answers

    def _answers(self, prompts: list[dict[str, list[int]]], params: list[Any]) -> Iterator[Answer]:
        results = self.llm.generate(prompts, params, use_tqdm=False)
        rows = self._rows()
        for number, result in enumerate(results):
            self.cache.cached += result.num_cached_tokens or 0
            self.cache.total += len(result.prompt_token_ids)
            ids, logprobs, finish = self._strip(result.outputs[0])
            first = rows.get(self._name(number), {}).get(-1)
            if first is None:
                raise DataError(
                    "vLLM did not return all recorded rows.", hint="Look for lynxstop's errors in its log."
                )
            yield Answer(tuple(ids), tuple(logprobs), finish, float(first.statistics[1]))

    def _recording(self, number: int, tokens: int) -> dict[str, Any]:
        """Arguments that record a request, with the statistics of its first `tokens` distributions."""
        return {"lynxstop_record": self._name(number), "lynxstop_statistics": tokens}

    def _name(self, number: int) -> str:
        """Name of a recorded request: rows of an interrupted call are never taken for it."""
        return f"{self._run}.{number}"

    def _params(
        self, sampling: Sampling, tokens: int, request: Request, start: int, arguments: dict[str, Any]
    ) -> Any:
        """Greedy parameters, and what tells the plugin to draw tokens where they are not to be greedy."""
        from vllm.sampling_params import SamplingParams

        if sampling.temperature > 0:
            how = {"request": request.id, "start": start, "sampling": asdict(sampling)}
            arguments = arguments | {"lynxstop_draw": how}
        return SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            extra_args=arguments,
        )

    def _strip(self, output: Any) -> tuple[list[int], list[float], str]:
        """Tokens without the end of sequence, their log-probabilities, and how they ended."""
        ids, flat = list(output.token_ids), output.logprobs
        logprobs = [flat.logprobs[place] for place in flat.start_indices]
        ended = bool(ids) and ids[-1] in self.eos_ids
        return (ids[:-1], logprobs[:-1], "stop") if ended else (ids, logprobs, "length")

    def _generation(
        self, request: Request, output: Any, sampling: Sampling
    ) -> tuple[Generation, NDArray[np.bool_]]:
        """Replay the tokens through a session: events, the limit of tokens after the thinking block, and
        which tokens are thinking."""
        ids, logprobs, finish = self._strip(output)
        session = Session(self.watch, self.policy, request.prompt_ids, risk=None, mode=request.mode)
        end = sampling.max_tokens
        answering = False
        thinking = np.zeros(len(ids), dtype=np.bool_)
        for number, token in enumerate(ids):
            if number >= end:
                ids, logprobs, finish = ids[:number], logprobs[:number], "length"
                break
            session.read(token)
            thinking[number] = session.was_thinking
            session.decide(None)
            if not answering and session.phase is Phase.ANSWERING:
                answering, end = True, min(end, number + 1 + sampling.answer_tokens)
        session.finish()
        count = session.thinking_tokens
        made = Generation(request, ids, count, finish, session.events, session.exit, logprobs=logprobs)
        return made, thinking[: len(ids)]

    def _rows(self) -> dict[str, dict[int, RecordedRow]]:
        """Take what was recorded since the last time, by request and token; the last row of a token holds."""
        rows: dict[str, dict[int, RecordedRow]] = {}
        for content in self.llm.collective_rpc("lynxstop_take_rows"):
            for row in unpack(content, "What vLLM recorded") if content else ():
                rows.setdefault(row.request, {})[row.token] = row
        return rows

    def _attach(
        self, generation: Generation, thinking: NDArray[np.bool_], rows: dict[int, RecordedRow]
    ) -> None:
        """Give a trace what was recorded of it: as from the transformers engine, nothing is known after
        the last token of an output that a limit cut."""
        count = len(generation.output_ids)
        known = count if generation.finish == "stop" else count - 1
        found = unknown(count)
        found[:, LOGPROB] = generation.logprobs
        missing = [index for index in range(known) if index not in rows]
        seen = [rows[event.index].features for event in generation.events if event.index in rows]
        states = [state for state in seen if state is not None]
        if missing or len(states) < len(generation.events):
            raise DataError(
                f"vLLM did not return all recorded rows of {generation.request.id!r}.",
                hint="Look for lynxstop's errors in its log.",
            )
        for index in range(known):
            found[index, :NEXT] = rows[index].statistics[1:]
        generation.tokens = Tokens(np.array(generation.output_ids, np.int32), thinking, found)
        generation.features = np.stack(states) if states else np.zeros((0, self.width), np.float32)
        generation.signals = [
            Signals.at(
                generation.events, number, rows[event.index].statistics[1:].tolist(), generation.logprobs
            )
            for number, event in enumerate(generation.events)
        ]


def served_tokenizer(model: Any) -> Any:
    """Return vLLM's tokenizer of a served model; in the format of transformers where it is mistral-common."""
    from vllm.tokenizers import cached_tokenizer_from_config

    found = cached_tokenizer_from_config(model)
    if not getattr(found, "IS_MISTRAL_TOKENIZER", False):
        return found
    return load_tokenizer(model.tokenizer, "vllm", revision=model.tokenizer_revision)
