"""What the workers of a search for copies share: the job, its units, and where their objects lie."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assay.schemas.corpus import ReadOptions
from assay.schemas.dedup import Dedup
from assay.schemas.store import ShardEntry, StoredObject
from assay.workers.dedup import exact, features, near
from assay.workers.dedup.contamination import Reference
from assay.workers.dedup.features import FeatureWeights
from assay.workers.dedup.matching import Judge
from assay.workers.dedup.records import ORDINAL_BITS
from assay.workers.feature_table import iter_parquet
from assay.workers.storage.objects import ObjectStore

WORK = "work"
SIGNED, MATCHED = f"{WORK}/signed", f"{WORK}/matched"
KINDS = ("exact", "near", "features")


class SearchUnit(NamedTuple):
    """One tagged shard of one source."""

    number: int
    """its place in the search: sources in order, shards in corpus order"""
    source: int
    entry: ShardEntry

    @property
    def id(self) -> str:
        return f"{self.source}-{self.entry.shard}"

    def document(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of this shard's documents, by their index in its tags table."""
        return (np.int64(self.number) << ORDINAL_BITS) | index.astype(np.int64)


Select = Callable[[SearchUnit], NDArray[np.bool_]]
"""which documents of a shard's tags table are compared"""


class DedupJob(NamedTuple):
    """Everything that a worker needs; picklable."""

    stores: tuple[str, ...]
    """one a source"""
    options: tuple[ReadOptions, ...]
    dedup: Dedup | None
    reference: Reference | None
    weights: FeatureWeights | None
    """of the features stage's layer, once it is known"""
    select: Select | None
    partitions: int
    output: str
    fingerprint: str

    @property
    def kinds(self) -> tuple[str, ...]:
        """The stages that compare documents with each other, in their order."""
        dedup = self.dedup
        return () if dedup is None else tuple(kind for kind in KINDS if getattr(dedup, kind))


def place(document: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The unit and the index in it of each document number."""
    return document >> ORDINAL_BITS, document & ((1 << ORDINAL_BITS) - 1)


class Rule(NamedTuple):
    """How one stage judges candidates by their sketches."""

    judge: Judge
    threshold: float
    one_a_text: bool


def stage_rule(dedup: Dedup, kind: str) -> Rule:
    """The rule of a stage; the features stage is judged again, by exact cosines, once candidates are few."""
    if kind == "exact":
        return Rule(exact.equal, 1.0, one_a_text=False)
    if kind == "near":
        assert dedup.near is not None  # noqa: S101 - kinds holds it only then
        return Rule(near.similarity, dedup.near.threshold, one_a_text=True)
    assert dedup.features is not None  # noqa: S101 - kinds holds it only then
    return Rule(features.projected_cosine, features.projected_threshold(dedup.features), one_a_text=True)


def read_object(store: ObjectStore, stored: StoredObject, columns: list[str] | None = None) -> pa.Table:
    """A shard's table, or some columns of it, verified."""
    data = pa.BufferReader(store.read_verified(stored))
    empty = pq.read_schema(data).empty_table()  # a shard of bad records only has no row group
    data.seek(0)
    return pa.concat_tables([empty.select(columns) if columns else empty, *iter_parquet(data, columns)])


def layer_names(layer: int) -> list[str]:
    """The columns of a features table that hold one layer."""
    return [f"l{layer}_{name}" for name in ("ids", "max", "mean", "count", "floor")]
