"""The same content in other words: documents whose stored SAE features point in one direction.

A document is the vector of its features' largest activations at one layer. What makes it comparable is what is unusual
in it, so candidates are found by MinHash over its 32 features of largest activation times log(N / documents with the
feature); they are judged by the cosine of the vectors, first on a random projection and in the end exactly.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from assay.schemas.dedup import FeatureCopies
from assay.workers.dedup.near import RECALL, Bands, band_keys, signatures
from assay.workers.dedup.words import Hashes, mix
from assay.workers.feature_table import layer_columns

_STRONGEST = 32
_WIDTH = 128
_MAX_BANDS, _MOST_BANDS = 32, 64
_STEP = 31.0
_SLACK = 2.5


class FeatureWeights(NamedTuple):
    """How unusual each feature is, from a sample of the corpus."""

    known: NDArray[np.float32]
    """log((N + 1) / (documents + 1)) of feature i at place i"""
    unseen: float
    """of every other feature"""

    def of(self, features: NDArray[np.int32]) -> NDArray[np.float64]:
        """The weight of each feature."""
        weights = np.full(len(features), self.unseen)
        inside = features < len(self.known)
        weights[inside] = self.known[features[inside]]
        return weights


def feature_weights(tables: Iterable[pa.Table], layer: int) -> FeatureWeights:
    """Counts the documents of each feature in some features tables (the column of ids is enough)."""
    counts, documents = np.zeros(0, np.int64), 0
    for table in tables:
        found = np.bincount(table[f"l{layer}_ids"].combine_chunks().flatten().to_numpy(), minlength=len(counts))
        found[: len(counts)] += counts
        counts, documents = found, documents + table.num_rows
    return FeatureWeights(
        np.log((documents + 1) / (counts + 1)).astype(np.float32), float(np.float32(math.log(documents + 1)))
    )


def feature_bands(spec: FeatureCopies) -> Bands:
    """Bands that find 95 % of the pairs at the threshold, or the nearest that 64 bands come to.

    The strongest unusual features of two documents of cosine c overlap with a Jaccard similarity of about
    2.5 c - 1.7, as measured on articles retold for three reading levels (docs/deduplication.md).
    """
    overlap = max(0.05, 2.5 * spec.cosine - 1.7)
    cuts = (Bands(_MAX_BANDS, rows) for rows in range(8, 2, -1))
    return next((cut for cut in cuts if cut.chance(overlap) >= RECALL), Bands(_MOST_BANDS, 3))


def feature_vectors(table: pa.Table, layer: int) -> csr_array:
    """The documents of a features table as rows of unit length [N, features]; a row without features stays zero."""
    entries = layer_columns(table, layer)
    values = entries.max.astype(np.float64)
    squares = np.bincount(entries.document, values**2, minlength=table.num_rows)
    values /= np.sqrt(np.where(squares > 0, squares, 1))[entries.document]
    width = int(entries.ids.max(initial=0)) + 1
    return csr_array((values, (entries.document, entries.ids)), shape=(table.num_rows, width))


def feature_keys(vectors: csr_array, weights: FeatureWeights, cut: Bands) -> Hashes:
    """One key a band [N, bands] for documents that have features each."""
    if not vectors.shape[0]:
        return np.zeros((0, cut.number), np.uint64)
    lengths = np.diff(vectors.indptr)
    document = np.repeat(np.arange(vectors.shape[0]), lengths)
    strength = vectors.data * weights.of(vectors.indices)
    order = np.lexsort((vectors.indices, -strength, document))
    place = np.arange(len(order)) - np.repeat(vectors.indptr[:-1], lengths)
    chosen = order[place < _STRONGEST]
    hashes = mix(vectors.indices[chosen].astype(np.uint64))
    edges = np.cumsum(np.minimum(lengths, _STRONGEST))
    return band_keys(signatures(np.split(hashes, edges[:-1]), cut.number * cut.rows), cut)


def projections(vectors: csr_array) -> NDArray[np.uint8]:
    """128 random projections [N, 128] of unit vectors, in steps of 1/31, as bytes: cosines survive to about 0.03.

    Each feature's signs are bits of its hashed id (Achlioptas 2003), so that no table of them has to be shared.
    """
    seen, column = np.unique(vectors.indices, return_inverse=True)
    halves = [mix(seen.astype(np.uint64) * np.uint64(2) + np.uint64(half)) for half in range(_WIDTH // 64)]
    bits = np.unpackbits(np.stack(halves, 1).astype("<u8").view(np.uint8), axis=1)
    signs = bits.astype(np.float64) * 2 - 1
    narrow = csr_array((vectors.data, column, vectors.indptr), shape=(vectors.shape[0], len(seen)))
    return np.clip(np.rint(narrow @ signs * _STEP), -127, 127).astype(np.int8).view(np.uint8)


def projected_cosine(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The cosine of two projections, row by row; an estimate of the vectors' cosine."""
    a, b = (side.view(np.int8).astype(np.float64) for side in (left, right))
    norms = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.clip((a * b).sum(1) / np.where(norms > 0, norms, 1), -1, 1)


def projected_threshold(spec: FeatureCopies) -> float:
    """The projected cosine that all but one in 100 pairs at the threshold reach; the error is (1 - c^2) / sqrt(128)."""
    return spec.cosine - _SLACK * (1 - spec.cosine**2) / math.sqrt(_WIDTH)


def cosines(vectors: csr_array, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """The exact cosines of rows `left` with rows `right` of unit vectors."""
    return np.asarray((vectors[left] * vectors[right]).sum(1)).ravel()
