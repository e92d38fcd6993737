"""The statistics of chance against SciPy's, and against what they promise."""

import numpy as np
import pytest
from scipy import stats

from assay.schemas.chance import (
    benjamini_hochberg,
    chi_square_quantile,
    chi_square_tail,
    equal_shares_p,
    share_difference,
    wilson,
)


@pytest.mark.parametrize("df", [1, 2, 3, 7, 20, 63, 130])
def test_the_tail_and_quantile_of_chi_square_are_those_of_scipy(df: int) -> None:
    for x in (0.01, 0.5, df / 2, float(df), 2.0 * df, 6.0 * df + 20):
        assert chi_square_tail(x, df) == pytest.approx(stats.chi2.sf(x, df), rel=1e-9, abs=1e-300)
    assert chi_square_tail(0, df) == 1
    for share in (0.05, 0.5, 0.95, 0.999):
        assert chi_square_quantile(share, df) == pytest.approx(stats.chi2.ppf(share, df), rel=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (1, 100_000), (500, 1000)])
def test_wilsons_interval_is_that_of_scipy(successes: int, n: int) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    low, high = wilson(successes, n)
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_a_difference_holds_the_truth_95_times_in_100() -> None:
    draw = np.random.default_rng(0)
    x_a, x_b = draw.binomial(80, 0.1, 4000), draw.binomial(400, 0.2, 4000)
    low, high = share_difference(x_a, 80, x_b, 400)
    assert 0.93 < ((low <= 0.1) & (high >= 0.1)).mean() < 0.97
    assert (low <= x_b / 400 - x_a / 80).all() and (high >= x_b / 400 - x_a / 80).all()


def test_equal_shares_are_rejected_as_often_as_the_level_says() -> None:
    draw = np.random.default_rng(1)
    p = equal_shares_p(draw.binomial(500, 0.3, 4000), 500, draw.binomial(900, 0.3, 4000), 900)
    assert 0.04 < (p < 0.05).mean() < 0.06
    assert equal_shares_p(0, 10, 0, 20) == 1
    assert equal_shares_p(90, 100, 10, 100) < 1e-20


def test_adjusted_p_values_are_those_of_scipy() -> None:
    p = np.random.default_rng(2).random(50) ** 3
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    assert benjamini_hochberg([]).size == 0
