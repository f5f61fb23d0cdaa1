"""Speculative decoding on the second runner: same exits and same tokens as without it.

Run by `test_second_runner.py`, under Triton's interpreter; on the first runner everything is skipped.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import pytest

from lynxstop.engines.vllm.exit_reports import read_report
from tests.support.stepped import END, Served, preempt_all, steps, strip

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(
    os.environ.get("VLLM_USE_V2_MODEL_RUNNER") != "1", reason="the first runner refuses it"
)

DRAFTS = 3


@pytest.fixture(scope="module")
def served(make_llm: Any, make_model: Any, make_bundle: Any) -> Served:
    model = make_model("Qwen3")
    bundle = make_bundle(model, (1, 3))
    draft = {
        "method": "draft_model",
        "model": str(make_model("Qwen3", num_hidden_layers=1)),
        "num_speculative_tokens": DRAFTS,
    }
    options = {"max_num_batched_tokens": 40, "speculative_config": draft}
    return make_llm(model, bundle, settings={"uncertified": "stop"}, **options), model, bundle


class Drafter:
    """Proposes the tokens to come, of which it makes a certain number right.

    Parameters
    ----------
    runner : object
        vLLM's second runner; its own drafts are thrown away.
    tokens : dict
        What each request will generate, by its name in the engine.
    """

    def __init__(self, runner: Any, tokens: dict[str, list[int]]) -> None:
        self._runner = runner
        self._tokens = tokens
        self._propose = runner.speculator.propose
        self.right = 0
        """Drafts that are right; the next ones are wrong."""
        self.proposed: Counter[int] = Counter()
        runner.speculator.propose = MethodType(Drafter.propose, self)

    def propose(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        drafts = self._propose(batch, *args, **kwargs)
        states = self._runner.req_states
        for row, name in enumerate(batch.req_ids):
            slot = states.req_id_to_index[name]
            so_far = int(states.total_len.gpu[slot]) - int(states.prompt_len.np[slot])
            coming = self._tokens[name.split("-")[0]][so_far:][:DRAFTS]
            coming += [END] * (DRAFTS - len(coming))
            wrong = [(token + 1) % 22 for token in coming]
            right = self.right % (DRAFTS + 1)
            drafts[row] = torch.tensor(coming[:right] + wrong[right:])
            self.proposed[right] += 1
        return drafts

    def stop(self) -> None:
        self._runner.speculator.propose = self._propose


@pytest.fixture
def drafter(served: Served, runner_of: Any, prompts: Any, reference: Any) -> Iterator[Drafter]:
    llm, model, bundle = served
    expected = reference(model, bundle, prompts)
    made = Drafter(runner_of(llm), {f"r{i}": g.output_ids for i, g in enumerate(expected)})
    yield made
    made.stop()


def accepted(llm: Any) -> list[int]:
    """How many drafts were accepted so far, by their place."""
    return next(
        list(m.values) for m in llm.get_metrics() if m.name == "vllm:spec_decode_num_accepted_tokens_per_pos"
    )


@pytest.fixture
def settled(counts_of: Any) -> Callable[[Any], dict[str, int]]:
    """Counts with the last steps of finished requests, which are counted when the next request comes."""

    def count(llm: Any) -> dict[str, int]:
        for _ in steps(llm, [[3]], tokens=1):
            pass
        found: dict[str, int] = counts_of(llm)
        return found

    return count


def test_a_draft_model_changes_no_token_and_no_exit(
    served: Served, prompts: Any, generate: Any, reference: Any, counts_of: Any
) -> None:
    # given the same requests without speculation
    llm, model, bundle = served
    expected = reference(model, bundle, prompts)
    before = counts_of(llm)
    # when a model with fewer layers drafts for them
    found = generate(llm, prompts)
    # then all tokens agree, the forced ones included, and everything is counted once
    assert [strip(ids) for ids in found] == [g.output_ids for g in expected]
    after = counts_of(llm)
    exits = [g.exit for g in expected if g.exit is not None]
    assert after["exits_score"] - before["exits_score"] == len(exits) >= 3
    assert after["exit_tokens"] - before["exit_tokens"] == sum(e.thinking_tokens for e in exits)
    assert after["errors"] == after["lost"] == after["refused"] == 0


@pytest.mark.parametrize("right", range(DRAFTS + 1))
def test_every_number_of_accepted_drafts(
    served: Served, prompts: Any, drafter: Drafter, reference: Any, settled: Any, right: int
) -> None:
    # given drafts of which the first few are right
    llm, model, bundle = served
    expected = reference(model, bundle, prompts)
    drafter.right = right
    before, start = settled(llm), accepted(llm)
    # when requests run together
    for so_far in steps(llm, prompts):  # noqa: B007
        pass
    # then just these were accepted, and no token and no exit changes
    grown = [b - a for a, b in zip(start, accepted(llm), strict=True)]
    assert all(grown[:right])
    assert not any(grown[right:])
    assert [strip(so_far[f"r{i}"]) for i in range(len(prompts))] == [g.output_ids for g in expected]
    after = settled(llm)
    assert after["exits_score"] - before["exits_score"] == sum(g.exit is not None for g in expected)
    # (a cue at the last token is seen only by an engine that reads it)
    missed = sum(len(g.events) for g in expected) - (after["cues"] - before["cues"])
    assert 0 <= missed <= len(prompts)
    assert after["errors"] == after["lost"] == after["refused"] == 0


def test_preemption_with_drafts_changes_no_token(
    served: Served, prompts: Any, drafter: Drafter, reference: Any, counts_of: Any
) -> None:
    # given requests of which ever other numbers of drafts are accepted
    llm, model, bundle = served
    some = prompts[:5]
    expected = [g.output_ids for g in reference(model, bundle, some, tokens=24)]
    # when all are preempted again and again, also in the middle of their way back
    for number, so_far in enumerate(steps(llm, some, tokens=24)):  # noqa: B007
        drafter.right = number
        if number % 3 == 2 and number < 40:
            preempt_all(llm)
    # then no token changes
    assert [strip(so_far[f"r{i}"]) for i in range(len(some))] == expected
    assert len(drafter.proposed) == DRAFTS + 1
    assert counts_of(llm)["errors"] == counts_of(llm)["lost"] == 0


@pytest.fixture
def _whole_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton's interpreter take masks of integers, as its compiler does."""
    from triton.runtime.interpreter import InterpreterBuilder

    for name, place in (("create_masked_load", 2), ("create_masked_store", 3)):
        inner = getattr(InterpreterBuilder, name)

        def masked(*given: Any, inner: Any = inner, place: int = place) -> Any:
            given[place].data = given[place].data.astype(bool)
            return inner(*given)

        monkeypatch.setattr(InterpreterBuilder, name, masked)


