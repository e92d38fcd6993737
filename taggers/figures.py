"""Measures on held-out documents, each with a bootstrapped 95 % interval.

The bootstrap draws groups of documents, not documents, since those of one group are no independent evidence. All draws
of a measure are computed at once: a draw is a row of weights, how often each document was drawn.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from assay.schemas.evidence import Figure, Figures

DRAWS = 300
Floats = NDArray[np.float64]
Draws = NDArray[np.float32]


def draw(groups: NDArray[np.int64], draws: int = DRAWS, seed: int = 0) -> Draws:
    """(1 + draws, N): how often each document counts; row 0 is all ones, the sample itself."""
    codes = np.unique(groups, return_inverse=True)[1]
    n = int(codes.max()) + 1
    times_BG = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws)
    return np.concatenate([np.ones((1, len(codes))), times_BG[:, codes]]).astype(np.float32)


def figure(value_B: Floats, *, bounded: int | None = None) -> Figure | None:
    """The sample's value and the middle 95 % of the draws'; None where the sample has no value.

    `bounded` is the number of documents behind a share. A share of 0 or 1 is the same in every draw, and its interval
    is widened by the rule of three, 3 / n.
    """
    value = float(value_B[0])
    if not np.isfinite(value):
        return None
    others = value_B[1:][np.isfinite(value_B[1:])]
    low, high = (float(q) for q in np.quantile(others, [0.025, 0.975])) if len(others) else (value, value)
    if bounded and high - low < 1e-9 and value in (0.0, 1.0):
        low, high = max(0.0, value - 3 / bounded), min(1.0, value + 3 / bounded)
    rounded = round(value, 4)
    return Figure(value=rounded, low=min(round(low, 4), rounded), high=max(round(high, 4), rounded))


def auroc(truth_N: NDArray[np.bool_], score_N: Floats, draws_BN: Draws) -> Floats:
    """Area under the ROC curve of each draw, ties counted half; NaN for a draw of one class."""
    positive_BK, negative_BK = _by_score(truth_N, score_N, draws_BN)
    below_BK = negative_BK.cumsum(1) - negative_BK
    pairs = positive_BK.sum(1) * negative_BK.sum(1)
    return np.where(pairs > 0, (positive_BK * (below_BK + negative_BK / 2)).sum(1) / np.maximum(pairs, 1e-9), np.nan)


def auprc(truth_N: NDArray[np.bool_], score_N: Floats, draws_BN: Draws) -> Floats:
    """Average precision of each draw: precision at each score, weighted by the recall that it adds."""
    positive_BK, negative_BK = (part[:, ::-1] for part in _by_score(truth_N, score_N, draws_BN))
    hit_BK, miss_BK = positive_BK.cumsum(1), negative_BK.cumsum(1)
    precision_BK = hit_BK / np.maximum(hit_BK + miss_BK, 1e-9)
    total_B = positive_BK.sum(1)
    return np.where(total_B > 0, (positive_BK * precision_BK).sum(1) / np.maximum(total_B, 1e-9), np.nan)


def confusion(truth_N: NDArray[np.bool_], said_N: NDArray[np.bool_], draws_BN: Draws) -> tuple[Floats, Floats, Floats]:
    """(true positives, false positives, false negatives) of each draw."""
    both = np.stack([truth_N & said_N, ~truth_N & said_N, truth_N & ~said_N], axis=1).astype(np.float32)
    counts_B3 = (draws_BN @ both).astype(np.float64)
    return counts_B3[:, 0], counts_B3[:, 1], counts_B3[:, 2]


def decisions(truth_N: NDArray[np.bool_], said_N: NDArray[np.bool_], draws_BN: Draws) -> Figures:
    """f1, precision and recall of a yes or no."""
    tp, fp, fn = confusion(truth_N, said_N, draws_BN)
    yes, said = int(truth_N.sum()), int(said_N.sum())
    return _named(
        f1=figure(_ratio(2 * tp, 2 * tp + fp + fn), bounded=yes or None),
        precision=figure(np.nan_to_num(_ratio(tp, tp + fp)), bounded=said or None),
        recall=figure(_ratio(tp, tp + fn), bounded=yes or None),
    )


def score_figures(truth_N: NDArray[np.bool_], score_N: Floats, threshold: float, draws_BN: Draws) -> Figures:
    """auroc, auprc, and f1, precision and recall of the cut `score > threshold`."""
    ranked = _named(
        auroc=figure(auroc(truth_N, score_N, draws_BN), bounded=int(truth_N.sum()) or None),
        auprc=figure(auprc(truth_N, score_N, draws_BN), bounded=int(truth_N.sum()) or None),
    )
    return ranked | decisions(truth_N, score_N > threshold, draws_BN)


def label_figures(truth_N: NDArray[np.int64], said_N: NDArray[np.int64], draws_BN: Draws) -> Figures:
    """macro_f1 over the classes that the truth has, and accuracy."""
    f1_BC = []
    for label in np.unique(truth_N):
        tp, fp, fn = confusion(truth_N == label, said_N == label, draws_BN)
        f1_BC.append(_ratio(2 * tp, 2 * tp + fp + fn))
    right_B = (draws_BN @ (truth_N == said_N).astype(np.float32)) / draws_BN.sum(1)
    n = len(truth_N)
    return _named(macro_f1=figure(np.nanmean(np.array(f1_BC), axis=0), bounded=n), accuracy=figure(right_B, bounded=n))


def regression_figures(
    truth_N: Floats, said_N: Floats, draws_BN: Draws, unit: tuple[float, float] = (0.0, 1.0)
) -> Figures:
    """spearman, r2, and mae in the labels' unit; truth and prediction are on the scale from 0 to 1."""
    weight_B = draws_BN.sum(1).astype(np.float64)
    error_N = said_N - truth_N
    mean_B = draws_BN @ truth_N / weight_B
    spread_B = draws_BN @ truth_N**2 / weight_B - mean_B**2
    r2_B = np.where(spread_B > 1e-12, 1 - (draws_BN @ error_N**2 / weight_B) / np.maximum(spread_B, 1e-12), np.nan)
    mae_B = draws_BN @ np.abs(error_N) / weight_B * (unit[1] - unit[0])
    spearman_B = np.array([_spearman(truth_N, said_N, times_N) for times_N in draws_BN])
    return _named(spearman=figure(spearman_B), r2=figure(r2_B), mae=figure(mae_B))


