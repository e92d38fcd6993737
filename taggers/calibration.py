"""Chooses the threshold of a score from a stratified labelled sample, or refuses where the labels can't support it.

A labelled document stands for weight = (documents of its stratum) / (labelled ones of its stratum). Shares are ratios
of sums of weights. Their 95 % intervals are Clopper and Pearson's, for the effective number of documents
(sum w)^2 / sum w^2 (Kish).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.schemas.errors import AssayError
from assay.schemas.evidence import Figure, Figures

TOP_SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""A stratum ends at each of these shares of highest scores: positives are rare, so most labels go where they are."""
_ALPHA = 0.025


class Labels(NamedTuple):
    """A labelled sample."""

    score: NDArray[np.float64]
    positive: NDArray[np.bool_]
    weight: NDArray[np.float64]


class Chosen(NamedTuple):
    """A threshold with what the labels say of it."""

    threshold: float
    figures: Figures


def stratum_of(scores: NDArray[np.floating], edges: Sequence[float]) -> NDArray[np.intp]:
    """The stratum of each score: s holds what is above edges[s-1] and not above edges[s]."""
    return np.searchsorted(np.asarray(edges, np.float64), np.asarray(scores, np.float64), side="left")


def weights(stratum: NDArray[np.intp], sizes: Sequence[int]) -> NDArray[np.float64]:
    """Documents that each labelled one stands for; AssayError for a stratum that has documents but no label."""
    labelled = np.bincount(stratum, minlength=len(sizes))
    if missing := [s for s, size in enumerate(sizes) if size and not labelled[s]]:
        raise AssayError(
            f"no labelled document in stratum {', '.join(map(str, missing))} of {len(sizes)}",
            hint="label documents of every stratum of the sample that --sample draws",
        )
    return (np.asarray(sizes, float) / np.maximum(labelled, 1))[stratum]


def quotas(sizes: Sequence[int], documents: int) -> list[int]:
    """How many documents to draw of each stratum: as equal as the strata allow, `documents` together where they can."""
    found, left = [0] * len(sizes), documents
    order = sorted(range(len(sizes)), key=lambda s: sizes[s])
    for at, s in enumerate(order):
        found[s] = min(sizes[s], max(left // (len(order) - at), 1))
        left -= found[s]
    return found


def choose_threshold(labels: Labels, rule: Literal["fpr", "precision"], target: float) -> Chosen:
    """The lowest threshold that meets the target by the weighted estimate. AssayError if no result of so few labels
    could show it at 95 %, or if none of the scores meets it."""
    candidates = np.unique(labels.score)
    met = [t for t in candidates.tolist() if _meets(labels, rule, target, t)]
    if not met:
        raise _refusal(labels, rule, target)
    return Chosen(met[0], figures_at(labels, met[0]))


def figures_at(labels: Labels, threshold: float) -> Figures:
    """fpr, precision and recall of `score > threshold`, those that the labels have documents for."""
    above, positive = labels.score > threshold, labels.positive
    parts = {
        "fpr": (above, ~positive),
        "precision": (positive, above),
        "recall": (above, positive),
    }
    return {name: _figure(labels.weight[among], hit[among]) for name, (hit, among) in parts.items() if among.any()}


def needed(rule: Literal["fpr", "precision"], target: float) -> int:
    """How many documents a flawless sample needs, so that its 95 % interval keeps to the target.

    Negatives, none of them positive, for an fpr; positives by the tag, all of them right, for a precision.
    """
    share = 1 - target if rule == "fpr" else target
    return math.ceil(math.log(_ALPHA) / math.log(share))


def _meets(labels: Labels, rule: str, target: float, threshold: float) -> bool:
    above = labels.score > threshold
    if rule == "fpr":
        among = ~labels.positive
        enough = _effective(labels.weight[among]) >= needed("fpr", target)
        return bool(enough and _share(labels.weight[among], above[among]) <= target)
    enough = _effective(labels.weight[above]) >= needed("precision", target)
    return bool(enough and _share(labels.weight[above], labels.positive[above]) >= target)


def _refusal(labels: Labels, rule: Literal["fpr", "precision"], target: float) -> AssayError:
    want = needed(rule, target)
    if rule == "fpr":
        have = _effective(labels.weight[~labels.positive])
        what = f"an fpr of {target:g} takes {want:,} negatives, the labels have {have:,.0f} (weighted)"
    else:
        above = [_effective(labels.weight[labels.score > t]) for t in np.unique(labels.score)]
        have = max(above, default=0.0)
        what = f"a precision of {target:g} takes {want:,} documents above the threshold"
        if have >= want:
            what = f"no threshold has a precision of {target:g} by these labels"
        else:
            what += f", the labels have {have:,.0f} (weighted)"
    return AssayError(what, hint="draw a larger --sample and label it, or ask for less")


def _share(weight: NDArray[np.float64], hit: NDArray[np.bool_]) -> float:
    return float(weight[hit].sum() / weight.sum()) if weight.size else 0.0


def _effective(weight: NDArray[np.float64]) -> float:
    return float(weight.sum() ** 2 / (weight**2).sum()) if weight.size else 0.0


def _figure(weight: NDArray[np.float64], hit: NDArray[np.bool_]) -> Figure:
    from scipy.stats import beta

    share, n = _share(weight, hit), _effective(weight)
    low = float(beta.ppf(_ALPHA, share * n, n - share * n + 1)) if share > 0 else 0.0
    high = float(beta.ppf(1 - _ALPHA, share * n + 1, n - share * n)) if share < 1 else 1.0
    return Figure(value=share, low=min(low, share), high=max(high, share))
