"""The adapter of the second runner, on a runner that only holds what the adapter reads."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lynxstop.core.policy import Level, StopPolicy
from lynxstop.engines.vllm.adapters import V2Adapter
from lynxstop.engines.vllm.request_options import RequestOptionsReader
from lynxstop.engines.vllm.settings import PluginSettings
from tests.vllm.test_sessions import EXIT, make

SLOTS = 4
POLICY = StopPolicy(EXIT, (Level(0.05, 0.0),))


class Metrics:
    """Counts as `PluginMetrics` does, without a registry."""

    def __init__(self) -> None:
        self.totals = {"errors": 0, "lost": 0}
        self.stepped = False

    def count(self, name: str, amount: int = 1) -> None:
        self.totals[name] += amount


def sampling_params() -> SimpleNamespace:
    """What an adapter reads of the parameters of a request."""
    return SimpleNamespace(extra_args=None, structured_outputs=None, temperature=0.0)


@pytest.fixture
def adapter() -> V2Adapter:
    states = SimpleNamespace(
        index_to_req_id={},
        req_id_to_index={},
        prompt_len=SimpleNamespace(np=np.zeros(SLOTS, np.int32)),
        prefill_len=SimpleNamespace(np=np.zeros(SLOTS, np.int32)),
    )
    runner = SimpleNamespace(max_num_reqs=SLOTS, req_states=states)
    served: Any = SimpleNamespace(options=RequestOptionsReader(PluginSettings(None, risk=0.05), POLICY, 0.05))
    parts: Any = (make(POLICY, SLOTS), None, Metrics())
    return V2Adapter(runner, served, *parts)


def arrive(adapter: V2Adapter, slot: int, name: str, prompt: list[int]) -> bool:
    """Let a request come as the runner does it: its slot is taken before the sampler hears of it."""
    states = adapter.runner.req_states
    new = SimpleNamespace(req_id=name, prefill_token_ids=prompt, prompt_len=len(prompt))
    adapter.arriving(SimpleNamespace(scheduled_new_reqs=[new]))
    states.index_to_req_id[slot], states.req_id_to_index[name] = name, slot
    states.prompt_len.np[slot] = states.prefill_len.np[slot] = len(prompt)
    return adapter.add(slot, sampling_params())


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
