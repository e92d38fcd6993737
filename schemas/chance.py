"""How far chance alone reaches: tails of chi-square, intervals of shares, and many tests judged together."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054
Floats = NDArray[np.float64]


def chi_square_tail(x: float, df: int) -> float:
    """P(X >= x) for chi-square with `df` degrees of freedom, exact for whole `df` (a finite sum)."""
    if x <= 0:
        return 1.0
    half = x / 2
    tail = math.erfc(math.sqrt(half)) if df % 2 else math.exp(-half)
    for step in range(1 if df % 2 else 2, df, 2):
        tail += math.exp(step / 2 * math.log(half) - half - math.lgamma(step / 2 + 1))
    return min(tail, 1.0)


def chi_square_quantile(share: float, df: int) -> float:
    """The x that a chi-square with `df` degrees of freedom stays below with probability `share`."""
    low, high = 0.0, 2.0 * df + 100
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_tail(middle, df) > 1 - share else (low, middle)
    return (low + high) / 2


def wilson(successes: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Wilson's 95 % score interval of a share (JASA 22, 1927); `n` is 1 at least."""
    x, size = np.asarray(successes, float), np.asarray(n, float)
    share, spread = x / size, Z_95**2 / size
    middle = (share + spread / 2) / (1 + spread)
    reach = Z_95 / (1 + spread) * np.sqrt(np.maximum(share * (1 - share), 0) / size + spread / (4 * size))
    return np.clip(np.minimum(middle - reach, share), 0, 1), np.clip(np.maximum(middle + reach, share), 0, 1)


def share_difference(x_a: ArrayLike, n_a: ArrayLike, x_b: ArrayLike, n_b: ArrayLike) -> tuple[Floats, Floats]:
    """The 95 % interval of x_b/n_b - x_a/n_a from two Wilson intervals (Newcombe 1998, method 10)."""
    a, b = np.asarray(x_a, float) / n_a, np.asarray(x_b, float) / n_b
    (low_a, high_a), (low_b, high_b) = wilson(x_a, n_a), wilson(x_b, n_b)
    low = b - a - np.hypot(b - low_b, high_a - a)
    high = b - a + np.hypot(high_b - b, a - low_a)
    return low, high


def equal_shares_p(x_a: ArrayLike, n_a: ArrayLike, x_b: ArrayLike, n_b: ArrayLike) -> Floats:
    """Two-sided p of equal shares, by the pooled z test; 1 where all or none of both count."""
    xa, na, xb, nb = np.broadcast_arrays(*(np.asarray(v, float) for v in (x_a, n_a, x_b, n_b)))
    pooled = (xa + xb) / (na + nb)
    spread = np.sqrt(np.maximum(pooled * (1 - pooled), 0) * (1 / na + 1 / nb))
    z = np.divide(np.abs(xb / nb - xa / na), spread, out=np.zeros(spread.shape), where=spread > 0)
    return np.array([math.erfc(value / math.sqrt(2)) for value in z.ravel()]).reshape(z.shape)


def binomial_p(x: int, n: int, share: float) -> float:
    """Two-sided p of `x` in `n` where each counts with probability `share`: twice the smaller exact tail."""
    if not 0 < share < 1:
        return 1.0 if x == n * share else 0.0
    k = np.arange(n + 1)
    ways = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
    chance = np.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))
    return float(min(2 * min(chance[: x + 1].sum(), chance[x:].sum()), 1))


def lift_interval(x: ArrayLike, n: ArrayLike, x_all: int, n_all: int) -> tuple[Floats, Floats]:
    """The 95 % interval of (x / n) / (x_all / n_all) for a group of `n` among `n_all`, of which `x` and `x_all` count.

    The ratio of the group's share to that of all others is bounded from two Wilson intervals (MOVER-R, Donner & Zou
    2012); the lift rises with it. A group that holds everything has a lift of exactly 1.
    """
    xs, ns = np.asarray(x, float), np.asarray(n, float)
    weight = ns / n_all
    rest = np.maximum(n_all - ns, 1)
    a, b = xs / ns, (x_all - xs) / rest
    (low_a, high_a), (low_b, high_b) = wilson(xs, ns), wilson(x_all - xs, rest)
    with np.errstate(divide="ignore", invalid="ignore"):
        under, over = high_b * (2 * b - high_b), low_b * (2 * b - low_b)
        low = (a * b - np.sqrt(np.maximum((a * b) ** 2 - low_a * (2 * a - low_a) * under, 0))) / under
        high = (a * b + np.sqrt(np.maximum((a * b) ** 2 - high_a * (2 * a - high_a) * over, 0))) / over
        lows = np.where(weight < 1, low / (weight * low + 1 - weight), 1.0)
        highs = np.where(weight < 1, np.where(over > 0, high / (weight * high + 1 - weight), 1 / weight), 1.0)
    return np.maximum(np.nan_to_num(lows), 0), highs


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """p values adjusted so that of those below q a share q is false on average (Benjamini & Hochberg 1995)."""
    values = np.asarray(p, float)
    order = np.argsort(values)[::-1]
    ranks = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum.accumulate(np.minimum(values[order] * len(values) / ranks, 1))
    return adjusted
