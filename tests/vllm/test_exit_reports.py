"""What requests are told, their own budgets, loops, and texts that end while they think: real engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lynxstop.core.exits import Reason  # noqa: E402
from lynxstop.engines.vllm.end_of_text import EndOfText  # noqa: E402
from lynxstop.engines.vllm.exit_reports import ExitReports, read_report  # noqa: E402
from lynxstop.engines.vllm.request_options import RequestOptions  # noqa: E402
from lynxstop.engines.vllm.session_batch import EXIT_KINDS, REASONS, BatchStep  # noqa: E402

CLOSE, END = 1, 2
TAGS = [f"{number:032x}" for number in range(100)]


@pytest.fixture(scope="module", params=["device", "host"])
def served(
    request: pytest.FixtureRequest, make_model: Any, make_bundle: Any, make_llm: Any, tmp_path_factory: Any
) -> tuple[Any, Path, Any]:
    model, folder = make_model(), tmp_path_factory.mktemp("reports")
    bundle = make_bundle(model)
    settings: dict[str, Any] = {
        "uncertified": "stop", "close_open_thinking": True, "reports": str(folder),
    }  # fmt: skip
    if request.param == "host":
        settings["loop_guard"] = 3
    return make_llm(model, bundle, settings=settings), folder, request.param


def reported(folder: Path, count: int) -> list[dict[str, Any] | None]:
    return [read_report(folder, tag) for tag in TAGS[:count]]


def asked(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"lynxstop_report": tag, **more} for tag in TAGS[:count]]


def test_exits_are_told_with_their_scores(served: Any, prompts: Any, generate: Any, counts_of: Any) -> None:
    # given an engine, when requests are served that ask for reports
    llm, folder, _ = served
    before = counts_of(llm)
    outputs = generate(llm, prompts, xargs=asked(len(prompts)))
    after = counts_of(llm)
    # then each exit is reported: as many as were counted, above their thresholds, at the tokens counted
    found = [one for one in reported(folder, len(prompts)) if one is not None]
    exits = [one for one in found if one["exit"] == "score"]
    assert len(exits) == after["exits_score"] - before["exits_score"] > 0
    assert all(one["score"] > one["threshold"] == 2.0 and one["stopped"] for one in exits)
    tokens = sum(one["thinking_tokens"] for one in found if one["exit"] != "end_of_text")
    assert tokens == after["exit_tokens"] - before["exit_tokens"]
    assert all(one["departures"] == [] for one in found)
    # and nothing is left, nor told about requests that do not ask
    assert generate(llm, prompts) == outputs
    assert list(folder.iterdir()) == []


def test_a_request_outside_is_told_so(served: Any, prompts: Any, generate: Any) -> None:
    llm, folder, _ = served
    generate(llm, prompts[:4], xargs=asked(4), temperature=0.5)
    assert all(one is not None and one["departures"] == ["temperature"] for one in reported(folder, 4))


def test_a_budget_of_its_own_closes_the_thinking(served: Any, prompts: Any, generate: Any) -> None:
    # given requests at no level, when they name a budget, then thinking is closed there
    llm, folder, _ = served
    outputs = generate(llm, prompts[:4], xargs=asked(4, lynxstop_risk="off", lynxstop_budget=7))
    assert [ids.index(CLOSE) for ids in outputs] == [8] * 4  # the exit's line break comes first
    for found in reported(folder, 4):
        assert found is not None
        assert (found["exit"], found["thinking_tokens"], found["score"]) == ("budget", 7, None)


def test_a_text_that_ends_while_it_thinks_answers_instead(served: Any, prompts: Any, generate: Any) -> None:
    # given requests that would end at once, inside the thinking block that their prompts open
    llm, folder, _ = served
    bias = {"logit_bias": {END: 100.0}}
    bare = generate(llm, prompts[:4], xargs={"lynxstop_risk": "off"}, **bias)
    assert bare == [[END]] * 4
    # when lynxstop closes open thinking, then the thinking ends there, and the answer is the model's
    outputs = generate(llm, prompts[:4], xargs=asked(4), **bias)
    assert outputs == [[CLOSE, END]] * 4
    assert [found and found["exit"] for found in reported(folder, 4)] == ["end_of_text"] * 4


def test_the_loop_guard_stands_beside_the_probe(served: Any, prompts: Any, generate: Any) -> None:
    # given a request that repeats one token, and no score that could stop it
    llm, folder, form = served
    bias = {"logit_bias": {20: 100.0}, "tokens": 100}
    (output,) = generate(llm, prompts[:1], xargs=asked(1), **bias)
    (found,) = reported(folder, 1)
    # when there is a guard, then it closes the thinking
    assert (CLOSE in output) is (form == "host")
    assert found is not None
    assert found.get("exit") == ("loop" if form == "host" else None)


def test_a_report_that_cannot_be_written_harms_no_request(
    served: Any, prompts: Any, generate: Any, adapter_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = served[0]
    expected = generate(llm, prompts)
    monkeypatch.setattr(adapter_of(llm).reports, "_folder", Path("/nowhere"))
    assert generate(llm, prompts, xargs=asked(len(prompts))) == expected


def test_a_damaged_report_is_none(tmp_path: Path) -> None:
    (tmp_path / TAGS[0]).write_text(json.dumps({"exit": "score"})[:-3])
    assert read_report(tmp_path, TAGS[0]) is None
    assert list(tmp_path.iterdir()) == []


def test_every_reason_has_a_number() -> None:
    # (that somebody asked for an exit is known to the proxy only)
    assert set(REASONS) == {None, *Reason} - {Reason.ASKED}
    assert len(REASONS) == len(set(REASONS)) <= EXIT_KINDS


class Copy:
    """Stands for a copy from a GPU."""

    arrived = False

    def query(self) -> bool:
        return self.arrived


def test_a_copy_that_comes_late_tells_nothing_of_the_next_request_in_a_slot(tmp_path: Path) -> None:
    # given a request that was reported on, and one that still waits
    reports, copy = ExitReports(tmp_path), Copy()
    for slot in (0, 1):
        reports.enter(slot, RequestOptions(True, report=TAGS[slot]))
    exits = torch.zeros(2, 2, dtype=torch.int32)
    exits[0, 0] = 5 * EXIT_KINDS + REASONS.index(Reason.SCORE)
    reports.observe(np.array([0, 1]), exits)
    assert read_report(tmp_path, TAGS[0]) is not None
    # when the same exit comes once more, behind another request that has taken its slot
    reports._coming.append((np.array([0, 1]), exits, copy))
    reports.leave(0)
    reports.enter(0, RequestOptions(True, report=TAGS[2]))
    copy.arrived = True
    reports.observe(np.array([1]), torch.zeros(2, 1, dtype=torch.int32))
    # then nothing is told of that one
    assert read_report(tmp_path, TAGS[2]) is None


def test_exits_are_told_while_an_earlier_copy_is_under_way(tmp_path: Path) -> None:
    # given a step in two portions, the copy of the first of which has not arrived
    reports, copy = ExitReports(tmp_path), Copy()
    for slot in (0, 1):
        reports.enter(slot, RequestOptions(True, report=TAGS[slot]))
    reports._coming.append((np.array([0]), torch.zeros(2, 1, dtype=torch.int32), copy))
    exits = torch.zeros(2, 1, dtype=torch.int32)
    exits[0, 0] = 5 * EXIT_KINDS + REASONS.index(Reason.SCORE)
    # when the second one stops its request, and both have arrived by the time that it leaves
    reports.observe(np.array([1]), exits)
    copy.arrived = True
    reports.leave(1)
    # then its exit is told
    assert read_report(tmp_path, TAGS[1]) is not None
    assert read_report(tmp_path, TAGS[0]) is None


def test_exits_that_the_host_knows_are_brought_to_the_logits() -> None:
    # given logits on a device, and sessions on the host; when a text ends, then both come together there
    device = torch.device("meta")
    ends = EndOfText({END}, CLOSE, 3, device)
    step = BatchStep(np.arange(2), torch.zeros(2, dtype=torch.int64, device=device), None, None, lambda _: [])
    inside, exits = torch.ones(2, dtype=torch.bool, device=device), torch.zeros(2, 2, dtype=torch.int32)
    assert ends.apply(torch.zeros(2, 9, device=device), inside, step, exits).device == device


def ended(ends: EndOfText, token: int, read: bool, **forbidden: int) -> tuple[int, int]:
    """Let a request that thinks, and would end its text, read a token: what comes next, and its exit."""
    logits = torch.zeros(1, 9)
    logits[0, END] = 5.0
    for name in forbidden.values():
        logits[0, name] = -torch.inf
    step = BatchStep(np.array([0]), torch.tensor([token]), None, np.array([read]), lambda _: [])
    exits = ends.apply(logits, torch.tensor([True]), step, torch.zeros(2, 1, dtype=torch.int32))
    return int(logits.argmax()), int(exits[0, 0])


def test_a_text_ends_inside_the_thinking_where_a_grammar_forbids_to_close_it() -> None:
    # given a request whose grammar counts from its first token, in a prompt that opens a thinking block
    ends = EndOfText({END}, CLOSE, 1, torch.device("cpu"))
    assert ended(ends, 7, True) == (CLOSE, 0)
    # when the closing token is forbidden, then none is written that would kill the request
    assert ended(ends, 7, True, close=CLOSE) == (END, 0)


def test_a_prompt_read_in_pieces_ends_no_thinking() -> None:
    # given a prompt with an earlier turn's thinking, read in pieces
    ends = EndOfText({END}, CLOSE, 1, torch.device("cpu"))
    ended(ends, 7, False)
    # when a piece ends at the end of that thinking, then no exit is reported
    assert ended(ends, CLOSE, False) == (CLOSE, 0)
    # and when a generated token closes the thinking, then it is
    assert ended(ends, CLOSE, True) == (CLOSE, REASONS.index(Reason.END))
