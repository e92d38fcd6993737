"""Sums of a tag and of its features by group, added shard by shard: memory follows groups, never documents."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.schemas.statistics import BINS_PER_OCTAVE, length_bin_start
from assay.schemas.tagger import Tagger
from assay.taggers.association import Moments
from assay.taggers.feature_values import FeatureValues

LENGTH = "length"
MAX_VALUES = 200
OTHERS = "(other values)"
NONE = "(none)"
_SCORE_BINS = 256
_OCTAVES = 32
_OCTAVE_STARTS = np.array([length_bin_start(BINS_PER_OCTAVE * octave) for octave in range(_OCTAVES - 1)])


class Chunk(NamedTuple):
    """N documents as an audit takes them."""

    tag: pa.Array
    """a score, or a label as text; null: undecided"""
    n_tokens: NDArray[np.int32]
    groups: Mapping[str, pa.Array]
    """dimension -> the value of each document, as text; null: it has none"""
    values: FeatureValues
    """of the tagger's features, by document and index in its list"""


class GroupTable(NamedTuple):
    """The sums of one dimension: G values, L outputs, F features."""

    values: tuple[str, ...]
    outputs: Moments
    """over decided documents: the score, or 0/1 for each label"""
    features: Moments
    """pooled, scaled values over decided documents; 0 where the feature isn't stored"""
    undecided_G: NDArray[np.int64]
    passing_G: NDArray[np.float64]
    """documents above the threshold"""


class AuditSums:
    """What an audit knows of the documents that it was given."""

    def __init__(self, tagger: Tagger, dimensions: Iterable[str]) -> None:
        """`dimensions` name what documents are grouped by; their length is added to them."""
        self.tagger = tagger
        self._labels = len(tagger.labels)
        self._features = len(tagger.features)
        self._groups: dict[str, dict[str, NDArray[np.float64]]] = {name: {} for name in [*dimensions, LENGTH]}
        rows = _SCORE_BINS if tagger.kind == "score" else self._labels
        self._lengths = np.zeros((rows, _OCTAVES * BINS_PER_OCTAVE), np.int64)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What documents are grouped by."""
        return tuple(self._groups)

    def add(self, chunk: Chunk) -> None:
        """Takes some documents."""
        decided_N = chunk.tag.is_valid().to_numpy(zero_copy_only=False)
        output_NL, bins_N = self._outputs(chunk.tag)
        length_N = np.searchsorted(_LENGTH_EDGES, chunk.n_tokens, side="right")
        np.add.at(self._lengths, (bins_N[decided_N], length_N[decided_N]), 1)
        octaves = pa.array(length_words(), pa.string()).take(pa.array(_octave(chunk.n_tokens)))
        for name, values in {**chunk.groups, LENGTH: octaves}.items():
            self._add_groups(name, values, decided_N, output_NL, chunk.values)

    def merge(self, other: "AuditSums") -> None:
        """Takes all that `other` was given."""
        self._lengths += other._lengths
        for name, groups in other._groups.items():
            for value, sums in groups.items():
                self._put(name, value, sums)

    def table(self, dimension: str) -> GroupTable:
        """The sums of a dimension: lengths in order, else the most documents first."""
        groups = self._groups[dimension]
        order = list(length_words()) if dimension == LENGTH else sorted(groups, key=lambda v: (-groups[v][0], v))
        values = tuple(value for value in order if value in groups)
        width = 3 + 2 * self._labels + 2 * self._features
        sums = np.stack([groups[v] for v in values]) if values else np.zeros((0, width))
        cuts = np.cumsum([3, self._labels, self._labels, self._features])
        counts, total, squares, value, squared = np.split(sums, cuts, axis=1)
        return GroupTable(
            values,
            Moments(counts[:, 0], total, squares),
            Moments(counts[:, 0], value, squared),
            counts[:, 1].astype(np.int64),
            counts[:, 2],
        )

    def length_counts(self, label: int) -> NDArray[np.int64]:
        """Decided documents by bin of the tag and of the length; of a label tagger, without and with that label."""
        if self.tagger.kind == "score":
            return self._lengths
        return np.stack([self._lengths.sum(0) - self._lengths[label], self._lengths[label]])

    def _outputs(self, tag: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        if self.tagger.kind == "score":
            score = pc.fill_null(tag.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
            return score[:, None], np.minimum(score * _SCORE_BINS, _SCORE_BINS - 1).astype(np.int64)
        known = pa.array(self.tagger.labels, pa.string())
        index = pc.fill_null(pc.index_in(tag, value_set=known), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.eye(self._labels)[index], index

    def _add_groups(
        self,
        name: str,
        values: pa.Array,
        decided_N: NDArray[np.bool_],
        output_NL: NDArray[np.float64],
        found: FeatureValues,
    ) -> None:
        encoded = pc.fill_null(values, NONE).dictionary_encode()
        code_N = encoded.indices.to_numpy(zero_copy_only=False)
        G, F = len(encoded.dictionary), self._features
        code_D, output_DL = code_N[decided_N], output_NL[decided_N]
        passed = code_D[output_DL[:, 0] > self.tagger.threshold]
        counts = [np.bincount(codes, minlength=G) for codes in (code_D, code_N[~decided_N], passed)]
        member_GD = np.arange(G)[:, None] == code_D
        kept = decided_N[found.document]
        cell = code_N[found.document[kept]] * F + found.feature[kept]
        by_feature = [np.bincount(cell, found.value[kept] ** power, minlength=G * F).reshape(G, F) for power in (1, 2)]
        sums = np.hstack([np.stack(counts, 1), member_GD @ output_DL, member_GD @ output_DL**2, *by_feature])
        for value, row in zip(encoded.dictionary.to_pylist(), sums, strict=True):
            self._put(name, value, row)

    def _put(self, name: str, value: str, sums: NDArray[np.float64]) -> None:
        groups = self._groups[name]
        if value not in groups and len(groups) >= MAX_VALUES:
            value = OTHERS
        groups[value] = groups[value] + sums if value in groups else sums


def length_words() -> Sequence[str]:
    """The names of the length groups, which double: "0 tokens", "1 token", "2 to 3 tokens", ..."""
    starts = _OCTAVE_STARTS.tolist()
    spans = [f"{a:,} to {b - 1:,} tokens" if b > a + 1 else "1 token" for a, b in pairwise(starts)]
    return ("0 tokens", *spans, f"{starts[-1]:,} tokens or more")


_LENGTH_EDGES = np.array([length_bin_start(i) for i in range((_OCTAVES - 1) * BINS_PER_OCTAVE)])


def _octave(n_tokens: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.searchsorted(_OCTAVE_STARTS, n_tokens, side="right")