@pytest.mark.usefixtures("_whole_masks")
def test_n_grams_change_no_token_and_no_exit_and_all_are_reported(
    make_llm: Any,
    make_model: Any,
    make_bundle: Any,
    prompts: Any,
    generate: Any,
    reference: Any,
    settled: Any,
    tmp_path: Path,
) -> None:
    # given drafts that are copied from the request's own text
    model = make_model("Qwen3")
    bundle = make_bundle(model, (1, 3))
    expected = reference(model, bundle, prompts)
    draft = {
        "method": "ngram",
        "num_speculative_tokens": DRAFTS,
        "prompt_lookup_min": 1,
        "prompt_lookup_max": 2,
    }
    settings = {"uncertified": "stop", "reports": str(tmp_path)}
    llm = make_llm(model, bundle, settings=settings, speculative_config=draft)
    tags = [f"{number:032x}" for number in range(len(prompts))]
    before = settled(llm)
    # when requests are served that ask for reports
    found = generate(llm, prompts, xargs=[{"lynxstop_report": tag} for tag in tags])
    after = settled(llm)
    # then drafts were accepted, and tokens, exits and reports are those without them
    assert all(accepted(llm))
    assert [strip(ids) for ids in found] == [g.output_ids for g in expected]
    assert after["exits_score"] - before["exits_score"] == sum(g.exit is not None for g in expected) >= 3
    told = [read_report(tmp_path, tag) for tag in tags]
    assert [one and one.get("thinking_tokens") for one in told] == [
        g.exit and g.exit.thinking_tokens for g in expected
    ]
    assert after["errors"] == after["lost"] == after["refused"] == 0
