"""Pass 3: from all matches to the documents that go, each with the one that stays in its place."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from assay.workers.dedup.clusters import Cluster, choose
from assay.workers.dedup.features import cosines, feature_vectors
from assay.workers.dedup.job import DedupJob, SearchUnit, layer_names, place, read_object, stage_rule
from assay.workers.storage.objects import ObjectStore


class Gone(NamedTuple):
    """G documents that go, in corpus order."""

    document: NDArray[np.int64]
    kept: NDArray[np.int64]
    """the document that stays: never one of those that go"""
    similarity: NDArray[np.float64]
    """by the stage's own measure, with the document that stood for it there"""
    stage: NDArray[np.str_]


def resolve(job: DedupJob, units: Sequence[SearchUnit], found: Iterable[tuple[str, Cluster | None]]) -> Gone:
    """Who goes, stage after stage; a document that went in one stage is no longer there in the next.

    Where a copy's own copy goes in a later stage, the copy points to the one that stays in the end.
    """
    parts = [Gone(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, "U12"))]
    for kind, cluster in found:
        if cluster is None:
            continue
        gone = np.concatenate([part.document for part in parts])
        there = ~np.isin(cluster.document, gone)
        cluster = Cluster._make(column[there] for column in cluster)
        index, kept, similarity = _choose(job, units, kind, cluster)
        stage = np.full(len(index), kind, "U12")
        parts.append(Gone(cluster.document[index], cluster.document[kept], similarity, stage))
    joined = Gone._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(joined.document)
    joined = Gone._make(column[order] for column in joined)
    return joined._replace(kept=_staying(joined.document, joined.kept))


def _choose(
    job: DedupJob, units: Sequence[SearchUnit], kind: str, cluster: Cluster
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    assert job.dedup is not None  # noqa: S101 - without it nothing is found
    if kind == "features":
        assert job.dedup.features is not None  # noqa: S101 - it is a kind
        vectors = _vectors(job, units, cluster.document)
        threshold = job.dedup.features.cosine
        return choose(cluster.component, cluster.rank, lambda a, b: cosines(vectors, a, b), threshold)
    rule, sketch = stage_rule(job.dedup, kind), cluster.sketch
    return choose(cluster.component, cluster.rank, lambda a, b: rule.judge(sketch[a], sketch[b]), rule.threshold)


def _vectors(job: DedupJob, units: Sequence[SearchUnit], documents: NDArray[np.int64]) -> csr_array:
    """The feature vectors of some documents, in the order given (ascending); one shard at a time is read."""
    assert job.dedup is not None and job.dedup.features is not None  # noqa: S101
    layer = job.dedup.features.layer
    parts = []
    for unit, index in by_unit(units, documents).items():
        entry = units[unit].entry
        table = read_object(ObjectStore(job.stores[units[unit].source]), entry.objects["features"], layer_names(layer))
        parts.append(feature_vectors(table, layer)[index])
    width = max((part.shape[1] for part in parts), default=1)
    for part in parts:
        part.resize((part.shape[0], width))
    return csr_array(vstack(parts, format="csr")) if parts else csr_array((0, width))


def by_unit(units: Sequence[SearchUnit], documents: NDArray[np.int64]) -> Mapping[int, NDArray[np.int64]]:
    """Ascending documents as unit -> indices in its tags table."""
    unit, index = place(documents)
    edges = np.searchsorted(unit, np.arange(len(units) + 1))
    return {n: index[edges[n] : edges[n + 1]] for n in range(len(units)) if edges[n] < edges[n + 1]}


def _staying(document: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """`kept`, followed to the end where it goes itself; at most as many steps as there are stages."""
    kept = kept.copy()
    while len(document):
        at = np.minimum(np.searchsorted(document, kept), len(document) - 1)
        goes = document[at] == kept
        if not goes.any():
            break
        kept[goes] = kept[at[goes]]
    return kept
