"""How strongly groups and a tag go together, from sums that can be added: strength first, significance beside it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from assay.schemas.evidence import Figure

_Z95 = 1.959964


class Moments(NamedTuple):
    """Sums over the documents of G groups: how many, and of each of C columns the sum and the sum of squares."""

    n_G: NDArray[np.float64]
    sum_GC: NDArray[np.float64]
    squares_GC: NDArray[np.float64]

    def rest(self) -> "Moments":
        """The same over all documents outside each group."""
        return Moments(*(whole.sum(0) - whole for whole in self))

    @property
    def mean_GC(self) -> NDArray[np.float64]:
        """Means; 0 of no documents."""
        return self.sum_GC / np.maximum(self.n_G, 1)[:, None]

    @property
    def sd_GC(self) -> NDArray[np.float64]:
        """Standard deviations with n - 1."""
        n = self.n_G[:, None]
        spread = self.squares_GC - n * self.mean_GC**2
        return np.sqrt(np.maximum(spread, 0) / np.maximum(n - 1, 1))


class Explained(NamedTuple):
    """What groups say of a value."""

    share: float
    """of the variance, less what as many random groups would explain: epsilon squared (Kelley 1935), cut at 0"""
    p: float


def explained(groups: Moments) -> Explained:
    """The share of the columns' variance that lies between the groups.

    One column: one-way ANOVA, its F test. Several: the columns are 0/1 and one of them is 1 for each document; the
    share before the correction is Goodman and Kruskal's tau, and the test is Light and Margolin's (1971).
    """
    kept = groups.n_G > 0
    n_G, sum_GC = groups.n_G[kept], groups.sum_GC[kept]
    n, k = float(n_G.sum()), len(n_G)
    mean_C = sum_GC.sum(0) / max(n, 1)
    total = float((groups.squares_GC[kept].sum(0) - n * mean_C**2).sum())
    between = float((n_G[:, None] * (sum_GC / n_G[:, None] - mean_C) ** 2).sum())
    if k < 2 or n <= k or total <= 1e-12 * n:
        return Explained(0.0, 1.0)
    within = max(total - between, 0.0) / (n - k)
    share = min(max((between - (k - 1) * within) / total, 0.0), 1.0)
    columns = sum_GC.shape[1]
    if columns == 1:
        p = stats.f.sf(between / (k - 1) / within, k - 1, n - k) if within > 0 else 0.0
    else:
        p = stats.chi2.sf((n - 1) * (columns - 1) * between / total, (k - 1) * (columns - 1))
    return Explained(share, float(p))


def differences(groups: Moments, rest: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(difference of means, p of Welch's t test), each (G, C)."""
    difference = groups.mean_GC - rest.mean_GC
    n, m = np.maximum(groups.n_G, 2)[:, None], np.maximum(rest.n_G, 2)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        test = stats.ttest_ind_from_stats(
            groups.mean_GC, groups.sd_GC, n, rest.mean_GC, rest.sd_GC, m, equal_var=False
        )  # fmt: skip
    p = np.where(np.isnan(test.pvalue), np.where(np.abs(difference) > 1e-9, 0.0, 1.0), test.pvalue)
    return difference, p


def cohens_h(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distance of two shares on the scale where their spread is even (Cohen 1988, 6.2)."""
    return 2 * np.arcsin(np.sqrt(np.clip(p, 0, 1))) - 2 * np.arcsin(np.sqrt(np.clip(q, 0, 1)))


def rank_correlation(counts_AB: NDArray[np.int64]) -> tuple[Figure, float]:
    """Spearman's rho of two binned values, ties at their mean rank, with its interval (Bonett and Wright 2000) and p.

    `counts_AB` counts the documents by bin of each. Without spread in either value it is 0 to 0, p = 1.
    """
    n = float(counts_AB.sum())
    a, b = counts_AB.sum(1), counts_AB.sum(0)
    rank_A, rank_B = (np.cumsum(c) - (c - 1) / 2 - (n + 1) / 2 for c in (a, b))
    spread = np.sqrt((a * rank_A**2).sum() * (b * rank_B**2).sum())
    if n < 4 or spread == 0:
        return Figure(value=0.0, low=0.0, high=0.0), 1.0
    rho = float(np.clip(rank_A @ counts_AB @ rank_B / spread, -1, 1))
    half = _Z95 * np.sqrt((1 + rho**2 / 2) / (n - 3))
    middle = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    low, high = (float(np.tanh(middle + d)) for d in (-half, half))
    p = float(2 * stats.norm.sf(abs(middle) * np.sqrt((n - 3) / (1 + rho**2 / 2))))
    return Figure(value=rho, low=min(low, rho), high=max(high, rho)), p


def discovery_rates(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each p the false discovery rate at which it would be called (Benjamini and Hochberg 1995)."""
    flat = np.clip(np.ravel(p), 0, 1)
    return stats.false_discovery_control(flat).reshape(np.shape(p)) if flat.size else np.asarray(p, float)
