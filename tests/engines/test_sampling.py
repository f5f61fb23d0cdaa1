"""Uniform numbers belong to requests; tokens follow from them by inversion."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.types import Sampling
from lynxstop.engines.torch.random import uniforms
from lynxstop.engines.torch.sampling import draw


@given(st.integers(0, 2**40), st.text(max_size=20), st.integers(1, 50), st.integers(0, 50))
def test_uniforms_depend_on_seed_and_id_only(seed: int, name: str, short: int, more: int) -> None:
    longer = uniforms(seed, name, short + more)
    assert np.array_equal(uniforms(seed, name, short), longer[:short])
    assert ((longer >= 0) & (longer < 1)).all()


def test_requests_and_seeds_have_different_uniforms() -> None:
    streams = {tuple(uniforms(seed, name, 4)) for seed in (0, 1, 11) for name in ("a", "b", "1/a", "")}
    assert len(streams) == 12


def test_uniforms_are_uniform() -> None:
    pooled = np.concatenate([uniforms(0, str(i), 50) for i in range(400)])
    counts = np.histogram(pooled, bins=20, range=(0, 1))[0]
    assert abs(counts - 1000).max() < 150


def test_temperature_zero_takes_the_largest_logit() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert draw(logits, torch.tensor([0.999, 0.999]), Sampling()).tolist() == [1, 0]


def test_draws_follow_the_distribution() -> None:
    # given a distribution and evenly spaced uniform numbers
    probs = torch.tensor([0.5, 0.0, 0.3, 0.2])
    numbers = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    # when a token is drawn for each, at temperature 2 from the squared distribution
    logits = (2 * probs.log()).expand(1000, 4)
    tokens = draw(logits, numbers, Sampling(temperature=2.0))
    # then the shares are exact
    assert torch.bincount(tokens, minlength=4).tolist() == [500, 0, 300, 200]


def test_top_k_keeps_the_most_likely() -> None:
    logits = torch.tensor([[1.0, 4.0, 3.0, 0.0]]).expand(100, 4)
    tokens = draw(logits, torch.linspace(0, 0.9999, 100), Sampling(temperature=1.0, top_k=2))
    assert set(tokens.tolist()) == {1, 2}


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass() -> None:
    logits = torch.tensor([0.5, 0.1, 0.3, 0.1]).log().expand(200, 4)
    tokens = draw(logits, torch.linspace(0, 0.9999, 200), Sampling(temperature=1.0, top_p=0.7))
    assert torch.bincount(tokens, minlength=4).tolist()[1::2] == [0, 0]
    assert set(tokens.tolist()) == {0, 2}


def test_the_largest_number_stays_inside_the_vocabulary() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])
    assert draw(logits, torch.tensor([1.0]), Sampling(temperature=1.0)).tolist() == [1]


def test_logits_that_are_not_finite_still_give_a_token() -> None:
    broken = torch.tensor([[torch.nan, 0.0], [-torch.inf, -torch.inf], [torch.inf, 0.0]])
    tokens = draw(broken, torch.full((3,), 0.5), Sampling(temperature=1.0))
    assert all(0 <= token < 2 for token in tokens.tolist())


@given(st.integers(0, 2**32 - 1))
def test_noise_in_the_last_bits_does_not_reorder_tokens(seed: int) -> None:
    # given logits with near ties, and the same with noise
    rng = np.random.default_rng(seed)
    base = torch.tensor(rng.integers(0, 4, size=(8, 12)).astype(np.float32))
    noisy = base + torch.tensor(rng.normal(scale=1e-12, size=base.shape)).float()
    numbers = torch.tensor(rng.random(8))
    sampling = Sampling(temperature=0.7)
    # then the same numbers draw the same tokens
    assert torch.equal(draw(base, numbers, sampling), draw(noisy, numbers, sampling))
