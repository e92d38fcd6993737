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
    """sum over counted tokens / counted tokens"""
    count: NDArray[np.int32]
    """counted tokens on which the feature is active"""
    floor: NDArray[np.float32]
    """one a document: a feature that isn't stored has a max at or below this (0: none was left out)"""


class DocumentPooler:
    """Accumulates max, sum and count by (document, feature) over batches; holds at most some 10^6 entries loose."""

    def __init__(self, d_sae: int) -> None:
        self.d_sae = d_sae
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._loose = 0

    def add(self, documents_T: Tensor, acts_TK: Tensor, ids_TK: Tensor) -> None:
        """Takes the counted tokens of a batch: documents_T names each token's document."""
        active = acts_TK > 0
        keys = (documents_T[:, None] * self.d_sae + ids_TK)[active]
        acts = acts_TK[active]
        self._push(keys, acts, acts.double(), torch.ones_like(keys))

    def _push(self, keys: Tensor, maxima: Tensor, sums: Tensor, counts: Tensor) -> None:
        self._parts.append(_reduce(keys, maxima, sums, counts))
        self._loose += len(self._parts[-1][0])
        if len(self._parts) > 1 and self._loose > _COMPACT_AT:
            self._compact()

    def _compact(self) -> None:
        columns = [torch.cat(column) for column in zip(*self._parts, strict=True)]
        self._parts = [_reduce(*columns)]
        # Counting from here on only what comes in keeps a huge document from being reduced again at each batch.
        self._loose = 0

    def finish(self, counted_N: NDArray[np.int64], top_m: int, watched: Sequence[int]) -> SparseFeatures:
        """The features of documents 0..N-1: the top_m largest by max (ties: lowest id) and every watched one."""
        if not self._parts:
            empty = np.zeros(len(counted_N), np.float32)
            none = np.zeros(0, np.int32)
            offsets = np.zeros(len(counted_N) + 1, np.int64)
            return SparseFeatures(offsets, none, none.astype(np.float32), none.astype(np.float32), none, empty)
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
