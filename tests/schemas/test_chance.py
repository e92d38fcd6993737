"""The statistics of chance against SciPy's, and against what they promise."""

import numpy as np
import pytest
from scipy import stats

from assay.schemas.chance import (
    benjamini_hochberg,
    binomial_p,
    chi_square_quantile,
    chi_square_tail,
    equal_shares_p,
    lift_interval,
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


@pytest.mark.parametrize(("x", "n", "share"), [(0, 8, 0.1), (1, 1, 0.128), (5, 5, 0.128), (40, 900, 0.03), (3, 4, 0.9)])
def test_exact_p_values_are_scipys_smaller_tail_doubled(x: int, n: int, share: float) -> None:
    tails = stats.binom.cdf(x, n, share), stats.binom.sf(x - 1, n, share)
    assert binomial_p(x, n, share) == pytest.approx(min(2 * min(tails), 1))


@pytest.mark.parametrize(("n", "share"), [(40, 0.5), (400, 0.05), (3000, 0.15), (20, 0.1)])
def test_the_interval_of_a_lift_holds_the_truth_95_times_in_100(n: int, share: float) -> None:
    draw, everything, other = np.random.default_rng(3), 4000, 0.1
    truth = share / (n / everything * share + (1 - n / everything) * other)
    x, rest = draw.binomial(n, share, 3000), draw.binomial(everything - n, other, 3000)
    bounds = np.array([lift_interval([a], [n], int(a + b), everything) for a, b in zip(x, rest, strict=True)])[..., 0]
    assert 0.93 < ((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean() < 0.985


def test_a_lift_has_an_interval_at_every_edge() -> None:
    low, high = lift_interval([0, 5, 50, 0, 5], [5, 5, 100, 100, 95], 50, 100)
    assert (low >= 0).all() and (low <= high).all()
    assert (low[2], high[2]) == (1, 1)  # the whole
    assert low[0] == 0 < high[0] < 1 < low[1]
    low, high = lift_interval([5], [5], 5, 100)  # nothing else counts
    assert low[0] > 5 and high[0] == pytest.approx(20)
