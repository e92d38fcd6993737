"""Chosen features of all documents in memory, each pooling scaled as a tagger scales it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from assay.schemas.tagger import Pooling
from assay.taggers.problem import Rows, rounded
from assay.taggers.screening import load
from assay.taggers.stored import Stored

POOLINGS: tuple[Pooling, ...] = ("any", "max", "mean", "count")
_CUT = 0.95


class Matrix(NamedTuple):
    """The columns that were loaded, ascending, and their pooled values (N, columns)."""

    columns: NDArray[np.int64]
    pooled: dict[str, sparse.csr_matrix]

    @classmethod
    def load(cls, stored: Stored, columns: NDArray[np.int64], poolings: tuple[Pooling, ...] = POOLINGS) -> "Matrix":
        """These columns of every document, in one pass."""
        columns = np.unique(columns)
        stored_ones = tuple(p for p in poolings if p != "any") or ("max",)
        pooled = load(stored, columns, stored_ones)
        if "any" in poolings:
            ones = pooled[stored_ones[0]].copy()
            ones.data = np.ones_like(ones.data)
            pooled["any"] = ones
        return cls(columns, pooled)

    def shaped(self, pooling: Pooling, columns: NDArray[np.int64], discovery: Rows) -> "Shaped":
        """The columns' values over their scale, cut at 1, square-rooted unless they only say whether it fired.

        The scale is the 95th percentile of a feature's values on discovery documents: one burst decides nothing.
        """
        x = self.pooled[pooling][:, np.searchsorted(self.columns, columns)].copy()
        if pooling == "any":
            return Shaped(pooling, False, columns, np.ones(len(columns)), x)
        scale_F = np.array([rounded(s, 4) for s in _scales(x[discovery])])
        x.data = np.sqrt(np.minimum(x.data / scale_F[x.indices], 1.0)).astype(np.float32)
        return Shaped(pooling, True, columns, scale_F, x)


class Shaped(NamedTuple):
    """A tagger's view of its features: x is (N, F) in [0, 1]."""

    pooling: Pooling
    sqrt: bool
    columns: NDArray[np.int64]
    scale_F: NDArray[np.float64]
    x: sparse.csr_matrix

    def only(self, kept: NDArray[np.int64]) -> "Shaped":
        """Some of the columns, by their place."""
        return Shaped(self.pooling, self.sqrt, self.columns[kept], self.scale_F[kept], self.x[:, kept])


def _scales(pooled: sparse.csr_matrix) -> NDArray[np.float64]:
    columns = pooled.tocsc()
    scale_F = np.ones(columns.shape[1])
    for c in np.flatnonzero(np.diff(columns.indptr)):
        scale_F[c] = max(1e-6, float(np.quantile(columns.data[columns.indptr[c] : columns.indptr[c + 1]], _CUT)))
    return scale_F
