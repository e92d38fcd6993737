"""Taggers applied to a features table: no model is needed, and what isn't stored is never taken for 0."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.schemas.base import fingerprint
from assay.schemas.errors import AssayError
from assay.schemas.statistics import TOKENS, TagColumn
from assay.schemas.tagger import FeatureWeight, Tagger
from assay.workers.feature_table import LayerColumns, layer_columns

DOCUMENT_COLUMNS = ("row", "doc_id", "n_bytes", "n_tokens", "tokens_seen")
_DECIDED_WITHIN = 0.02
_REASONS = 3


class TaggerSet:
    """A tuple of taggers for one encoder, applied together."""

    def __init__(self, taggers: Sequence[Tagger], encoder: str, watched: Iterable[tuple[int, int]] = ()) -> None:
        """AssayError if a tagger was fitted on another encoder than `encoder` (a fingerprint), or names clash."""
        for tagger in taggers:
            if tagger.encoder != encoder:
                raise AssayError(
                    f"tagger {tagger.name!r} was fitted on encoder {tagger.encoder}, these features are of {encoder}",
                    hint="a feature id means something else under another model, SAE or layer: fit it on this scope",
                )
        written = Counter([*DOCUMENT_COLUMNS, TOKENS, *(name for t in taggers for name in _column_names(t))])
        if clash := [name for name, times in written.items() if times > 1]:
            raise AssayError(
                f"a tagger would write a column that is there already: {', '.join(clash)}",
                hint="a label tagger also writes {name}_p, and every tagger {name}_why: rename one of them",
            )
        self.taggers = tuple(taggers)
        self._watched = frozenset(watched)

    def fingerprint(self, features: str) -> str:
        """Names the tags that these taggers give on features with that fingerprint."""
        return fingerprint([features, sorted(t.fingerprint for t in self.taggers)])

    @property
    def columns(self) -> tuple[TagColumn, ...]:
        """What the tags table holds, a tagger each."""
        return tuple(TagColumn(name=t.name, axis=t.axis, kind=t.kind) for t in self.taggers)

    def apply(self, features: pa.Table) -> pa.Table:
        """The tags of a features table's N documents, in its order.

        A tag is null (undecided) where features that the shard didn't keep could move a score by more than 0.02 or
        change a label.
        """
        layers = sorted({f.layer for t in self.taggers for f in t.features})
        for tagger in self.taggers:
            for layer in sorted({f.layer for f in tagger.features}):
                if f"l{layer}_ids" not in features.column_names:
                    raise AssayError(
                        f"tagger {tagger.name!r} reads layer {layer}, which these features don't have",
                        hint="its file was changed by hand: fit it again on this scope",
                    )
        by_layer = {layer: layer_columns(features, layer) for layer in layers}
        columns = {name: features[name].combine_chunks() for name in DOCUMENT_COLUMNS}
        tokens_seen = features["tokens_seen"].to_numpy()
        for tagger in self.taggers:
            columns.update(self._tag(tagger, by_layer, tokens_seen))
        return pa.table(columns)

    def contributions(self, features: pa.Table) -> dict[str, list["Contribution"]]:
        """Tagger -> what each stored feature adds to the tag of the table's one document, largest effect first."""
        by_layer = {f.layer: layer_columns(features, f.layer) for t in self.taggers for f in t.features}
        tags = self.apply(features)
        result = {}
        for tagger in self.taggers:
            label = tags[tagger.name][0].as_py()
            chosen = tagger.labels.index(label) if tagger.kind == "label" and label is not None else 0
            stored = _stored(tagger, by_layer, features["tokens_seen"].to_numpy())
            found = [
                Contribution(tagger.features[i], float(v), float(v * tagger.features[i].weights[chosen]))
                for i, v in zip(stored.feature.tolist(), stored.value.tolist(), strict=True)
            ]
            result[tagger.name] = sorted(found, key=lambda c: -abs(c.effect))
        return result

    def _tag(
        self, tagger: Tagger, by_layer: dict[int, LayerColumns], tokens_seen: NDArray[np.int32]
    ) -> dict[str, pa.Array]:
        n = len(tokens_seen)
        stored = _stored(tagger, by_layer, tokens_seen)
        weights_FL = np.array([f.weights for f in tagger.features])
        logits_NL = np.array(tagger.bias) + np.column_stack(
            [
                np.bincount(stored.document, stored.value * weights_FL[stored.feature, label], minlength=n)
                for label in range(weights_FL.shape[1])
            ]
        )
        low_NL, high_NL = self._bounds(tagger, by_layer, tokens_seen, stored, weights_FL, logits_NL)
        if tagger.kind == "score":
            chosen = np.zeros(n, np.int64)
            score = _sigmoid((low_NL[:, 0] + high_NL[:, 0]) / 2)
            decided = _sigmoid(high_NL[:, 0]) - _sigmoid(low_NL[:, 0]) <= _DECIDED_WITHIN
            columns = {tagger.name: pa.array(score.astype(np.float32), mask=~decided)}
        else:
            shares_NL = _softmax((low_NL + high_NL) / 2)
            chosen = shares_NL.argmax(1)
            rivals = high_NL.copy()
            rivals[np.arange(n), chosen] = -np.inf
            exact = (high_NL == low_NL).all(1)
            decided = exact | (low_NL[np.arange(n), chosen] > rivals.max(1))
            labels = pa.array(tagger.labels, pa.string()).take(pa.array(chosen, mask=~decided))
            share = shares_NL[np.arange(n), chosen].astype(np.float32)
            columns = {tagger.name: labels, f"{tagger.name}_p": pa.array(share, mask=~decided)}
        columns[f"{tagger.name}_why"] = _reasons(tagger, stored, weights_FL, chosen)
        return columns

    def _bounds(
        self,
        tagger: Tagger,
        by_layer: dict[int, LayerColumns],
        tokens_seen: NDArray[np.int32],
        stored: "_Stored",
        weights_FL: NDArray[np.float64],
        logits_NL: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest logits that the features below each document's floor allow."""
        low, high = logits_NL.copy(), logits_NL.copy()
        n = len(tokens_seen)
        for index, feature in enumerate(tagger.features):
            if (feature.layer, feature.feature) in self._watched:
                continue
            floor = by_layer[feature.layer].floor
            open_N = floor > 0
            open_N[stored.document[stored.feature == index]] = False
            if not open_N.any():
                continue
            largest = {"any": np.ones(n), "count": tokens_seen.astype(float)}.get(tagger.pooling, floor.astype(float))
            most_N = np.where(open_N, _shape(largest, feature.scale, tagger.sqrt), 0.0)
            low += most_N[:, None] * np.minimum(weights_FL[index], 0)
            high += most_N[:, None] * np.maximum(weights_FL[index], 0)
        return low, high


class Contribution(NamedTuple):
    """One feature's part in one document's tag."""

    feature: FeatureWeight
    value: float
    """pooled, scaled to [0, 1]"""
    effect: float
    """value times weight: what it adds to the logit"""


class _Stored(NamedTuple):
    """The tagger's features that documents have: entry e is feature `feature[e]` (an index in the tagger's list)."""

    document: NDArray[np.int64]
    feature: NDArray[np.int64]
    value: NDArray[np.float64]


def _stored(tagger: Tagger, by_layer: dict[int, LayerColumns], tokens_seen: NDArray[np.int32]) -> _Stored:
    parts = []
    for layer in sorted({f.layer for f in tagger.features}):
        columns = by_layer[layer]
        mine = [(index, f) for index, f in enumerate(tagger.features) if f.layer == layer]
        lookup = np.full(max(int(columns.ids.max(initial=0)), *(f.feature for _, f in mine)) + 1, -1)
        lookup[[f.feature for _, f in mine]] = [index for index, _ in mine]
        index_E = lookup[columns.ids]
        has = index_E >= 0
        index = index_E[has]
        scale = np.array([f.scale for f in tagger.features])[index]
        if tagger.pooling == "any":
            pooled = np.ones(len(index))
        else:
            pooled = getattr(columns, tagger.pooling)[has].astype(np.float64)
        parts.append((columns.document[has], index, _shape(pooled, scale, tagger.sqrt)))
    document, feature, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Stored(document, feature, value)


def _shape(pooled: NDArray, scale: NDArray | float, sqrt: bool) -> NDArray[np.float64]:
    value = np.minimum(pooled / scale, 1.0)
    return np.sqrt(value) if sqrt else value


def _reasons(tagger: Tagger, stored: _Stored, weights_FL: NDArray, chosen_N: NDArray[np.int64]) -> pa.Array:
    """For each document the features that weighed most for its tag: "layer:feature=weight ...", largest first."""
    n = len(chosen_N)
    effect = np.round(stored.value * weights_FL[stored.feature, chosen_N[stored.document]], 2) + 0.0
    order = np.lexsort((stored.feature, -np.abs(effect), stored.document))
    order = order[effect[order] != 0]
    document = stored.document[order]
    rank = np.arange(len(order)) - np.searchsorted(document, np.arange(n))[document]
    order = order[rank < _REASONS]
    names = pa.array([_name(f) for f in tagger.features], pa.string()).take(pa.array(stored.feature[order]))
    parts = pc.binary_join_element_wise(names, pc.cast(pa.array(effect[order]), pa.string()), "=")
    offsets = np.searchsorted(stored.document[order], np.arange(n + 1)).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), parts), " ")


def _column_names(tagger: Tagger) -> list[str]:
    share = [f"{tagger.name}_p"] if tagger.kind == "label" else []
    return [tagger.name, *share, f"{tagger.name}_why"]


def _name(feature: FeatureWeight) -> str:
    return f"{feature.layer}:{feature.feature}"


def _sigmoid(x: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-x))


def _softmax(x_NL: NDArray) -> NDArray:
    shifted = np.exp(x_NL - x_NL.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
