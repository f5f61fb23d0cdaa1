"""The adapter of the second runner, on a runner that only holds what the adapter reads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lynxstop.artifacts.certified import Certified
from lynxstop.core.conditions import Conditions
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.engines.vllm.adapters import V2Adapter
from lynxstop.engines.vllm.request_options import RequestOptionsReader
from lynxstop.engines.vllm.settings import PluginSettings
from tests.vllm.test_sessions import EXIT, drive, make

SLOTS, CONTEXT = 4, 32
"""Slots, and tokens that a prompt and its output may have together."""
CERTIFIED = Conditions(0.0, max_tokens=16)
POLICY = StopPolicy(EXIT, (Level(0.05, 0.0),))


class Metrics:
    """Counts as `PluginMetrics` does, without a registry."""

    def __init__(self) -> None:
        self.totals = {"errors": 0, "lost": 0}
        self.stepped = False

    def count(self, name: str, amount: int = 1) -> None:
        self.totals[name] += amount

    def count_uncertified(self, causes: Sequence[str]) -> None:
        for cause in causes:
            self.totals[cause] = self.totals.get(cause, 0) + 1


def sampling_params(**asked: Any) -> SimpleNamespace:
    """What an adapter reads of the parameters of a request."""
    return SimpleNamespace(
        **{"extra_args": None, "structured_outputs": None, "temperature": 0.0, "max_tokens": 16} | asked
    )


@pytest.fixture
def adapter() -> V2Adapter:
    states = SimpleNamespace(
        index_to_req_id={},
        req_id_to_index={},
        prompt_len=SimpleNamespace(np=np.zeros(SLOTS, np.int32)),
        prefill_len=SimpleNamespace(np=np.zeros(SLOTS, np.int32)),
    )
    runner = SimpleNamespace(max_model_len=CONTEXT, max_num_reqs=SLOTS, req_states=states)
    reader = RequestOptionsReader(PluginSettings(None, risk=0.05), POLICY, 0.05, Certified(CERTIFIED))
    served: Any = SimpleNamespace(options=reader)
    parts: Any = (make(POLICY, SLOTS), None, Metrics())
    return V2Adapter(runner, served, *parts)


def arrive(adapter: V2Adapter, slot: int, name: str, prompt: list[int], **asked: Any) -> bool:
    """Let a request come as the runner does it: its slot is taken before the sampler hears of it."""
    adapted = asked.pop("lora_request", None)
    states = adapter.runner.req_states
    new = SimpleNamespace(req_id=name, prefill_token_ids=prompt, prompt_len=len(prompt), lora_request=adapted)
    adapter.arriving(SimpleNamespace(scheduled_new_reqs=[new]))
    states.index_to_req_id[slot], states.req_id_to_index[name] = name, slot
    states.prompt_len.np[slot] = states.prefill_len.np[slot] = len(prompt)
    return adapter.add(slot, sampling_params(**asked))


def test_slots_without_a_request_are_no_error(adapter: V2Adapter, caplog: pytest.LogCaptureFixture) -> None:
    # given a runner that fills all slots while it profiles, as that of vLLM 0.33 does
    with caplog.at_level(logging.ERROR, "vllm.lynxstop"):
        watched = [adapter.add(slot, sampling_params()) for slot in range(SLOTS)]
    # when it has done so, then none is watched, and no error is counted or logged
    assert watched == [False] * SLOTS
    assert adapter.metrics.totals["errors"] == 0
    assert not caplog.records
    # and the first real error still gets its line
    with caplog.at_level(logging.ERROR, "vllm.lynxstop"):
        adapter.runner.req_states.index_to_req_id[0] = "a request that nobody announced"
        adapter.add(0, sampling_params())
    assert adapter.metrics.totals["errors"] == 1
    assert [record.message for record in caplog.records] == [
        "lynxstop failed (logged once); its requests go on untouched."
    ]


def test_requests_are_watched_in_slots_that_were_profiled(adapter: V2Adapter) -> None:
    # given a profiled slot, when a request comes into it, then it is watched
    adapter.add(0, sampling_params())
    assert arrive(adapter, 0, "r", [5, 0])
    assert adapter.slots.watched[0]


def test_a_request_with_an_adapter_of_its_own_departs(adapter: V2Adapter) -> None:
    # given a request that changes the model, when it comes, then the certificate does not hold for it
    assert arrive(adapter, 0, "base", [5, 0])
    assert not arrive(adapter, 1, "adapted", [5, 0], lora_request=object())
    assert adapter.slots.options[1].departures == ("lora",)
    assert adapter.metrics.totals["lora"] == 1


@pytest.mark.parametrize(("prompt_len", "departures"), [(16, ()), (17, ("max_tokens",))])
def test_a_budget_that_the_context_cuts_departs(
    adapter: V2Adapter, prompt_len: int, departures: tuple[str, ...]
) -> None:
    # given a request that may have as many tokens as were certified, or more, when its prompt leaves room
    # for them, or for one less, then it departs from the certified conditions in the latter case alone
    for slot, asked in enumerate((16, 1000)):
        arrive(adapter, slot, f"r{slot}", [5, *[0] * (prompt_len - 1)], max_tokens=asked)
        assert adapter.slots.options[slot].departures == departures


def test_a_request_that_cannot_be_read_costs_no_other_its_exit(adapter: V2Adapter) -> None:
    # given a request in mid-thought, and a slot whose request left in mid-thought
    assert arrive(adapter, 0, "watched", [5, 0])
    assert arrive(adapter, 1, "aborted", [5, 0])
    sessions: Any = adapter.sessions
    sessions.load(np.array([0, 1]))
    assert drive(sessions, [10, 10], [0.0, 0.0]) == [None, None]
    adapter.finishing(SimpleNamespace(finished_req_ids={"aborted"}, preempted_req_ids=None))
    adapter.runner.req_states.req_id_to_index.pop("aborted")
    # when a request with arguments that nobody checked takes that slot
    assert not arrive(adapter, 1, "odd", [5, 0], extra_args={"lynxstop_risk": 0.3})
    sessions.load(np.array([0, 1]))
    # then it is left alone, and the other is stopped as ever
    assert drive(sessions, [4, 4], [9.0, 9.0]) == [None, None]
    assert drive(sessions, [9, 9], [0.0, 0.0]) == [EXIT[0], None]
    assert adapter.metrics.totals["errors"] == 1


def test_a_request_that_nobody_announced_is_not_taken_for_the_one_before_it(adapter: V2Adapter) -> None:
    # given a slot whose request left in mid-thought
    assert arrive(adapter, 0, "aborted", [5, 0])
    sessions: Any = adapter.sessions
    sessions.load(np.array([0]))
    drive(sessions, [10], [0.0])
    # when an error keeps the next one in it from being taken up
    adapter.runner.req_states.index_to_req_id[0] = "unknown"
    assert not adapter.add(0, sampling_params())
    # then the state of the former decides nothing
    sessions.load(np.array([0]))
    assert drive(sessions, [4], [9.0]) == drive(sessions, [9], [0.0]) == [None]


def test_a_portion_that_vllm_does_not_show_moves_no_row_of_the_next(adapter: V2Adapter) -> None:
    import torch

    # given a step in two portions, of which the first has no request that needs any processor
    assert not arrive(adapter, 0, "off", [5, 0], extra_args={"lynxstop_risk": "off"})
    assert arrive(adapter, 3, "watched", [5, 0])
    batch = SimpleNamespace(
        idx_mapping_np=np.array([0, 3]),
        cu_num_logits_np=np.array([0, 1, 2]),
        logits_indices=torch.tensor([7, 9]),
    )
    shown = SimpleNamespace(
        idx_mapping_np=batch.idx_mapping_np[1:],
        seq_lens_upper_bound_np=np.array([2]),
        input_ids=torch.tensor([0]),
    )
    adapter.sampling(batch)
    taken: list[tuple[int, int, int]] = []
    adapter.hidden = SimpleNamespace(take=lambda *place: taken.append(place))  # type: ignore[assignment]
    # when the second portion is read, then its row is the one that it is in the step
    step = adapter.step(torch.zeros(1, 8), shown)
    adapter._last_states(1)
    assert step is not None
    assert step.places is not None
    assert step.places.tolist() == [9]
    assert taken == [(1, 1, 2)]
