"""Compares two corpora by their merged statistics: exact histograms, and how much of a difference is chance.

Two samples of one corpus differ too. With shares p over B bins of documents, PSI between samples of n_A and n_B
documents is (1/n_A + 1/n_B) times a chi-square with B - 1 degrees of freedom (Yurdakul 2018). Where documents count
by their tokens, a bin's share varies more, and the chi-square is scaled and its degrees of freedom set from the
variance matrix of the shares (Rao & Scott 1984, second order); with equal documents that is the same law.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.chance import benjamini_hochberg, chi_square_quantile, chi_square_tail, share_difference
from assay.schemas.drift import SIGNIFICANT, MetricDrift, Stability, ValueChange
from assay.schemas.statistics import SCORE_BINS, TagColumn, length_bin_start
from assay.workers.banding import LENGTHS, Metric, metrics

FEWEST = 5
"""documents that a bin holds at least, as expected in the smaller corpus: below, chi-square doesn't hold"""
SMOOTHING = 0.5
"""documents of average length added to each bin, so that an empty one has a logarithm"""
Array = NDArray[np.float64]


class Histogram(NamedTuple):
    """One metric of both corpora, over the values that either has."""

    metric: Metric
    values: list[Any]
    """bins in ascending order, or labels; undecided last"""
    docs: Array
    """[2, B]"""
    tokens: Array
    """[2, B]"""
    undecided: bool
    """whether the last value stands for undecided"""


class _Chance(NamedTuple):
    psi: float
    scale: float
    df: int
    """PSI / scale is a chi-square with df degrees of freedom where nothing drifted"""

    @property
    def p(self) -> float:
        return chi_square_tail(self.psi / self.scale, self.df) if self.df else 1.0

    def stability(self, q: float) -> Stability:
        high = self.scale * chi_square_quantile(1 - SIGNIFICANT, self.df) if self.df else 0.0
        return Stability(psi=self.psi, noise=self.scale * self.df, noise_95=high, q=q)


def compare(a: pa.Table, b: pa.Table, columns: Sequence[TagColumn], *, lengths: bool = True) -> tuple[MetricDrift, ...]:
    """What drifted between two merged statistics tables: the lengths and each of `columns`, largest drift first.

    Both sides must hold a document.
    """
    of_lengths = _histogram(a, b, LENGTHS)
    squares = of_lengths.tokens.sum(0) @ (of_lengths.tokens.sum(0) / np.maximum(of_lengths.docs.sum(0), 1))
    found = [*([of_lengths] if lengths else []), *(_histogram(a, b, metric) for metric in metrics(columns))]
    groups = [_groups(histogram) for histogram in found]
    chances = [_chances(h, g, float(squares)) for h, g in zip(found, groups, strict=True)]
    q = benjamini_hochberg([chance.p for pair in chances for chance in pair]).reshape(len(found), 2)
    drifts = [
        _metric(h, int(g.max()) + 1, documents.stability(float(qd)), tokens.stability(float(qt)))
        for h, g, (documents, tokens), (qd, qt) in zip(found, groups, chances, q, strict=True)
    ]
    return tuple(sorted(drifts, key=lambda m: (m.verdict != "drift", -m.worst, m.metric)))


def _histogram(a: pa.Table, b: pa.Table, metric: Metric) -> Histogram:
    counts: dict[Any, list[float]] = {}
    for side, table in enumerate((a, b)):
        for value, docs, tokens in metric.counts(table):
            row = counts.setdefault(value, [0.0] * 4)
            row[side], row[2 + side] = docs, tokens
    nothing = metric.undecided
    values = sorted(value for value in counts if value != nothing) + [nothing] * (nothing in counts)
    grid = np.array([counts[value] for value in values], float).reshape(-1, 4).T
    return Histogram(metric, values, grid[:2], grid[2:], nothing in counts)


def _groups(histogram: Histogram) -> NDArray[np.int64]:
    """For each value its group: neighbouring bins, or the rarest labels, joined until FEWEST are expected in each."""
    decided = len(histogram.values) - histogram.undecided
    totals = histogram.docs.sum(1)
    expected = histogram.docs.sum(0) * totals.min() / totals.sum()
    order = np.arange(decided) if histogram.metric.kind != "label" else np.argsort(-expected[:decided], kind="stable")
    groups = np.zeros(len(histogram.values), np.int64)
    group, held = 0, 0.0
    for index in order:
        groups[index] = group
        held += expected[index]
        if held >= FEWEST:
            group, held = group + 1, 0.0
    if held and group:
        groups[:decided][groups[:decided] == group] = group - 1
    elif held:
        group = 1
    if histogram.undecided:
        groups[-1] = group
    return groups


