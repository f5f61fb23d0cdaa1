"""Batched statistics of tokens equal what the definitions give for each token alone."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from lynxstop.engines.torch import statistics as of_torch  # noqa: E402
from lynxstop.engines.torch.statistics import describe, row_kernel  # noqa: E402
from lynxstop.engines.vllm.statistics import TokenStatistics  # noqa: E402

END, VOCABULARY = 3, 11


def logprobs(row: np.ndarray) -> np.ndarray:
    return row - math.log(np.exp(row.astype(np.float64)).sum())


def known(before: np.ndarray | None, token: int, behind: np.ndarray) -> list[float]:
    found = logprobs(behind)
    top = np.sort(found)[::-1]
    entropy = -sum(math.exp(p) * p for p in found if p > -math.inf)
    own = math.nan if before is None else logprobs(before)[token]
    return [entropy, top[0] - top[1], top[0] - found[END], own]


class Streams:
    """Requests whose logits are drawn, looked at in batches of any order."""

    def __init__(self, slots: int) -> None:
        self.statistics = TokenStatistics(slots, END)
        self.draw = np.random.default_rng(0)
        self.before: dict[int, np.ndarray] = {}

    def step(self, batch: list[int], wanted: list[int]) -> None:
        """Feed a batch of slots; look at the rows `wanted` and compare."""
        logits = self.draw.normal(size=(len(batch), VOCABULARY)).astype(np.float32) * 3
        logits[:, 7] = -math.inf
        tokens = self.draw.integers(0, 6, size=len(batch))
        rows = np.array(wanted, dtype=np.int64)
        given = torch.from_numpy(logits.copy())
        found = self.statistics.observe(given, rows, np.array(batch)[rows], tokens)
        expected = [known(self.before.get(batch[row]), tokens[row], logits[row]) for row in wanted]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
        assert np.array_equal(given.numpy(), logits)
        self.before |= {batch[row]: logits[row] for row in wanted}


def test_statistics_follow_requests_through_a_changing_batch() -> None:
    # given requests in slots, when rows join, change places, sit out a step and come back
    streams = Streams(6)
    streams.step([4, 0], [0, 1])
    streams.step([0, 4, 2], [0, 1])
    streams.step([2, 0, 4], [2])
    # then each token's own log-probability is the one that its own row had foreseen
    streams.step([2, 4, 0], [0, 1, 2])
    streams.step([0, 2, 4], [2, 1, 0])


def test_a_request_that_leaves_is_known_again_in_another_slot() -> None:
    # given a request, when it leaves its slot, another one takes it, and it comes back elsewhere
    streams = Streams(6)
    streams.step([1, 2], [0, 1])
    kept = streams.statistics.take(1)
    before = streams.before.pop(1)
    streams.step([1, 2], [0, 1])
    streams.statistics.give(5, kept)
    streams.before[5] = before
    # then nothing of the two is mixed up
    streams.step([5, 1, 2], [0, 1, 2])
    # and a slot that is taken out without coming back is unknown
    streams.statistics.take(2)
    streams.before.pop(2)
    streams.step([2, 5], [0, 1])


def test_a_row_that_begins_is_known_at_its_next_token() -> None:
    # given a row that opens a thinking block
    streams = Streams(4)
    streams.step([0, 3], [0])
    logits = streams.draw.normal(size=(2, VOCABULARY)).astype(np.float32)
    streams.statistics.begin(torch.from_numpy(logits), 1, 3)
    streams.before[3] = logits[1]
    # when the next token is read, then its log-probability is known
    streams.step([3, 0], [0, 1])


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 9 * 512 + 7])
@pytest.mark.parametrize("best", [0, -1])
def test_statistics_of_logits_and_of_log_probabilities_are_those_of_their_definitions(
    vocabulary: int, best: int
) -> None:
    # given rows whose best tokens are neighbours or far apart, and an impossible token
    logits = np.random.default_rng(1).normal(size=(300, vocabulary)).astype(np.float32) * 3
    logits[:, best] += 12
    logits[:, 1] = logits[:, best] - 0.5
    logits[::2, END] = logits[:, 7] = -math.inf
    expected = np.array([known(row, 2, row) for row in logits])
    # when
    for given in (torch.from_numpy(logits), torch.from_numpy(logits).log_softmax(dim=1)):
        found, kept = describe(given.clone(), END)
        own = kept.logprobs(torch.full((300,), 2))
        # then
        both = torch.cat([found, own.unsqueeze(1)], dim=1)
        np.testing.assert_allclose(both.numpy(), expected, rtol=1e-5, atol=1e-5)
        assert kept.row(5).logprobs(torch.tensor([7])) == -math.inf


@pytest.fixture(params=["kernel", "operations"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of large vocabularies by the kernel, and as where Numba is missing."""
    if request.param == "operations":
        monkeypatch.setattr(of_torch, "row_kernel", lambda: None)
    else:
        pytest.importorskip("numba")
        assert row_kernel() is not None


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_vocabulary_is_described_row_by_row_and_each_row_by_itself(dtype) -> None:
    # given a vocabulary of which only one row is taken at a time, and tokens that are impossible
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 140_000)).astype(np.float32) * 3)
    logits[0, 5:40_000] = -math.inf
    logits[1, END] = -math.inf
    # and the two best ones in one block, or one after all whole blocks
    logits[1, 700], logits[1, 701], logits[2, -1] = 20, 19, 20
    logits = logits.to(dtype)
    found, seen = describe(logits, END)
    # then all is as defined
    shown = logits.double().numpy()
    expected = np.array([known(row, 50_000, row) for row in shown])
    np.testing.assert_allclose(found.numpy(), expected[:, :-1], rtol=1e-5, atol=1e-5)
    tokens = torch.full((3,), 50_000)
    np.testing.assert_allclose(seen.logprobs(tokens).numpy(), expected[:, -1], rtol=1e-5)
    assert seen.logprobs(torch.full((3,), 17))[0] == -math.inf
    # and the same, to the last bit, whatever else is in the batch
    assert torch.equal(torch.cat([describe(row, END)[0] for row in logits.split(1)]), found)


