"""A tagger's rule on stored features: what its outputs can be, given that what isn't stored is unknown and not 0."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.tagger import Tagger
from assay.workers.feature_hits import Hits, Key
from assay.workers.feature_table import residual_means

_Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]
_BLOCK = 2**20
"""values of what may have been cut that exist at once: 8 MB"""


class Effects(NamedTuple):
    """What parts (features, or layers of a dense probe) give to documents, by document and then part."""

    document: NDArray[np.intp]
    part: NDArray[np.intp]
    effect: NDArray[np.float64]


class Judged(NamedTuple):
    """Lowest and highest outputs (N, L) that a document's features allow, before the link: L labels, 1 of a score."""

    low_NL: NDArray[np.float64]
    high_NL: NDArray[np.float64]
    effects: Callable[[NDArray[np.intp]], Effects]
    """what each part adds to the output chosen for its document, given as one of L a document"""


class Rule(Protocol):
    """How a tagger judges the documents of a features table."""

    @property
    def names(self) -> Sequence[str]:
        """What its parts are called in reasons."""

    def judge(self, features: pa.Table, hits: Hits) -> Judged:
        """The outputs of the table's documents; `hits` are the table's."""


class FeatureRule:
    """The rules `linear` and `any_of`, over hits."""

    def __init__(self, tagger: Tagger, keys: Sequence[Key], watched: frozenset[Key]) -> None:
        """`keys` are those of the hits that come; they hold every feature of the tagger."""
        self.tagger = tagger
        self.features = tuple(sorted(tagger.features, key=lambda f: (f.layer, f.feature)))
        part_of = {(f.layer, f.feature): part for part, f in enumerate(self.features)}
        self._part_S = np.array([part_of.get(key, -1) for key in keys], np.intp)
        self._scale_P = np.array([f.scale for f in self.features])
        self._weights_PL = np.array([f.weights for f in self.features])
        self.names = [f"{f.layer}:{f.feature}" for f in self.features]
        self._open = [part for part, f in enumerate(self.features) if (f.layer, f.feature) not in watched]

    def values(self, hits: Hits) -> Effects:
        """The features that documents have, each with its pooled value scaled to [0, 1]."""
        part = self._part_S[hits.slot]
        mine = np.flatnonzero(part >= 0)
        part = part[mine]
        pooling = self.tagger.pooling
        pooled = np.ones(len(part)) if pooling == "any" else hits.pooled[pooling][mine]
        return Effects(hits.document[mine], part, self._shape(pooled, self._scale_P[part]))

    def judge(self, features: pa.Table, hits: Hits) -> Judged:
        """Sums of weighted values with their bounds, or 0 and 1 by the rule any_of.

        A feature of the tagger that a document hasn't stored was cut if its layer's floor is above 0, unless it is
        watched; its pooled value is then anything from 0 to what the floor allows.
        """
        values = self.values(hits)
        low_NL, high_NL = self._fired(hits, values) if self.tagger.rule == "any_of" else self._sums(hits, values)

        def effects(chosen_N: NDArray[np.intp]) -> Effects:
            weight = self._weights_PL[values.part, chosen_N[values.document]]
            return values._replace(effect=values.effect * weight)

        return Judged(low_NL, high_NL, effects)

    def _fired(self, hits: Hits, values: Effects) -> _Bounds:
        fired_N1 = (np.bincount(values.document, minlength=len(hits.tokens_seen)) > 0)[:, None]
        cut_N1 = np.zeros_like(fired_N1)
        for layer in {self.features[part].layer for part in self._open}:
            cut_N1 |= (hits.floors[layer] > 0)[:, None]
        return fired_N1.astype(float), (fired_N1 | cut_N1).astype(float)

    def _sums(self, hits: Hits, values: Effects) -> _Bounds:
        sums_NL = np.empty((len(hits.tokens_seen), self._weights_PL.shape[1]))
        for label, weights_P in enumerate(self._weights_PL.T):
            weighted = values.effect * weights_P[values.part]
            sums_NL[:, label] = np.bincount(values.document, weighted, minlength=len(sums_NL))
        logits_NL = np.array(self.tagger.bias) + sums_NL
        return self._bounds(hits, values, logits_NL) if self._open else (logits_NL, logits_NL)

    def _bounds(self, hits: Hits, values: Effects, logits_NL: NDArray[np.float64]) -> _Bounds:
        low_NL, high_NL = logits_NL.copy(), logits_NL.copy()
        layers = sorted({self.features[part].layer for part in self._open})
        rows = np.flatnonzero(np.any([hits.floors[layer] > 0 for layer in layers], axis=0))
        layer_U = np.searchsorted(layers, [self.features[part].layer for part in self._open])
        scale_U, weights_UL = self._scale_P[self._open], self._weights_PL[self._open]
        down_up = np.hstack([np.minimum(weights_UL, 0), np.maximum(weights_UL, 0)])
        column_P = np.full(len(self.features), -1)
        column_P[self._open] = np.arange(len(self._open))
        step = max(1, _BLOCK // len(self._open))
        for block in (rows[start : start + step] for start in range(0, len(rows), step)):
            floor_BU = np.stack([hits.floors[layer][block] for layer in layers], axis=1)[:, layer_U].astype(float)
            if self.tagger.pooling == "any":
                most_BU = np.broadcast_to(1.0, floor_BU.shape)
            elif self.tagger.pooling == "count":
                most_BU = np.broadcast_to(hits.tokens_seen[block, None].astype(float), floor_BU.shape)
            else:
                most_BU = floor_BU
            most_BU = self._shape(most_BU, scale_U) * (floor_BU > 0)
            start, stop = np.searchsorted(values.document, [block[0], block[-1] + 1])
            column = column_P[values.part[start:stop]]
            row = np.searchsorted(block, values.document[start:stop])
            stored = (column >= 0) & (block[np.minimum(row, len(block) - 1)] == values.document[start:stop])
            most_BU[row[stored], column[stored]] = 0
            moved = most_BU @ down_up
            low_NL[block] += moved[:, : weights_UL.shape[1]]
            high_NL[block] += moved[:, weights_UL.shape[1] :]
        return low_NL, high_NL

    def _shape(self, pooled: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
        value = np.minimum(pooled / scale, 1.0)
        return np.sqrt(value) if self.tagger.sqrt else value


class DenseRule:
    """The rule `dense`: bias + weights @ mean residual, summed over layers. It is never in doubt."""

    def __init__(self, tagger: Tagger) -> None:
        self.tagger = tagger
        self.layers = tuple(dense.layer for dense in tagger.dense)
        self.names = [f"{layer}:residual" for layer in self.layers]
        self._weights_LD = [np.array(dense.weights) for dense in tagger.dense]

    def judge(self, features: pa.Table, hits: Hits) -> Judged:
        """Exact outputs; the parts are layers."""
        parts = [
            residual_means(features, layer).astype(np.float64) @ weights_LD.T
            for layer, weights_LD in zip(self.layers, self._weights_LD, strict=True)
        ]
        sums_NPL = np.stack(parts, axis=1)
        logits_NL = np.array(self.tagger.bias) + sums_NPL.sum(1)

        def effects(chosen_N: NDArray[np.intp]) -> Effects:
            n, layers, _ = sums_NPL.shape
            effect = sums_NPL[np.arange(n), :, chosen_N].ravel()
            return Effects(np.repeat(np.arange(n), layers), np.tile(np.arange(layers), n), effect)

        return Judged(logits_NL, logits_NL, effects)
