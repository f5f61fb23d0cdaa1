"""P-values and limits against scipy and MAPIE."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from lynxstop.calibration.bounds import (
    binomial_p,
    clopper_pearson_upper,
    hoeffding_bentkus_p,
    hoeffding_bentkus_upper,
)


@pytest.mark.parametrize("n", [1, 7, 100, 5000])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
def test_binomial_p_is_the_binomial_tail(n, alpha):
    k = np.unique(np.linspace(0, n, 60).astype(int))
    assert np.allclose(binomial_p(k, n, alpha), binom.cdf(k, n, alpha), rtol=1e-9, atol=1e-300)


def test_nothing_observed_proves_nothing():
    assert binomial_p(0, 0, 0.1) == hoeffding_bentkus_p(0, 0, 0.1) == clopper_pearson_upper(0, 0, 0.1) == 1


@pytest.mark.parametrize(("k", "n"), [(0, 59), (3, 100), (12, 1000), (100, 100)])
def test_upper_limit_is_the_exact_one(k, n):
    interval = binomtest(k, n, alternative="less").proportion_ci(0.95, method="exact")
    assert clopper_pearson_upper(k, n, 0.05) == pytest.approx(interval.high, rel=1e-9)


def test_limit_and_test_are_the_same_decision():
    for k in range(40):
        assert (clopper_pearson_upper(k, 500, 0.05) <= 0.04) == (binomial_p(k, 500, 0.04) <= 0.05)
        assert hoeffding_bentkus_p(k, 500, hoeffding_bentkus_upper(k, 500, 0.05)) <= 0.05


@pytest.mark.filterwarnings("ignore")
def test_p_values_are_those_of_mapie():
    # given MAPIE's p-values: of losses in [0, 1], and the exact ones of binary losses
    from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value as mapie

    rates, n, alpha = np.arange(0, 101) / 1000, 1000, 0.05
    graded = np.array([mapie(np.array([rate]), n, alpha).item() for rate in rates])
    assert np.allclose(hoeffding_bentkus_p(np.round(rates * n), n, alpha), graded, rtol=1e-6)
    binary = np.array([mapie(np.array([rate]), n, alpha, True).item() for rate in rates])
    assert np.allclose(binomial_p(np.round(rates * n), n, alpha), binary, rtol=1e-6)
