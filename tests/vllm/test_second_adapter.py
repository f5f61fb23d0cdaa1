"""The adapter of the second runner, on a runner that only holds what the adapter reads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lynxstop.artifacts.certified import Certified
from lynxstop.core.conditions import Conditions, Uncertified
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.engines.vllm.adapters import V2Adapter
from lynxstop.engines.vllm.exit_reports import ExitReports, read_report
from lynxstop.engines.vllm.request_options import RequestOptionsReader
from lynxstop.engines.vllm.session_batch import COUNTERS, BatchStep, Drafts
from lynxstop.engines.vllm.settings import PluginSettings
from tests.vllm.test_sessions import EXIT, KINDS, MACHINE, PROBE, drive, make

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
        **{
            "extra_args": None,
            "structured_outputs": None,
            "temperature": 0.0,
            "max_tokens": 16,
            "stop_token_ids": [],
            "eos_token_id": None,
        }
        | asked
    )


@pytest.fixture(params=KINDS)
def adapter(request: pytest.FixtureRequest) -> V2Adapter:
    states = SimpleNamespace(
        index_to_req_id={},
        req_id_to_index={},
        prompt_len=SimpleNamespace(np=np.zeros(SLOTS, np.int32)),
        prefill_len=SimpleNamespace(np=np.zeros(SLOTS, np.int32)),
    )
    runner = SimpleNamespace(max_model_len=CONTEXT, max_num_reqs=SLOTS, req_states=states)
    reader = RequestOptionsReader(PluginSettings(None, risk=0.05), POLICY, 0.05, Certified(CERTIFIED))
    served: Any = SimpleNamespace(options=reader)
    parts: Any = (make(request.param, POLICY, SLOTS), None, Metrics())
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
    sessions = adapter.sessions
    assert drive(sessions, [10, 10], [0.0, 0.0]) == [None, None]
    adapter.finishing(SimpleNamespace(finished_req_ids={"aborted"}, preempted_req_ids=None))
    adapter.runner.req_states.req_id_to_index.pop("aborted")
    # when a request with arguments that nobody checked takes that slot
    assert not arrive(adapter, 1, "odd", [5, 0], extra_args={"lynxstop_risk": 0.3})
    # then it is left alone, and the other is stopped as ever
    assert drive(sessions, [4, 4], [9.0, 9.0]) == [None, None]
    assert drive(sessions, [9, 9], [0.0, 0.0]) == [EXIT[0], None]
    assert adapter.metrics.totals["errors"] == 1


def test_a_request_that_nobody_announced_is_not_taken_for_the_one_before_it(adapter: V2Adapter) -> None:
    # given a slot whose request left in mid-thought
    assert arrive(adapter, 0, "aborted", [5, 0])
    sessions = adapter.sessions
    drive(sessions, [10], [0.0])
    # when an error keeps the next one in it from being taken up
    adapter.runner.req_states.index_to_req_id[0] = "unknown"
    assert not adapter.add(0, sampling_params())
    # then the state of the former decides nothing
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
    # and it tells where the texts end
    assert step.ends is adapter.slots.ends


WAIT, STOP, END = 4, 9, 2


@pytest.fixture
def drafted() -> V2Adapter:
    """An adapter under speculative decoding, of three drafts."""
    import torch

    from lynxstop.engines.vllm.drafted_sessions import DraftedSessions

    states = SimpleNamespace(
        index_to_req_id={},
        req_id_to_index={},
        prompt_len=SimpleNamespace(np=np.zeros(SLOTS, np.int32)),
        prefill_len=SimpleNamespace(np=np.zeros(SLOTS, np.int32)),
        total_len=SimpleNamespace(gpu=torch.zeros(SLOTS, dtype=torch.int32)),
    )
    runner = SimpleNamespace(max_model_len=CONTEXT, max_num_reqs=SLOTS, req_states=states)
    settings = PluginSettings(None, risk=0.05, uncertified=Uncertified.STOP)
    served: Any = SimpleNamespace(options=RequestOptionsReader(settings, POLICY, 0.05, Certified(CERTIFIED)))
    sessions = DraftedSessions(MACHINE, POLICY, PROBE, torch.device("cpu"), SLOTS + 1, 2, drafts=3)
    parts: Any = (sessions, None, Metrics())
    return V2Adapter(runner, served, *parts, drafts=3)


def draft_step(adapter: V2Adapter, row: list[int], sampled: list[int], *, read: bool = True) -> None:
    """Run the request in slot 0 on its last token and drafts; tokens are sampled, and all count."""
    import torch

    states, sessions = adapter.runner.req_states, adapter.sessions
    length = max(int(states.total_len.gpu[0]), int(states.prompt_len.np[0]))
    positions = torch.arange(length - 1, length - 1 + len(row))
    drafts = Drafts(np.array([0]), np.array([len(row)]), positions, np.array([False]))
    ends = adapter.slots.ends
    step = BatchStep(np.array([0]), torch.tensor(row), None, np.array([read]), lambda _: [], drafts, ends)
    scores = torch.full((len(row), 1), 9.0)
    sessions.observe(step, lambda rows: scores if rows is None else scores[rows], scores)
    states.total_len.gpu[0] = length + len(sampled)


def finished(adapter: V2Adapter) -> dict[str, int]:
    """Let the request go; return what has been counted."""
    adapter.finishing(SimpleNamespace(finished_req_ids={"r"}, preempted_req_ids=None))
    counts = zip(COUNTERS, adapter.sessions.counters.tolist(), strict=True)
    return {name: count for name, count in counts if count}


@pytest.mark.parametrize("asked", [{"eos_token_id": END}, {"stop_token_ids": [7, END]}], ids=str)
def test_what_drafts_show_after_the_end_of_a_text_is_not_counted(
    drafted: V2Adapter, asked: dict[str, Any]
) -> None:
    # given a request that ends its text right after a cue, in drafts that were all accepted
    arrive(drafted, 0, "r", [5, 0], **asked)
    draft_step(drafted, [0], [WAIT], read=False)
    draft_step(drafted, [WAIT, END], [END, EXIT[0]])
    # when it is gone, then nothing has proved its cue, as without drafts
    assert finished(drafted) == {"scored": 1}


def test_a_request_that_a_token_did_not_end_is_counted_to_its_limit(drafted: V2Adapter) -> None:
    # given the same request, whose text no token ends, and whose limit lies after it
    arrive(drafted, 0, "r", [5, 0], max_tokens=3)
    draft_step(drafted, [0], [WAIT], read=False)
    draft_step(drafted, [WAIT, END], [END, EXIT[0]])
    assert finished(drafted) == {"cues": 1, "scored": 1, "exits_score": 1, "exit_tokens": 2}


def test_a_request_that_went_on_before_its_end_was_known_is_not_lost(drafted: V2Adapter) -> None:
    # given a request that is over within its accepted drafts, and a step after these, which was under way
    arrive(drafted, 0, "r", [5, 0], eos_token_id=END)
    draft_step(drafted, [0], [STOP], read=False)
    draft_step(drafted, [STOP, END, STOP, STOP], [END, STOP, STOP, STOP])
    draft_step(drafted, [STOP], [STOP])
    # when it is gone, then its state is not missed
    assert finished(drafted) == {}


@pytest.mark.parametrize(
    "asked", [{"eos_token_id": END}, {"stop_token_ids": [7, END]}, {"max_tokens": 2}], ids=str
)
def test_a_step_that_was_under_way_at_the_end_of_a_text_counts_nothing_after_it(
    drafted: V2Adapter, asked: dict[str, Any]
) -> None:
    # given a request whose text ends right after a cue, in drafts that were all accepted
    arrive(drafted, 0, "r", [5, 0], **asked)
    draft_step(drafted, [0], [WAIT], read=False)
    draft_step(drafted, [WAIT, END, STOP], [END, STOP, STOP])
    # when a step after these was under way before that was known
    draft_step(drafted, [STOP, STOP], [STOP, STOP])
    # then nothing has proved its cue, as in the step before
    assert not drafted.sessions.exits()[0].any()
    assert finished(drafted) == {"scored": 1}


def test_an_exit_in_the_last_drafted_step_is_reported(drafted: V2Adapter, tmp_path: Path) -> None:
    # given a request that is stopped in drafts, and ends with the first token of its exit
    drafted.reports = ExitReports(tmp_path)
    drafted.slots.entered.append(drafted.reports.enter)
    drafted.slots.left.append(drafted.reports.leave)
    name = 32 * "0"
    arrive(drafted, 0, "r", [5, 0], max_tokens=3, extra_args={"lynxstop_report": name})
    draft_step(drafted, [0], [WAIT], read=False)
    draft_step(drafted, [WAIT, STOP], [STOP, EXIT[0]])
    # when it is gone, then the report tells the exit that is counted
    assert finished(drafted) == {"cues": 1, "scored": 1, "exits_score": 1, "exit_tokens": 2}
    report = read_report(tmp_path, name)
    assert report is not None
    assert (report["exit"], report["thinking_tokens"], report["score"]) == ("score", 2, 9.0)
