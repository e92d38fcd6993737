"""Counts in how many documents each SAE feature is stored.

A feature that isn't stored may have fired below the document's floor. So a count is exact for "stored", that is among
the top_m or watched, and for "fired" it is a lower bound, with the documents in question counted beside it.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.store import ShardEntry
from assay.workers.curate_job import TaggedShard
from assay.workers.feature_table import iter_parquet
from assay.workers.storage.objects import ObjectStore

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Batch(NamedTuple):
    """One layer of one row group: entry e says that document `document[e]` stores feature `ids[e]`."""

    document: Ints
    ids: NDArray[np.int32]
    max: NDArray[np.float32]
    floor: NDArray[np.float32]
    """one a document"""
    doc_id: pa.ChunkedArray


class FeatureShares:
    """One layer's counts over the documents of many shards; memory follows d_sae, not documents."""

    def __init__(self, d_sae: int) -> None:
        self.documents = 0
        self.stored = np.zeros(d_sae, np.int64)
        """documents that store the feature"""
        self.example = np.full(d_sae, "", object)
        """id of the document in which the feature fires most"""
        self._largest = np.zeros(d_sae, np.float32)
        self._stored_of_cut = np.zeros(d_sae, np.int64)
        self._cut = 0
        self._shards: list[int] = []
        self._squares = np.zeros(d_sae)
        self._products = np.zeros(d_sae)
        self._in_shard = np.zeros(d_sae, np.int64)
        self._documents_in_shard = 0

    def add(self, batch: Batch) -> None:
        """Takes some documents of the shard that is read; `end_shard` follows its last ones."""
        cut = batch.floor > 0
        self._in_shard += np.bincount(batch.ids, minlength=len(self.stored))
        self._stored_of_cut += np.bincount(batch.ids[cut[batch.document]], minlength=len(self.stored))
        self._cut += int(cut.sum())
        self._documents_in_shard += len(batch.floor)
        self._find_examples(batch)

    def end_shard(self) -> None:
        """Closes a shard: shards are what a sample is drawn from."""
        self.documents += self._documents_in_shard
        self.stored += self._in_shard
        self._squares += self._in_shard.astype(float) ** 2
        self._products += self._in_shard * float(self._documents_in_shard)
        self._shards.append(self._documents_in_shard)
        self._in_shard = np.zeros(len(self.stored), np.int64)
        self._documents_in_shard = 0

    def _find_examples(self, batch: Batch) -> None:
        largest = self._largest.copy()
        np.maximum.at(largest, batch.ids, batch.max)
        higher = largest > self._largest
        entries = np.flatnonzero(higher[batch.ids] & (batch.max == largest[batch.ids]))
        features, first = np.unique(batch.ids[entries], return_index=True)
        if len(features):
            documents = pa.array(batch.document[entries[first]])
            self.example[features] = batch.doc_id.take(documents).to_pylist()
        self._largest = largest

    def unknown(self, watched: Collection[int] = ()) -> Ints:
        """Documents in which each feature is not stored and may have fired; none for watched features."""
        found = self._cut - self._stored_of_cut
        found[list(watched)] = 0
        return found

    def sample_size(self, shards_in_all: int) -> Floats:
        """For each feature the independent documents that the sample is worth.

        Documents of one shard are alike. Where shards were left out, the share's variance is that between shards
        (ratio estimator, Cochran 1977, 6.4, with the finite population's correction) on top of the documents' own,
        and never smaller than the documents' own.
        """
        n, m = float(self.documents), len(self._shards)
        size = np.full(len(self.stored), n)
        if m == shards_in_all or m < 2:
            return size
        share = self.stored / n
        own = share * (1 - share) / n
        sizes = np.array(self._shards, float)
        between = self._squares - 2 * share * self._products + share**2 * float((sizes**2).sum())
        between = np.maximum(between, 0) / n**2 * m / (m - 1) * (1 - m / shards_in_all)
        return np.divide(n * own, np.maximum(own, between), out=size, where=own > 0)


def sampled_shards(units: Iterable[TaggedShard], documents: int) -> list[TaggedShard]:
    """The shards with the smallest hashes of id that hold `documents` together; all, where there are no more.

    The same corpus gives the same shards, a larger sample holds a smaller one, and at least two are taken.
    """
    readable = [unit for unit in units if not unit.entry.unreadable and unit.entry.rows_kept]
    chosen: list[TaggedShard] = []
    held = 0
    for unit in sorted(readable, key=lambda u: (hashlib.sha256(u.entry.shard.encode()).digest(), u.source)):
        if held >= documents and len(chosen) > 1:
            break
        chosen.append(unit)
        held += unit.entry.rows_kept
    return chosen


def count_features(
    shards: Iterable[tuple[ObjectStore, ShardEntry, NDArray[np.int32] | None]], layers: Sequence[int], d_sae: int
) -> dict[int, FeatureShares]:
    """Each layer's counts over shards, one after the other.

    With each shard comes how often each of its documents counts; None: once each.
    """
    counts = {layer: FeatureShares(d_sae) for layer in layers}
    columns = [f"l{layer}_{name}" for layer in layers for name in ("ids", "max", "floor")]
    for store, entry, copies in shards:
        at = 0
        data = pa.BufferReader(store.read_verified(entry.objects["features"]))
        for group in iter_parquet(data, ["doc_id", *columns]):
            chosen = group
            if copies is not None:
                chosen = group.take(np.repeat(np.arange(group.num_rows), copies[at : at + group.num_rows]))
            at += group.num_rows
            for layer, shares in counts.items():
                shares.add(layer_batch(chosen, layer))
        for shares in counts.values():
            shares.end_shard()
    return counts


def layer_batch(table: pa.Table, layer: int) -> Batch:
    """One layer of some documents' features."""
    ids = table[f"l{layer}_ids"].combine_chunks()
    lengths = ids.value_lengths().to_numpy(zero_copy_only=False)
    return Batch(
        document=np.repeat(np.arange(table.num_rows), lengths),
        ids=ids.flatten().to_numpy(zero_copy_only=False),
        max=table[f"l{layer}_max"].combine_chunks().flatten().to_numpy(zero_copy_only=False),
        floor=table[f"l{layer}_floor"].to_numpy(),
        doc_id=table["doc_id"],
    )
