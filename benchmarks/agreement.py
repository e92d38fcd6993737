"""Whether two ways to compute features gave the same ones."""

from typing import NamedTuple

import numpy as np

from benchmarks.rivals.base import Features, Pooled

_STORED_ROUNDING = 2**-11
"""the runtime stores 11 significant bits; a rival doesn't round"""


class Tolerance(NamedTuple):
    """How far two right answers may be apart."""

    entries: float
    """share of (document, feature) entries whose presence or count may differ: near-ties at the k-th place"""
    relative: float
    """of a max or a mean, beside the rounding of stored values"""
    quantile: float
    """of all entries that must be within `relative`"""


TOLERANCE = {
    "float32": Tolerance(entries=2e-3, relative=1e-4, quantile=1.0),
    # Batches of other shapes round the residual otherwise, and each layer adds to that.
    "bfloat16": Tolerance(entries=0.25, relative=5e-2, quantile=0.99),
}


class Agreement(NamedTuple):
    """How a rival's features differ from the reference's."""

    entries: int
    """(document, feature) pairs of the reference"""
    differing: float
    """pairs that only one of them has, or with another count, as a share of `entries`"""
    worst_max: float
    """largest relative difference of a max, among the pairs with equal counts (the tolerance's quantile of them)"""
    worst_mean: float

    def problem(self, allowed: Tolerance) -> str | None:
        """Why the two must not be compared in speed, or None."""
        if self.differing > allowed.entries:
            return f"{self.differing:.2%} of the features differ"
        for name, worst in (("max", self.worst_max), ("mean", self.worst_mean)):
            if worst > allowed.relative + _STORED_ROUNDING:
                return f"a {name} differs by {worst:.1e}"
        return None


def compare(reference: Features, other: Features, allowed: Tolerance) -> Agreement:
    """The differences over all layers and documents."""
    if list(reference) != list(other):
        return Agreement(entries=0, differing=1.0, worst_max=0.0, worst_mean=0.0)
    entries, differing = 0, 0
    max_errors, mean_errors = [], []
    for layer, wanted in reference.items():
        got = other[layer]
        keys, got_keys = _keys(wanted), _keys(got)
        shared, at, got_at = np.intersect1d(keys, got_keys, assume_unique=True, return_indices=True)
        same = wanted.count[at] == got.count[got_at]
        entries += len(keys)
        differing += len(keys) + len(got_keys) - 2 * len(shared) + int(np.count_nonzero(~same))
        at, got_at = at[same], got_at[same]
        max_errors.append(_relative(wanted.max[at], got.max[got_at]))
        mean_errors.append(_relative(wanted.mean[at], got.mean[got_at]))
    worst_max, worst_mean = (
        float(np.quantile(errors, allowed.quantile)) if len(errors) else 0.0
        for errors in map(np.concatenate, (max_errors, mean_errors))
    )
    return Agreement(entries, differing / max(1, entries), worst_max, worst_mean)


def _keys(pooled: Pooled) -> np.ndarray:
    documents = np.repeat(np.arange(len(pooled.offsets) - 1), np.diff(pooled.offsets))
    return documents * 2**32 + pooled.ids


def _relative(wanted: np.ndarray, got: np.ndarray) -> np.ndarray:
    return np.abs(got - wanted) / np.maximum(np.abs(wanted), 1e-6)
