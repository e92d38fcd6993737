"""Documents whose features point in one direction are found, by vectors that are planted here."""

import numpy as np
import pyarrow as pa
import pytest

from assay.schemas.dedup import FeatureCopies
from assay.workers.dedup.features import (
    cosines,
    feature_bands,
    feature_keys,
    feature_vectors,
    feature_weights,
    projected_cosine,
    projected_threshold,
    projections,
)
from assay.workers.feature_table import features_schema

Vector = dict[int, float]


def features_of(vectors: list[Vector], layer: int = 3) -> pa.Table:
    """A features table of these documents."""
    columns = {
        "row": range(len(vectors)),
        "doc_id": [f"d{n}" for n in range(len(vectors))],
        "n_bytes": [1] * len(vectors),
        "n_tokens": [1] * len(vectors),
        "tokens_seen": [1] * len(vectors),
        f"l{layer}_ids": [sorted(v) for v in vectors],
        **{f"l{layer}_{name}": [[v[k] for k in sorted(v)] for v in vectors] for name in ("max", "mean")},
        f"l{layer}_count": [[1] * len(v) for v in vectors],
        f"l{layer}_floor": [0.0] * len(vectors),
        f"l{layer}_outliers": [0] * len(vectors),
    }
    return pa.table({name: list(values) for name, values in columns.items()}, schema=features_schema([layer]))


def vectors(count: int, seed: int = 0, size: int = 120, width: int = 4000) -> list[Vector]:
    draw = np.random.default_rng(seed)
    return [
        dict(zip(draw.choice(width, size, replace=False).tolist(), draw.lognormal(0, 0.6, size).tolist(), strict=True))
        for _ in range(count)
    ]


def retold(vector: Vector, share: float, seed: int) -> Vector:
    """The vector with this share of its features replaced and the others shaken a little."""
    draw = np.random.default_rng(seed)
    gone = set(draw.choice(sorted(vector), round(share * len(vector)), replace=False).tolist())
    kept = {k: v * float(draw.uniform(0.95, 1.05)) for k, v in vector.items() if k not in gone}
    return {**kept, **{4000 + n: float(draw.lognormal(0, 0.6)) for n in range(len(gone))}}


def test_cosines_are_those_of_the_dense_vectors() -> None:
    table = features_of([{1: 3.0, 5: 4.0}, {1: 4.0, 5: 3.0}, {2: 1.0}, {}])
    found = cosines(feature_vectors(table, 3), np.array([0, 0, 0, 2]), np.array([0, 1, 2, 3]))
    assert found.tolist() == pytest.approx([1.0, 0.96, 0.0, 0.0])


def test_projections_keep_cosines_within_their_error() -> None:
    originals = vectors(200)
    copies = [retold(v, n / 400, n) for n, v in enumerate(originals)]
    sides = [projections(feature_vectors(features_of(part), 3)) for part in (originals, copies)]
    both = feature_vectors(features_of(originals + copies), 3)
    exact = cosines(both, np.arange(200), np.arange(200, 400))
    errors = projected_cosine(*sides) - exact
    assert exact.min() < 0.7 < 0.99 < exact.max()
    assert abs(errors.mean()) < 0.01
    assert (np.abs(errors) < 3.5 * (1 - exact**2) / 128**0.5 + 0.01).all()


def test_keys_find_retold_documents_and_few_others() -> None:
    spec = FeatureCopies(layer=3, cosine=0.95)
    originals = vectors(300)
    copies = [retold(v, 0.05, n) for n, v in enumerate(originals)]
    weights = feature_weights([features_of(originals), features_of(copies)], 3)
    keys, others = (
        feature_keys(feature_vectors(features_of(part), 3), weights, feature_bands(spec))
        for part in (originals, copies)
    )
    assert (keys == others).any(1).mean() > 0.9
    assert (keys == others[np.roll(np.arange(300), 1)]).any(1).mean() < 0.01


def test_no_documents_have_no_keys() -> None:
    empty, weights = feature_vectors(features_of([]), 3), feature_weights([features_of([])], 3)
    assert feature_keys(empty, weights, feature_bands(FeatureCopies(layer=3))).shape == (0, 32)
    assert projections(empty).shape == (0, 128)


def test_a_feature_that_every_document_has_weighs_nothing_and_a_new_one_weighs_most() -> None:
    weights = feature_weights([features_of([{1: 1.0, 2: 1.0}, {1: 1.0}, {1: 1.0}])], 3)
    common, rare, unseen = weights.of(np.array([1, 2, 99999], np.int32))
    assert common == 0
    assert 0 < rare < unseen


def test_the_projected_threshold_lets_nearly_all_true_pairs_through() -> None:
    assert 0.90 < projected_threshold(FeatureCopies(layer=3, cosine=0.95)) < 0.95
    assert projected_threshold(FeatureCopies(layer=3, cosine=1.0)) == 1.0
