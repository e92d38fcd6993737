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
_BLOCK = 2**17
"""dense values that exist at once: 1 MB, which a core's cache holds"""


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
        open_P = np.array([(f.layer, f.feature) not in watched for f in self.features])
        cuttable_PL = np.where(open_P[:, None], self._weights_PL, 0.0)
        self._down_up_P2L = np.hstack([np.minimum(cuttable_PL, 0), np.maximum(cuttable_PL, 0)])
        layer_P = np.array([f.layer for f in self.features])
        self._columns = {
            int(layer): slice(*np.searchsorted(layer_P, [layer, layer + 1])) for layer in np.unique(layer_P[open_P])
        }

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
        for layer in self._columns:
            cut_N1 |= (hits.floors[layer] > 0)[:, None]
        return fired_N1.astype(float), (fired_N1 | cut_N1).astype(float)

    def _sums(self, hits: Hits, values: Effects) -> _Bounds:
        """bias + weights @ values, a block of documents at a time, and how far what was cut can move it."""
        n, (parts, labels) = len(hits.tokens_seen), self._weights_PL.shape
        low_NL = np.empty((n, labels))
        high_NL = np.empty((n, labels)) if self._columns else low_NL
        step = max(1, _BLOCK // parts)
        ends = np.searchsorted(values.document, np.arange(0, n + step, step))
        for begin, first, last in zip(range(0, n, step), ends, ends[1:], strict=False):
            block = slice(begin, min(n, begin + step))
            row, part = values.document[first:last] - begin, values.part[first:last]
            values_BP = np.zeros((block.stop - begin, parts))
            values_BP[row, part] = values.effect[first:last]
            low_NL[block] = np.array(self.tagger.bias) + values_BP @ self._weights_PL
            if self._columns:
                moved_B2L = self._most(hits, block, row, part) @ self._down_up_P2L
                high_NL[block] = low_NL[block] + moved_B2L[:, labels:]
                low_NL[block] += moved_B2L[:, :labels]
        return low_NL, high_NL

    def _most(self, hits: Hits, block: slice, row: NDArray[np.intp], part: NDArray[np.intp]) -> NDArray[np.float64]:
        """(B, P) the largest value that each feature may have had where it was cut; 0 where it wasn't.

        The pooled value is at most the floor (max, mean), 1 (any) or every token seen (count).
        """
        most_BP = np.zeros((block.stop - block.start, len(self.features)))
        for layer, columns in self._columns.items():
            floor_B = hits.floors[layer][block].astype(np.float64)
            if self.tagger.pooling == "any":
                floor_B = np.sign(floor_B)
            elif self.tagger.pooling == "count":
                floor_B = np.sign(floor_B) * hits.tokens_seen[block]
            np.divide(floor_B[:, None], self._scale_P[columns], out=most_BP[:, columns])
        np.minimum(most_BP, 1.0, out=most_BP)
        most_BP[row, part] = 0
        return np.sqrt(most_BP, out=most_BP) if self.tagger.sqrt else most_BP

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