def best_threshold(truth_N: NDArray[np.bool_], score_N: Floats) -> float:
    """The cut from 0.02 to 0.98 with the largest F1."""
    grid = np.linspace(0.02, 0.98, 97)
    ones = np.ones((1, len(truth_N)), np.float32)

    def f1(threshold: float) -> float:
        tp, fp, fn = confusion(truth_N, score_N > threshold, ones)
        return float(_ratio(2 * tp, 2 * tp + fp + fn)[0])

    return round(float(max(grid, key=f1)), 2)


def precision_at(
    prevalence: float, truth_N: NDArray[np.bool_], said_N: NDArray[np.bool_], draws_BN: Draws
) -> Figure | None:
    """Precision where this share of documents is positive: p TPR / (p TPR + (1 - p) FPR).

    Without a false positive, the low end is that of three among the negatives (the rule of three).
    """
    tp, fp, fn = confusion(truth_N, said_N, draws_BN)
    negative_B = (draws_BN @ (~truth_N).astype(np.float32)).astype(np.float64)

    def precision(fpr_B: Floats) -> Floats:
        hit = prevalence * _ratio(tp, tp + fn)
        return _ratio(hit, hit + (1 - prevalence) * fpr_B)

    found = figure(precision(_ratio(fp, negative_B)))
    if found is None or fp[0] > 0:
        return found
    worst = float(precision(3 / np.maximum(negative_B, 1))[0])
    return found.model_copy(update={"low": min(found.low, round(worst, 4))})


def _by_score(truth_N: NDArray[np.bool_], score_N: Floats, draws_BN: Draws) -> tuple[Floats, Floats]:
    """Weights of positives and negatives at each distinct score, ascending: (B, K) each."""
    order = np.argsort(score_N, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score_N[order]) > 0])
    sorted_BN = draws_BN[:, order].astype(np.float64)
    truth = truth_N[order]
    return np.add.reduceat(sorted_BN * truth, starts, axis=1), np.add.reduceat(sorted_BN * ~truth, starts, axis=1)


def _spearman(truth_N: Floats, said_N: Floats, times_N: NDArray[np.float32]) -> float:
    rows = np.repeat(np.arange(len(truth_N)), times_N.astype(int))
    a, b = rankdata(truth_N[rows]), rankdata(said_N[rows])
    if a.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1]) if b.std() > 0 else 0.0


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1e-12), np.nan)


def _named(**figures: Figure | None) -> Figures:
    return {name: found for name, found in figures.items() if found is not None}
