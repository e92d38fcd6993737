"""A tagger's features in documents, as pooled and scaled values: what its weights are multiplied with."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import special

from assay.schemas.tagger import Tagger
from assay.workers.feature_hits import HitFinder
from assay.workers.tag_rules import FeatureRule


class FeatureValues(NamedTuple):
    """Entry e: `document[e]` has feature `feature[e]`, an index in the tagger's list, at `value[e]` in (0, 1]."""

    document: NDArray[np.intp]
    feature: NDArray[np.intp]
    value: NDArray[np.float64]


class ValueReader:
    """Reads a tagger's features off features tables; what isn't stored has no entry. A dense probe has none at all."""

    def __init__(self, tagger: Tagger) -> None:
        keys = [(f.layer, f.feature) for f in tagger.features]
        pooled = [] if tagger.pooling == "any" else [(layer, tagger.pooling) for layer, _ in keys]
        self._finder = HitFinder(keys, pooled, floors=())
        self._rule = FeatureRule(tagger, self._finder.keys, frozenset(keys)) if keys else None
        self._place = np.array([keys.index((f.layer, f.feature)) for f in self._rule.features]) if self._rule else None

    @property
    def columns(self) -> list[str]:
        """The columns of a features table that are read."""
        return self._finder.columns

    def read(self, features: pa.Table) -> FeatureValues:
        """The values in a table's documents."""
        if self._rule is None or self._place is None:
            return FeatureValues(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))
        found = self._rule.values(self._finder.find(features))
        return FeatureValues(found.document, self._place[found.part], found.effect)


def weights(tagger: Tagger) -> NDArray[np.float64]:
    """What a value of 1 adds to each label's logit, beyond what it adds to all labels, (F, L); of any_of 1 each."""
    weights_FL = np.array([f.weights for f in tagger.features]).reshape(len(tagger.features), len(tagger.labels))
    if tagger.rule == "any_of":
        return np.ones_like(weights_FL)
    return weights_FL if tagger.kind == "score" else weights_FL - weights_FL.mean(1, keepdims=True)


def outputs(tagger: Tagger, values: FeatureValues, documents: int) -> NDArray[np.float64]:
    """The score, or the probability of each label, of N documents that have every feature stored, (N, L)."""
    fired_N = np.bincount(values.document, minlength=documents) > 0
    if tagger.rule == "any_of":
        return fired_N.astype(float)[:, None]
    weights_FL = np.array([f.weights for f in tagger.features])
    sums = [np.bincount(values.document, values.value * w_F[values.feature], documents) for w_F in weights_FL.T]
    logits_NL = np.array(tagger.bias) + np.stack(sums, 1)
    if tagger.kind == "label":
        return special.softmax(logits_NL, axis=1)
    return np.clip(logits_NL, 0, 1) if tagger.link == "identity" else special.expit(logits_NL)
