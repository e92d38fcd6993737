"""Small features tables and taggers, written as plain Python values."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from assay.sae_runtime.pooling import SparseFeatures
from assay.sae_runtime.runtime import ChunkFeatures
from assay.schemas.tagger import DenseLayer, FeatureWeight, Tagger
from assay.workers.feature_table import features_table

ENCODER = "0123456789abcdef"
Entry = tuple[float, float, int]
"""max, mean, count"""


class Doc(NamedTuple):
    """One document: (layer, feature) -> what is stored of it, and the floor of each layer."""

    features: Mapping[tuple[int, int], Entry] = {}
    floors: Mapping[int, float] = {}
    tokens: int = 10


def table(
    docs: Sequence[Doc], layers: Sequence[int] = (2, 4), residual_means: Mapping[int, np.ndarray] | None = None
) -> pa.Table:
    """The documents' features table."""
    found = {}
    for layer in layers:
        rows = [sorted((f, e) for (at, f), e in doc.features.items() if at == layer) for doc in docs]
        flat = [(f, *entry) for row in rows for f, entry in row]
        columns = list(zip(*flat, strict=True)) or [(), (), (), ()]
        found[layer] = SparseFeatures(
            offsets=np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64),
            ids=np.array(columns[0], np.int32),
            max=np.array(columns[1], np.float32),
            mean=np.array(columns[2], np.float32),
            count=np.array(columns[3], np.int32),
            floor=np.array([doc.floors.get(layer, 0.0) for doc in docs], np.float32),
            outliers=np.zeros(len(docs), np.int32),
        )
    tokens = np.array([doc.tokens for doc in docs], np.int32)
    n = len(docs)
    features = ChunkFeatures(tokens + 1, tokens, found, dict(residual_means) if residual_means else None)
    return features_table(range(n), [f"d{i}" for i in range(n)], [7 * i for i in range(n)], features)


def score(features: Mapping[tuple[int, int], tuple[float, float]], **changes: Any) -> Tagger:
    """A score tagger; `features` is (layer, feature) -> (scale, weight)."""
    weights = tuple(
        FeatureWeight(layer=layer, feature=f, scale=scale, weights=(weight,))
        for (layer, f), (scale, weight) in features.items()
    )
    fields: dict[str, Any] = {
        "name": "quality", "axis": "quality", "kind": "score", "description": "", "labels": ("good",),
        "encoder": ENCODER, "pooling": "max", "sqrt": False, "bias": (0.0,), "features": weights, "method": "by hand",
    }  # fmt: skip
    return Tagger(**(fields | changes))


def dense(weights: Mapping[int, Sequence[Sequence[float]]], **changes: Any) -> Tagger:
    """A dense probe; `weights` is layer -> for each label its weights on the mean residual."""
    layers = tuple(DenseLayer(layer=layer, weights=tuple(map(tuple, rows))) for layer, rows in weights.items())
    fields: dict[str, Any] = {"name": "probe", "rule": "dense", "features": (), "dense": layers}
    return score({(0, 0): (1, 0)}).model_copy(update=fields | changes)


def labeller(features: Mapping[tuple[int, int], tuple[float, tuple[float, ...]]], **changes: Any) -> Tagger:
    """A tagger of three labels; `features` is (layer, feature) -> (scale, weights)."""
    weights = tuple(
        FeatureWeight(layer=layer, feature=f, scale=scale, weights=weight)
        for (layer, f), (scale, weight) in features.items()
    )
    fields: dict[str, Any] = {
        "name": "domain", "axis": "domain", "kind": "label", "labels": ("code", "news", "shop"),
        "bias": (0.0, 0.0, 0.0), "features": weights,
    }  # fmt: skip
    return score({(0, 0): (1, 0)}).model_copy(update=fields | changes)
