"""From token activations to sparse document features: max, mean and count, pruned without being silently wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_COMPACT_AT = 4_000_000
_KEPT_BITS = 11


@dataclass(frozen=True, slots=True)
class SparseFeatures:
    """Features of N documents at one layer, as CSR: document i owns entries offsets[i]:offsets[i+1], ids ascending."""

    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    max: NDArray[np.float32]
    mean: NDArray[np.float32]
    """sum over counted tokens / counted tokens (the document's tokens_seen less its outliers)"""
    count: NDArray[np.int32]
    """counted tokens on which the feature is active"""
    floor: NDArray[np.float32]
    """one a document: a feature that isn't stored has a max at or below this (0: none was left out)"""
    outliers: NDArray[np.int32]
    """one a document: tokens left out at this layer for the norm of their residual"""


class DocumentPooler:
    """Accumulates max, sum and count by (document, feature) over batches; holds at most some 10^6 entries loose."""

    def __init__(self, d_sae: int) -> None:
        self.d_sae = d_sae
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._loose = 0

    def add(self, document_A: Tensor, ids_A: Tensor, acts_A: Tensor) -> None:
        """Takes active features of counted tokens, with the document of each."""
        keys = document_A * self.d_sae + ids_A
        self._parts.append(_reduce(keys, acts_A, acts_A.double(), torch.ones_like(keys)))
        self._loose += len(self._parts[-1][0])
        if len(self._parts) > 1 and self._loose > _COMPACT_AT:
            self._compact()

    def _compact(self) -> None:
        columns = [torch.cat(column) for column in zip(*self._parts, strict=True)]
        self._parts = [_reduce(*columns)]
        # Counting from here on only what comes in keeps a huge document from being reduced again at each batch.
        self._loose = 0

    def finish(
        self, seen_N: NDArray[np.int64], outliers_N: NDArray[np.int64], top_m: int, watched: Sequence[int]
    ) -> SparseFeatures:
        """The features of documents 0..N-1: the top_m largest by max (ties: lowest id) and every watched one.

        `seen_N` counts each document's tokens, of which `outliers_N` were left out.
        """
        counted_N = seen_N - outliers_N
        if not self._parts:
            self.add(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0))
        self._compact()
        keys, maxima, sums, counts = (column.cpu().numpy() for column in self._parts[0])
        documents, ids = np.divmod(keys, self.d_sae)
        order = np.lexsort((ids, -maxima, documents))
        first = np.searchsorted(documents, np.arange(len(counted_N)))
        rank = np.empty(len(keys), np.int64)
        rank[order] = np.arange(len(keys)) - first[documents[order]]
        kept = (rank < top_m) | np.isin(ids, np.asarray(watched, np.int64))
        floor = np.zeros(len(counted_N), np.float32)
        np.maximum.at(floor, documents[~kept], round_significand(maxima[~kept]))
        means = sums / np.maximum(counted_N[documents], 1)
        return SparseFeatures(
            offsets=np.searchsorted(documents[kept], np.arange(len(counted_N) + 1)),
            ids=ids[kept].astype(np.int32),
            max=round_significand(maxima[kept]),
            mean=round_significand(means[kept]),
            count=counts[kept].astype(np.int32),
            floor=floor,
            outliers=outliers_N.astype(np.int32),
        )


def _reduce(keys: Tensor, maxima: Tensor, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Entries of equal key made one, keys ascending. Sorting first makes the order of the sums fixed."""
    keys, order = torch.sort(keys, stable=True)
    unique, lengths = torch.unique_consecutive(keys, return_counts=True)
    if len(unique) == 0:
        return keys, maxima, sums, counts
    return (
        unique,
        torch.segment_reduce(maxima[order], "max", lengths=lengths),
        torch.segment_reduce(sums[order], "sum", lengths=lengths),
        torch.segment_reduce(counts[order].double(), "sum", lengths=lengths).long(),
    )


def round_significand(values: NDArray[np.floating], bits: int = _KEPT_BITS) -> NDArray[np.float32]:
    """Rounded to `bits` significant bits, as fp16 has, with the exponent range of fp32: half the bytes once packed."""
    fraction, exponent = np.frexp(np.asarray(values, np.float32))
    return np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits).astype(np.float32)
