"""The adapter of the first runner, on a runner that only holds what the adapter reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from lynxstop.artifacts.certified import Certified  # noqa: E402
from lynxstop.core.policy import Level, StopPolicy  # noqa: E402
from lynxstop.engines.vllm.adapters import V1Adapter  # noqa: E402
from lynxstop.engines.vllm.request_options import RequestOptionsReader  # noqa: E402
from lynxstop.engines.vllm.session_batch import COUNTERS  # noqa: E402
from lynxstop.engines.vllm.settings import PluginSettings  # noqa: E402
from tests.vllm.test_second_adapter import CERTIFIED, CONTEXT, Metrics, sampling_params  # noqa: E402
from tests.vllm.test_sessions import EXIT, KINDS, make, serve  # noqa: E402

ROWS = 4
PROMPT = [5, 0]
WAIT, SO, END = 4, 9, 2


@pytest.fixture(params=(*KINDS, "request"))
def adapter(request: pytest.FixtureRequest) -> V1Adapter:
    policy = StopPolicy(EXIT, (Level(0.05, 0.0),))
    reader = RequestOptionsReader(PluginSettings(None, risk=0.05), policy, 0.05, Certified(CERTIFIED))
    served: Any = SimpleNamespace(options=reader)
    parts: Any = (make(request.param, policy, ROWS), None, Metrics())
    runner = SimpleNamespace(max_model_len=CONTEXT, max_num_reqs=ROWS, requests={})
    return V1Adapter(runner, served, *parts)


def known(**has: Any) -> SimpleNamespace:
    """A request as the runner keeps it."""
    return SimpleNamespace(
        **{"output_token_ids": [], "num_prompt_tokens": len(PROMPT), "lora_request": None} | has
    )


def update(adapter: V1Adapter, removed: list[int], added: dict[int, str], params: Any) -> None:
    """Change the batch as the runner does it: requests by row."""
    requests = adapter.runner.requests
    for name in added.values():
        requests.setdefault(name, known())
    coming = [(row, params, PROMPT, requests[name].output_token_ids) for row, name in added.items()]
    adapter.update(SimpleNamespace(removed=removed, added=coming, moved=[]))


def step(adapter: V1Adapter, names: list[str], fed: list[int], scores: list[float]) -> list[int | None]:
    """Sample tokens and read them; return what is forced next."""
    many, runner = len(names), adapter.runner
    for name, token in zip(names, fed, strict=True):
        runner.requests[name].output_token_ids.append(token)
    runner.query_start_loc = SimpleNamespace(np=np.arange(many + 1))
    runner.input_ids = SimpleNamespace(gpu=torch.tensor(fed))
    runner.discard_request_mask = SimpleNamespace(np=np.zeros(many, np.bool_))
    batch = adapter.step(torch.zeros(many, 1), None)
    assert batch is not None
    return serve(adapter.sessions, batch._replace(read=None), scores)


def test_answers_to_one_request_keep_their_own_state_through_a_preemption(adapter: V1Adapter) -> None:
    # given two answers to one request, which share its parameters, one of them between a cue and its proof
    shared = sampling_params()
    update(adapter, [], {0: "0_r", 1: "1_r"}, shared)
    assert step(adapter, ["0_r", "1_r"], [WAIT, SO], [9.0, 0.0]) == [None, None]
    # when both are preempted, and come back
    update(adapter, [0, 1], {}, shared)
    update(adapter, [], {0: "0_r", 1: "1_r"}, shared)
    # then the one is stopped, and not the other
    assert step(adapter, ["0_r", "1_r"], [SO, SO], [0.0, 0.0]) == [EXIT[0], None]
    assert adapter.metrics.totals == {"errors": 0, "lost": 0}


def test_a_request_that_was_aborted_while_preempted_leaves_nothing(adapter: V1Adapter) -> None:
    # given a request that was preempted in mid-thought, and aborted
    update(adapter, [], {0: "r"}, sampling_params())
    step(adapter, ["r"], [WAIT], [9.0])
    update(adapter, [0], {}, None)
    del adapter.runner.requests["r"]
    # when another comes under its name, then it begins anew
    update(adapter, [], {0: "r"}, sampling_params())
    assert step(adapter, ["r"], [SO], [0.0]) == [None]
    # and nothing is kept of requests that are gone
    update(adapter, [0], {}, None)
    del adapter.runner.requests["r"]
    update(adapter, [], {0: "next"}, sampling_params())
    assert adapter.rows._parked == {}


def test_a_request_with_an_adapter_of_its_own_departs(adapter: V1Adapter) -> None:
    # given a request that changes the model, when it comes, then the certificate does not hold for it
    adapter.runner.requests["r"] = known(lora_request=object())
    update(adapter, [], {0: "r"}, sampling_params())
    assert not adapter.rows.any_watched
    assert adapter.metrics.totals["lora"] == 1


@pytest.mark.parametrize(("prompt_len", "departures"), [(16, 0), (17, 1)])
def test_a_budget_that_the_context_cuts_departs(adapter: V1Adapter, prompt_len: int, departures: int) -> None:
    # given a request that may have as many tokens as were certified, when its prompt leaves room for one less
    adapter.runner.requests["r"] = known(num_prompt_tokens=prompt_len)
    update(adapter, [], {0: "r"}, sampling_params(max_tokens=1000))
    # then it departs from the certified conditions
    assert adapter.metrics.totals.get("max_tokens", 0) == departures
    assert adapter.rows.any_watched is (departures == 0)


def test_arguments_that_nobody_checked_cost_no_other_request_its_exit(adapter: V1Adapter) -> None:
    # given a request between a cue and its proof
    update(adapter, [], {0: "r"}, sampling_params())
    assert step(adapter, ["r"], [WAIT], [9.0]) == [None]
    # when one comes that cannot be read, then the former is stopped all the same
    update(adapter, [], {1: "odd"}, sampling_params(extra_args={"lynxstop_risk": 0.3}))
    assert step(adapter, ["r", "odd"], [SO, SO], [0.0, 0.0]) == [EXIT[0], None]
    assert adapter.metrics.totals["errors"] == 1


def test_a_request_that_the_runner_does_not_have_is_left_alone(adapter: V1Adapter) -> None:
    # given a request between a cue and its proof
    update(adapter, [], {0: "r"}, sampling_params())
    assert step(adapter, ["r"], [WAIT], [9.0]) == [None]
    # when a row comes that is nobody's, then the former is stopped all the same
    adapter.update(SimpleNamespace(removed=[], added=[(1, sampling_params(), PROMPT, [])], moved=[]))
    assert step(adapter, ["r"], [SO], [0.0]) == [EXIT[0]]
    assert adapter.metrics.totals == {"errors": 0, "lost": 1}


@pytest.mark.parametrize("budget", [2**30, 2**31, 10**30])
def test_a_budget_beyond_all_limits_is_none(adapter: V1Adapter, budget: int) -> None:
    # given a client that asks for a budget that no thinking reaches
    update(adapter, [], {0: "r"}, sampling_params(extra_args={"lynxstop_budget": budget}))
    # when it thinks, then it is watched as ever
    assert step(adapter, ["r"], [WAIT], [9.0]) == [None]
    assert step(adapter, ["r"], [SO], [0.0]) == [EXIT[0]]
    assert adapter.metrics.totals["errors"] == 0


@pytest.mark.parametrize(
    "asked", [{"eos_token_id": END}, {"stop_token_ids": [3, END], "eos_token_id": 7}], ids=str
)
def test_a_step_that_was_under_way_at_the_end_of_a_text_counts_nothing(
    adapter: V1Adapter, asked: dict[str, Any]
) -> None:
    # given two requests at a cue, one of which came back from a preemption, and a third that nothing ends
    update(adapter, [], {0: "r", 1: "back"}, sampling_params(**asked))
    update(adapter, [], {2: "on"}, sampling_params())
    step(adapter, ["r", "back", "on"], [SO, SO, SO], [0.0] * 3)
    update(adapter, [1], {}, None)
    update(adapter, [], {1: "back"}, sampling_params(**asked))
    assert step(adapter, ["r", "back", "on"], [WAIT] * 3, [9.0] * 3) == [None] * 3
    # when the next token ends the texts of two, and is read before that was known (asynchronous scheduling)
    assert step(adapter, ["r", "back", "on"], [END] * 3, [0.0] * 3) == [None, None, EXIT[0]]
    # then only the cue of the third has been proved
    assert counted(adapter) == {"cues": 1, "scored": 3, "exits_score": 1, "exit_tokens": 3}
    assert adapter.sessions.exits()[0].count_nonzero() == 1


def counted(adapter: V1Adapter) -> dict[str, int]:
    return {
        name: count for name, count in zip(COUNTERS, adapter.sessions.counters.tolist(), strict=True) if count
    }


def test_requests_that_change_their_rows_in_one_update_keep_their_state(adapter: V1Adapter) -> None:
    # given two requests, one of them between a cue and its proof
    update(adapter, [], {0: "a", 1: "b"}, sampling_params())
    assert step(adapter, ["a", "b"], [SO, WAIT], [0.0, 9.0]) == [None, None]
    # when both are computed again, each in the other's row, as after a reset of the prefix cache
    update(adapter, [], {0: "b", 1: "a"}, sampling_params())
    # then the one is stopped, and none is lost
    assert step(adapter, ["b", "a"], [SO, SO], [0.0, 0.0]) == [EXIT[0], None]
    assert adapter.metrics.totals == {"errors": 0, "lost": 0}
