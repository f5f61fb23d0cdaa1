"""Adapters from vLLM's V1 and V2 model runners to the batch of sessions."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.core import no_exit
from lynxstop.core.conditions import SETTINGS, Conditions
from lynxstop.engines.vllm.end_of_text import EndOfText
from lynxstop.engines.vllm.exit_reports import ExitReports
from lynxstop.engines.vllm.hidden import HiddenStates, RowFeatures
from lynxstop.engines.vllm.metrics import PluginMetrics
from lynxstop.engines.vllm.recorder import Recorder
from lynxstop.engines.vllm.request_options import UNWATCHED, RequestOptions
from lynxstop.engines.vllm.seeded_sampler import draw_tokens
from lynxstop.engines.vllm.served_bundle import ServedBundle
from lynxstop.engines.vllm.session_batch import BatchStep, Drafts, SessionBatch
from lynxstop.engines.vllm.slots import BatchRows, Parked, SlotTable
from lynxstop.errors import ConfigError

logger = logging.getLogger("vllm.lynxstop")


class RunnerAdapter:
    """Serves a runner's steps, and keeps any error of ours away from it.

    Parameters
    ----------
    runner : object
        vLLM's model runner.
    served : ServedBundle
    sessions : SessionBatch
    hidden : HiddenStates
    metrics : PluginMetrics
    recorder : Recorder, optional
        Records requests that ask for it.
    reports : ExitReports, optional
        Reports to the server what is decided.
    ends : EndOfText, optional
        Closes thinking where a text ends inside it.
    """

    def __init__(
        self,
        runner: Any,
        served: ServedBundle,
        sessions: SessionBatch,
        hidden: HiddenStates,
        metrics: PluginMetrics,
        recorder: Recorder | None = None,
        reports: ExitReports | None = None,
        ends: EndOfText | None = None,
        *,
        drafted: bool = False,
    ) -> None:
        self.runner = runner
        self.served = served
        self.sessions = sessions
        self.hidden = hidden
        self.metrics = metrics
        self.recorder = recorder
        self.reports = reports
        self.ends = ends
        self.slots = SlotTable(sessions, runner.max_num_reqs, drafted=drafted)
        if reports is not None:
            self.slots.entered.append(reports.enter)
            self.slots.left.append(reports.leave)
        if ends is not None:
            self.slots.entered.append(lambda slot, options: ends.enter(slot))
        self._logged = False

    def apply(self, logits: Tensor, ctx: Any) -> None:
        """Serve a step; after an error the batch is left alone."""
        try:
            step = self.step(logits, ctx)
            if step is not None:
                self._serve(logits, step)
        except Exception as error:
            self.fail(error)

    def _serve(self, logits: Tensor, step: BatchStep) -> None:
        """Read a step, score, decide, and raise the logits of forced tokens in place."""
        features = RowFeatures(self.hidden, self._last_states(len(logits)), step.places)
        if lost := self.sessions.observe(step, features, logits):
            self.metrics.count("lost", lost)
        if self.recorder is not None:
            self.recorder.observe(self.slots, step, features, logits)
        if self.ends is not None or (self.reports is not None and self.reports.waiting):
            self._beside(logits, step)
        if self.slots.drawing:
            draw_tokens(logits, self.slots, step)
        self.sessions.force(logits)
        self.metrics.stepped = True

    def _beside(self, logits: Tensor, step: BatchStep) -> None:
        """End thinking where a text ends, and report exits; an error ends these two, and no decision."""
        try:
            exits = self.sessions.exits()
            if self.ends is not None:
                exits = self.ends.apply(logits, self.sessions.inside(), step, exits)
            if self.reports is not None:
                self.reports.observe(step.slots, exits)
        except Exception as error:
            self.metrics.count("errors")
            self.reports = self.ends = None
            logger.error("lynxstop can no longer report on requests.", exc_info=error)

    def _last_states(self, rows: int) -> Tensor:
        """Hidden states after the last layer, of the rows at hand."""
        return self.hidden.take(rows)

    def step(self, logits: Tensor, ctx: Any) -> BatchStep | None:
        """Describe the step; None when no request in it is watched."""
        raise NotImplementedError

    def update(self, change: Any) -> None:
        """Follow changes of the batch."""
        raise NotImplementedError

    def add(self, slot: int, params: Any) -> bool:
        """Take a request into a slot; True when it is watched."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """Count and log an error, and leave the requests of the batch alone."""
        self.note(error)
        self.sessions.drop()

    def note(self, error: Exception) -> None:
        """Count an error, and log the first."""
        self.metrics.count("errors")
        if not self._logged:
            self._logged = True
            logger.error("lynxstop failed (logged once); its requests go on untouched.", exc_info=error)

    def options(self, params: Any, new: bool, prompt_len: int, adapter: Any = None) -> RequestOptions:
        """Return the options of a request; those that cannot be read leave it alone.

        Parameters
        ----------
        params : vllm.SamplingParams
        new : bool
            Whether it comes for the first time, and not back after a preemption.
        prompt_len : int
            Tokens of its prompt: it can have no more of its own than the context leaves.
        adapter : vllm.LoRARequest, optional
            What changes the model for this request.
        """
        served = Conditions.read({name: getattr(params, name, None) for name in SETTINGS})
        served = served.within(self.runner.max_model_len - prompt_len)
        if adapter is not None:
            served = replace(served, altered=(*served.altered, "lora"))
        try:
            options = self.served.options.read(
                params.extra_args,
                structured=params.structured_outputs is not None,
                served=served,
                asked={name: getattr(params, name, None) for name in no_exit.SETTINGS},
            )
        except ConfigError as error:
            self.note(error)
            return UNWATCHED
        if new and options.departures:
            self.metrics.count_uncertified(options.departures)
            if self.reports is not None:
                self.reports.departed(options)
        ends = (*(params.stop_token_ids or ()), params.eos_token_id)
        return replace(
            options,
            ends=frozenset(token for token in ends if token is not None),
            limit=int(prompt_len + (served.max_tokens or 0)),
        )

    def lost(self) -> None:
        """Count a request that came back without its state."""
        self.metrics.count("lost")


class V1Adapter(RunnerAdapter):
    """Serves the V1 runner, whose rows keep their places."""

    def __init__(self, runner: Any, served: ServedBundle, *parts: Any) -> None:
        super().__init__(runner, served, *parts)
        self.rows = BatchRows(self.slots, self.options, self.lost, runner.requests)
        self._fed: Tensor | None = None
        self._first: Any = ()

    def update(self, change: Any) -> None:
        """Follow a `BatchUpdate`."""
        try:
            self.rows.update(change)
        except Exception as error:
            self.fail(error)

    def step(self, logits: Tensor, ctx: Any) -> BatchStep | None:
        """Describe the step from the runner's own buffers, which hold true under asynchronous scheduling."""
        if not self.rows.any_watched:
            return None
        runner, count = self.runner, logits.shape[0]
        ends, fed = runner.query_start_loc, runner.input_ids.gpu
        if int(ends.np[count]) == count:
            places = None
            # A view is made anew only when something has changed: that takes microseconds in each step.
            if fed is not self._fed or count != len(self._first):
                self._fed, self._first = fed, fed[:count]
            tokens = self._first
        else:
            places = ends.gpu[1 : count + 1] - 1
            tokens = fed[places]
        slots = self.rows.of(count)
        read = self.slots.reading(slots, runner.discard_request_mask.np)
        return BatchStep(
            slots, tokens, places, read, lambda rows: self.rows.indices(slots[rows]), ends=self.slots.ends
        )


