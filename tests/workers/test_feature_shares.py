"""How many documents store a feature: exact, bounded where the floor hides it, honest where shards were left out."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from assay.schemas.drift import LayerDrift
from assay.schemas.store import ShardEntry, StoredObject
from assay.workers.curate_job import TaggedShard
from assay.workers.feature_drift import Readers, layer_drift, overlap
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


def simulated(seed: int, documents: int, rates: np.ndarray, shards: int = 1) -> dict[int, FeatureShares]:
    """Counts of layer 2 of documents that store each feature at its own rate, in shards of equal size."""
    draw, shares = np.random.default_rng(seed), FeatureShares(D_SAE)
    for _ in range(shards):
        document, ids = np.nonzero(draw.random((documents // shards, D_SAE)) < rates)
        docs = [Doc({(2, int(f)): (1.0, 1.0, 1) for f in ids[document == d]}) for d in range(documents // shards)]
        add_shard(shares, docs)
    return {2: shares}


def add_shard(shares: FeatureShares, docs: Sequence[Doc]) -> None:
    shares.add(layer_batch(table(docs), 2))
    shares.end_shard()


def compared(a: dict[int, FeatureShares], b: dict[int, FeatureShares], **more: object) -> LayerDrift:
    given: dict = {"shards_in_all": (1, 1), "watched": {}, "readers": {}, "top": 10, **more}
    return layer_drift(a, b, **given)[0]


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


def test_features_of_two_halves_are_rarely_said_to_have_moved() -> None:
    rates = np.linspace(0.02, 0.6, D_SAE)
    runs = [compared(simulated(2 * s, 300, rates), simulated(2 * s + 1, 200, rates)) for s in range(30)]
    assert sum(bool(run.changes) for run in runs) <= 4  # 1.5 expected
    assert all(run.tested > 50 for run in runs)


def test_features_that_rose_or_fell_are_found_with_what_taggers_say_of_them() -> None:
    rates = np.full(D_SAE, 0.2)
    moved = rates.copy()
    moved[7], moved[11] = 0.5, 0.02
    readers = {(2, 7): Readers(("quality",), ("spam",))}
    found = compared(simulated(0, 400, rates), simulated(1, 400, moved), readers=readers)
    assert (found.rose, found.fell) == (1, 1)
    rose, fell = found.changes
    assert (rose.feature, fell.feature) == (7, 11)
    assert 0.1 < rose.low < rose.difference < rose.high < 0.4
    assert -0.3 < fell.low < fell.difference < fell.high < -0.1
    assert (rose.read_by, rose.tokens, fell.read_by) == (("quality",), ("spam",), ())
    assert rose.certain and fell.certain  # no document had features cut


def test_a_difference_that_the_floor_could_undo_is_said_to_be_uncertain() -> None:
    def side(stored: int, floor: float) -> dict[int, FeatureShares]:
        shares = FeatureShares(D_SAE)
        docs = [Doc({(2, 1): (1.0, 1.0, 1)} if n < stored else {}, {2: floor}) for n in range(200)]
        add_shard(shares, docs)
        return {2: shares}

    (cut,) = compared(side(20, 0.5), side(120, 0.5)).changes
    assert cut.below_floor == (0.9, 0.4)
    assert not cut.certain
    (whole,) = compared(side(20, 0.0), side(120, 0.0)).changes
    assert whole.below_floor == (0, 0) and whole.certain
    (watched,) = compared(side(20, 0.5), side(120, 0.5), watched={2: {1}}).changes
    assert watched.certain


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


def test_overlap_is_that_of_the_sets_and_chance_is_what_dealing_out_gives() -> None:
    draw = np.random.default_rng(0)
    rates = np.full(D_SAE, 0.004)
    a, b = simulated(0, 600, rates)[2], simulated(1, 100, rates)[2]
    found = overlap(a, b)
    of_a, of_b = set(np.flatnonzero(a.stored)), set(np.flatnonzero(b.stored))
    assert found.features == (len(of_a), len(of_b))
    assert found.a_in_b == len(of_a & of_b) / len(of_a)
    assert found.b_in_a == found.smaller == len(of_a & of_b) / len(of_b)
    dealt = []
    for _ in range(400):
        in_a = draw.hypergeometric(600, 100, a.stored + b.stored)
        one, other = in_a > 0, in_a < a.stored + b.stored
        both = (one & other).sum()
        dealt.append((both / one.sum(), both / other.sum()))
    assert found.by_chance[:2] == pytest.approx(np.mean(dealt, 0), abs=0.02)
    assert found.a_in_b == pytest.approx(found.by_chance[0], abs=0.15)