def _chances(histogram: Histogram, groups: NDArray[np.int64], squares: float) -> tuple[_Chance, _Chance]:
    """By documents and by tokens; `squares` is the sum of squared lengths of all documents of both corpora."""
    size = int(groups.max()) + 1
    docs, tokens = (
        np.stack([np.bincount(groups, side, size) for side in grid]) for grid in (histogram.docs, histogram.tokens)
    )
    both = docs.sum(0)
    # A bin's squared lengths aren't counted; they go with its squared mean length, so that all bins add up.
    guess = tokens.sum(0) ** 2 / np.maximum(both, 1)
    guess *= squares / guess.sum() if guess.sum() else 0.0
    return _chance(docs, docs, both), _chance(docs, tokens, guess)


def _chance(docs: NDArray[Any], mass: NDArray[Any], squares: NDArray[Any]) -> _Chance:
    totals, n = mass.sum(1, keepdims=True), docs.sum(1)
    if mass.shape[1] < 2 or not totals.all():
        return _Chance(0.0, 0.0, 0)
    smoothed = mass + SMOOTHING * totals / n[:, None]
    a, b = smoothed / smoothed.sum(1, keepdims=True)
    psi = float(((b - a) * np.log(b / a)).sum())
    share = mass.sum(0) / mass.sum()
    spread, mean = squares / n.sum(), mass.sum() / n.sum()
    variance = np.diag(spread) - np.outer(share, spread) - np.outer(spread, share)
    variance = (variance + np.outer(share, share) * spread.sum()) / mean**2
    used = share > 0
    root = np.sqrt(share[used])
    standard = variance[np.ix_(used, used)] / np.outer(root, root)
    trace = float(np.trace(standard))
    df = max(1, round(trace**2 / float((standard**2).sum())))
    return _Chance(max(psi, 0.0), float((1 / n).sum()) * trace / df, df)


def _metric(histogram: Histogram, bins: int, documents: Stability, tokens: Stability) -> MetricDrift:
    return MetricDrift(
        metric=histogram.metric.name,
        kind=histogram.metric.kind,
        bins=bins,
        documents=documents,
        tokens=tokens,
        jensen_shannon=_jensen_shannon(histogram.docs),
        median=(_median(histogram, 0), _median(histogram, 1)),
        changes=_changes(histogram),
    )


def _changes(histogram: Histogram) -> tuple[ValueChange, ...]:
    rows: dict[str, NDArray[np.int64]] = {}
    for index, value in enumerate(histogram.values):
        row = np.concatenate([histogram.docs[:, index], histogram.tokens[:, index]]).astype(np.int64)
        name = histogram.metric.shown(value)
        rows[name] = rows.get(name, 0) + row
    n_a, n_b = histogram.docs.sum(1)
    found = []
    for value, (docs_a, docs_b, tokens_a, tokens_b) in rows.items():
        low, high = share_difference(docs_a, n_a, docs_b, n_b)
        found.append(
            ValueChange(
                value=value,
                docs=(int(docs_a), int(docs_b)),
                tokens=(int(tokens_a), int(tokens_b)),
                difference=float(docs_b / n_b - docs_a / n_a),
                low=float(low),
                high=float(high),
            )
        )
    return tuple(sorted(found, key=lambda change: (-abs(change.difference), change.value)))


def _jensen_shannon(docs: Array) -> float:
    a, b = docs / docs.sum(1, keepdims=True)
    middle = (a + b) / 2

    def divergence(share: Array) -> float:
        held = share > 0
        return float((share[held] * np.log2(share[held] / middle[held])).sum())

    return min(max((divergence(a) + divergence(b)) / 2, 0.0), 1.0)


def _median(histogram: Histogram, side: int) -> float | None:
    decided = len(histogram.values) - histogram.undecided
    docs = histogram.docs[side, :decided]
    if histogram.metric.kind == "label" or not docs.sum():
        return None
    before = np.cumsum(docs) - docs
    index = int(np.searchsorted(np.cumsum(docs), docs.sum() / 2))
    part = (docs.sum() / 2 - before[index]) / docs[index]
    bin_ = int(histogram.values[index])
    if histogram.metric.kind == "score":
        return float((bin_ + part) / SCORE_BINS)
    low, high = length_bin_start(bin_), length_bin_start(bin_ + 1)
    return float(low + part * (high - low))