class V2Adapter(RunnerAdapter):
    """Serves the V2 runner, whose requests keep their slots and whose rows are sorted anew in each step.

    Under speculative decoding a request has one row more per draft, and a large step comes in portions.
    """

    def __init__(self, runner: Any, served: ServedBundle, *parts: Any, drafts: int | None = None) -> None:
        super().__init__(runner, served, *parts, drafted=drafts is not None)
        self._drafts = drafts
        self._parked: dict[str, Parked] = {}
        self._arriving: dict[str, Any] = {}
        self._batch: Any = None
        self._portion = 0
        self._fed = np.zeros(runner.max_num_reqs, dtype=np.int64)

    def finishing(self, output: Any) -> None:
        """Before the runner frees slots: keep the state of preempted requests, forget that of finished
        ones."""
        states = self.runner.req_states
        for name in output.finished_req_ids:
            self._parked.pop(name, None)
        slots = (states.req_id_to_index.get(name) for name in output.finished_req_ids)
        gone = [slot for slot in slots if slot is not None]
        if self._drafts is not None and (watched := [slot for slot in gone if self.slots.watched[slot]]):
            exits = self.sessions.settle(watched, states.total_len.gpu[watched])
            if self.reports is not None and exits is not None:
                self.reports.settle(watched, exits)
        for slot in gone:
            self.slots.leave(slot, 0)
        for name in output.preempted_req_ids or ():
            if (slot := states.req_id_to_index.get(name)) is None:
                continue
            outputs = int(self._fed[slot] - states.prompt_len.np[slot]) + 1
            if (parked := self.slots.leave(slot, outputs)) is not None:
                self._parked[name] = parked

    def arriving(self, output: Any) -> None:
        """Before the runner fills slots: remember who comes."""
        self._arriving = {new.req_id: new for new in output.scheduled_new_reqs}

    def sampling(self, batch: Any) -> None:
        """Before the runner samples: remember where the sampled rows are."""
        self._batch = batch

    def add(self, slot: int, params: Any) -> bool:
        """Take a request into a slot; a preempted one finds its state again.

        While it profiles, the runner also fills slots that hold no request.
        """
        try:
            name = self.runner.req_states.index_to_req_id.get(slot)
            if name is None:
                self.slots.enter(slot, [], 0, UNWATCHED, None)
                return False
            new = self._arriving[name]
            outputs = len(new.prefill_token_ids) - new.prompt_len
            options = self.options(params, outputs == 0, new.prompt_len, new.lora_request)
            if self._drafts is not None and options.draw is not None:
                raise ConfigError("Requests with random numbers of their own cannot be drafted.")
            parked = self._parked.pop(name, None)
            prompt = new.prefill_token_ids[: new.prompt_len]
            if not self.slots.enter(slot, prompt, outputs, options, parked) and options.watched:
                self.lost()
            return bool(self.slots.watched[slot])
        except Exception as error:
            self.note(error)
            self.slots.enter(slot, [], 0, UNWATCHED, None)
            return False

    def step(self, logits: Tensor, ctx: Any) -> BatchStep | None:
        """Describe the step from the sampler's context."""
        slots = ctx.idx_mapping_np
        if not self.slots.watched[slots].any():
            return None
        # A portion in which no request needs a processor is not shown.
        request = int(np.argmax(self._batch.idx_mapping_np == slots[0]))
        at = self._portion = int(self._batch.cu_num_logits_np[request])
        slots = slots.astype(np.int64)
        self._fed[slots] = ctx.seq_lens_upper_bound_np[: len(slots)]
        partial = self._fed[slots] < self.runner.req_states.prefill_len.np[slots]
        read = self.slots.reading(slots, partial)
        first = self.runner.req_states.prompt_len.np

        def indices(rows: NDArray[np.int64]) -> list[int]:
            return [int(index) for index in self._fed[slots[rows]] - 1 - first[slots[rows]]]

        drafts = None
        if self._drafts is not None:
            ends = self._batch.cu_num_logits_np[request : request + len(slots) + 1].astype(np.int64)
            drafts = Drafts(ends[:-1] - at, np.diff(ends), ctx.pos, partial)
        places = self._batch.logits_indices[at : at + len(logits)]
        return BatchStep(slots, ctx.input_ids, places, read, indices, drafts, self.slots.ends)

    def _last_states(self, rows: int) -> Tensor:
        return self.hidden.take(rows, self._portion, len(self._batch.logits_indices))