@pytest.mark.usefixtures("way")
def test_some_rows_of_a_wider_matrix_are_described_where_they_lie() -> None:
    # given logits that a model pads to more columns than it has words
    whole = torch.from_numpy(np.random.default_rng(2).normal(size=(5, 40_000)).astype(np.float32) * 3)
    logits = whole[:, :39_000]
    before = whole.clone()
    space = torch.empty(3, 39_000)
    # when some rows are described
    found, seen = describe(logits, END, space, torch.tensor([4, 0, 2]))
    # then they are those rows, in that order, and nothing has changed
    exact = logits.double().numpy()
    expected = np.array([known(exact[row], 17, exact[row]) for row in (4, 0, 2)])
    np.testing.assert_allclose(found.numpy(), expected[:, :-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(seen.logprobs(torch.full((3,), 17)).numpy(), expected[:, -1], rtol=1e-5)
    assert seen.shifted is space
    assert torch.equal(whole, before)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("poison", [math.nan, -math.nan, math.inf])
def test_a_row_with_a_logit_that_is_no_number_has_no_statistics(poison: float) -> None:
    logits = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 20_000)).astype(np.float32))
    logits[0, 9_000] = poison
    found, _ = describe(logits, END)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


@pytest.mark.filterwarnings("ignore")
def test_vllm_starts_an_engine_after_the_kernel_is_loaded() -> None:
    # given what vLLM does with every module when an engine starts on a CPU
    dispatcher = pytest.importorskip("vllm.triton_utils.dispatcher")
    pytest.importorskip("numba")
    assert row_kernel() is not None
    # then it does not stumble over llvmlite
    dispatcher._rebind_kernels([])


def test_without_compilation_the_operations_serve() -> None:
    # given Numba with its compiler switched off, where the kernel would run number by number
    pytest.importorskip("numba")
    code = "from lynxstop.engines.torch.statistics import row_kernel; assert row_kernel() is None"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, check=True)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    words=st.integers(5, 18_000),
    scale=st.sampled_from([0.0, 1e-6, 1, 30, 1e4]),
)
def test_the_kernel_finds_what_the_operations_find(seed: int, words: int, scale: float) -> None:
    # given logits of any size, equal ones and impossible ones among them
    draw = np.random.default_rng(seed)
    logits = torch.from_numpy((draw.normal(size=(2, words)) * scale).astype(np.float32))
    logits[0, torch.from_numpy(draw.integers(0, words, size=words // 2))] = -math.inf
    logits[1, torch.from_numpy(draw.integers(0, words, size=2))] = logits[1].max()
    logits[:, END] = 0
    # when
    found, seen = describe(logits, END)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_torch, "row_kernel", lambda: None)
        expected, reference = describe(logits, END)
    # then
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=2e-5)
    assert torch.equal(seen.shifted, reference.shifted)
    np.testing.assert_allclose(seen.log_total.numpy(), reference.log_total.numpy(), rtol=1e-5, atol=1e-6)
