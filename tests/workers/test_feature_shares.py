"""How many documents store a feature: exact, bounded where the floor hides it, honest where shards were left out."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from assay.schemas.store import ShardEntry, StoredObject
from assay.workers.curate_job import TaggedShard
from assay.workers.feature_shares import FeatureShares, count_features, layer_batch, sampled_shards
from assay.workers.feature_table import ParquetBuffer
from assay.workers.storage.objects import ObjectStore

from .feature_tables import Doc, table

D_SAE = 64
LAYERS = (2, 4)


def entry(name: str, rows: int, data: bytes = b"") -> ShardEntry:
    key = StoredObject(key=f"{name}.parquet", size=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=rows)
    return ShardEntry(shard=name, rows_in=rows, rows_kept=rows, objects={"features": key})


def counts(folder: Path, *shards: Sequence[Doc], copies: Sequence[np.ndarray | None] = ()) -> dict[int, FeatureShares]:
    """The counts of shards that are written to a folder, in row groups of three documents."""
    store = ObjectStore(str(folder))
    units = []
    for number, docs in enumerate(shards):
        buffer = ParquetBuffer(table(docs).schema)
        for first in range(0, len(docs), 3):
            buffer.write(table(docs[first : first + 3]))
        data = buffer.finish()
        (folder / f"s{number}.parquet").write_bytes(data)
        units.append((store, entry(f"s{number}", len(docs), data), copies[number] if copies else None))
    return count_features(units, LAYERS, D_SAE)


def add_shard(shares: FeatureShares, docs: Sequence[Doc]) -> None:
    shares.add(layer_batch(table(docs), 2))
    shares.end_shard()


def test_stored_features_are_counted_by_document_and_the_floor_tells_what_is_not_known(tmp_path: Path) -> None:
    docs = [
        Doc({(2, 5): (3.0, 1.0, 2), (2, 9): (1.0, 1.0, 1), (4, 5): (2.0, 1.0, 1)}, {2: 0.5}),
        Doc({(2, 5): (4.0, 1.0, 1)}),
        Doc({}, {2: 0.25}),
        Doc({(2, 9): (1.5, 1.0, 1)}, {2: 0.75, 4: 1.0}),
    ]
    found = counts(tmp_path, docs, [Doc({(2, 5): (3.5, 1.0, 1)})])
    two, four = found[2], found[4]
    assert two.documents == four.documents == 5
    assert (two.stored[5], two.stored[9], two.stored.sum()) == (3, 2, 5)
    assert (four.stored[5], four.stored.sum()) == (1, 1)
    # Documents 0, 2 and 3 had features cut at layer 2: where 5 or 9 isn't stored there, it may have fired.
    assert (two.unknown()[5], two.unknown()[9], two.unknown()[0]) == (2, 1, 3)
    assert two.unknown(watched=[5])[5] == 0
    assert (two.example[5], two.example[9], two.example[0]) == ("d1", "d0", "")


def test_documents_count_as_often_as_they_are_copied(tmp_path: Path) -> None:
    docs = [Doc({(2, n % 4): (1.0, 1.0, 1)}) for n in range(10)]
    times = np.array([{0: 1, 4: 3, 9: 1}.get(n, 0) for n in range(10)])
    found = counts(tmp_path, docs, copies=[times])[2]
    assert found.documents == 5
    assert found.stored[:4].tolist() == [4, 1, 0, 0]


def test_where_shards_differ_a_sample_of_them_is_worth_fewer_documents() -> None:
    def sample(alike: bool) -> FeatureShares:
        shares = FeatureShares(D_SAE)
        for shard in range(10):
            stored = (lambda n: n % 2 == 0) if alike else (lambda n, shard=shard: shard % 2 == 0)
            add_shard(shares, [Doc({(2, 1): (1.0, 1.0, 1)} if stored(n) else {}) for n in range(40)])
        return shares

    assert sample(alike=True).sample_size(100)[1] == 400
    worth = sample(alike=False).sample_size(100)[1]
    assert worth == pytest.approx(10 / (10 / 9 * 0.9))  # ten shards, of a hundred, are the sample
    assert sample(alike=False).sample_size(10)[1] == 400  # nothing was left out


def test_the_sample_is_by_hash_and_a_larger_one_holds_a_smaller() -> None:
    units = [TaggedShard(0, n, entry(f"shard-{n}", 10)) for n in range(50)]
    some, more = sampled_shards(units, 100), sampled_shards(units[::-1], 300)
    assert (len(some), len(more)) == (10, 30)
    assert more[:10] == some
    assert len(sampled_shards(units, 10**6)) == 50
    assert len(sampled_shards(units, 1)) == 2
    lost = units[0]._replace(entry=units[0].entry.model_copy(update={"unreadable": "cut short"}))
    assert lost not in sampled_shards([lost, *units[1:]], 10**6)
