"""Strength and significance from sums, against the same figures computed from all documents at once."""

import numpy as np
import pytest
from scipy import stats

from assay.taggers.association import (
    Moments,
    cohens_h,
    differences,
    discovery_rates,
    explained,
    rank_correlation,
)


def moments(group_N: np.ndarray, value_NC: np.ndarray) -> Moments:
    """The sums of documents by group."""
    rows = [value_NC[group_N == g] for g in range(group_N.max() + 1)]
    n = np.array([float(len(r)) for r in rows])
    return Moments(n, np.stack([r.sum(0) for r in rows]), np.stack([(r**2).sum(0) for r in rows]))


def test_the_f_test_and_the_share_are_those_of_a_one_way_anova() -> None:
    draw = np.random.default_rng(1)
    group_N = draw.integers(0, 4, 500)
    value_N = 0.1 * group_N + draw.normal(0, 0.3, 500)
    parts = [value_N[group_N == g] for g in range(4)]
    within = sum(((p - p.mean()) ** 2).sum() for p in parts)
    total = ((value_N - value_N.mean()) ** 2).sum()
    found = explained(moments(group_N, value_N[:, None]))
    assert found.p == pytest.approx(stats.f_oneway(*parts).pvalue)
    assert found.share == pytest.approx((total - within - 3 * within / 496) / total)


def test_random_groups_explain_nothing_however_many_there_are() -> None:
    draw = np.random.default_rng(2)
    found = [
        explained(moments(draw.integers(0, 100, 600), draw.random((600, 1)))).share for _ in range(40)
    ]  # the plain share of the variance would be 99 / 599
    assert np.mean(found) < 0.03


def test_the_share_of_a_label_is_goodman_and_kruskals_tau_but_for_the_correction() -> None:
    draw = np.random.default_rng(3)
    group_N = draw.integers(0, 3, 6000)
    label_N = np.where(draw.random(6000) < 0.6, group_N, draw.integers(0, 3, 6000))
    table = np.zeros((3, 3))
    np.add.at(table, (group_N, label_N), 1)
    share = table / 6000
    row, column = share.sum(1, keepdims=True), share.sum(0)
    tau = ((share**2 / row).sum() - (column**2).sum()) / (1 - (column**2).sum())
    found = explained(moments(group_N, np.eye(3)[label_N]))
    assert found.share == pytest.approx(tau, abs=0.001)
    assert found.p < 1e-9


@pytest.mark.parametrize("value", [np.ones(50), np.zeros(50)])
def test_a_value_without_spread_is_explained_by_nothing(value: np.ndarray) -> None:
    assert explained(moments(np.arange(50) % 2, value[:, None])) == (0.0, 1.0)


def test_a_group_is_compared_with_all_others_by_welchs_test() -> None:
    draw = np.random.default_rng(4)
    group_N, value_N = draw.integers(0, 3, 300), draw.random(300)
    groups = moments(group_N, value_N[:, None])
    difference, p = differences(groups, groups.rest())
    mine, others = value_N[group_N == 1], value_N[group_N != 1]
    assert difference[1, 0] == pytest.approx(mine.mean() - others.mean())
    assert p[1, 0] == pytest.approx(stats.ttest_ind(mine, others, equal_var=False).pvalue)


def test_rank_correlation_of_bins_is_spearmans_with_ties() -> None:
    draw = np.random.default_rng(5)
    a, b = draw.integers(0, 8, 400), draw.integers(0, 5, 400)
    b = np.minimum(b + a // 3, 4)
    counts = np.zeros((8, 5), np.int64)
    np.add.at(counts, (a, b), 1)
    figure, p = rank_correlation(counts)
    assert figure.value == pytest.approx(stats.spearmanr(a, b).statistic)
    assert figure.low < figure.value < figure.high
    assert p < 1e-6


def test_rank_correlation_without_spread_is_zero_and_not_a_crash() -> None:
    counts = np.zeros((4, 4), np.int64)
    counts[2, 1] = 100
    assert rank_correlation(counts)[1] == 1.0
    assert rank_correlation(np.zeros((4, 4), np.int64))[0].value == 0.0


def test_rates_of_false_discoveries_hold_for_any_shape() -> None:
    p = np.array([[0.001, 0.5], [0.01, 0.04]])
    assert discovery_rates(p) == pytest.approx(np.array([[0.004, 0.5], [0.02, 0.16 / 3]]))
    assert discovery_rates(np.zeros((0, 3))).shape == (0, 3)


def test_cohens_h_of_equal_shares_is_zero_and_of_all_against_none_is_pi() -> None:
    assert cohens_h(np.array([0.3]), np.array([0.3]))[0] == 0
    assert cohens_h(np.array([1.0]), np.array([0.0]))[0] == pytest.approx(np.pi)
