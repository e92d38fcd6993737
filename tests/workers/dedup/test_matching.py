"""Within a partition the same copies are found whatever the order, and a huge key takes time that grows evenly."""

import numpy as np
import pytest

from assay.workers.dedup.matching import match
from assay.workers.dedup.near import similarity
from assay.workers.dedup.records import Records, partition_of, partitioned, read_partition
from assay.workers.storage.objects import ObjectStore


def records(keys: list[int], documents: list[int], sketch: list[list[int]] | np.ndarray, **more: list) -> Records:
    count = len(keys)
    return Records(
        key=np.array(keys, np.uint64),
        document=np.array(documents, np.int64),
        rank=np.array(more.get("rank", [0.0] * count), np.float64),
        text=np.array(more.get("text", documents), np.uint64),
        sketch=np.array(sketch, np.uint8),
    )


ALIKE, OTHER = [1] * 64, [2] * 64


def test_documents_of_one_key_match_only_where_their_sketches_do() -> None:
    found = match(records([7, 7, 7, 9], [4, 1, 3, 2], [ALIKE, ALIKE, OTHER, ALIKE]), similarity, 0.8, one_a_text=True)
    assert found.document.tolist() == [1, 4]
    assert found.root.tolist() == [1, 1]


def test_documents_that_agree_in_different_keys_belong_together() -> None:
    found = match(records([5, 5, 6, 6, 8], [1, 2, 2, 3, 9], [ALIKE] * 5), similarity, 0.8, one_a_text=True)
    assert found.document.tolist() == [1, 2, 3]
    assert set(found.root.tolist()) == {1}


def test_of_one_text_only_the_copy_that_stays_is_compared() -> None:
    found = match(
        records([5, 5, 5], [1, 2, 3], [ALIKE] * 3, text=[8, 8, 9], rank=[0.0, 1.0, 0.0]),
        similarity,
        0.8,
        one_a_text=True,
    )
    assert found.document.tolist() == [2, 3]


def test_nothing_in_nothing_out() -> None:
    none = records([], [], np.zeros((0, 64)))
    assert len(match(none, similarity, 0.8, one_a_text=True).document) == 0
    alone = records([1, 2], [1, 2], [ALIKE] * 2)
    assert len(match(alone, similarity, 0.8, one_a_text=True).document) == 0


@pytest.mark.parametrize("size", [2, 31, 32, 33, 200])
def test_a_key_of_any_size_gives_all_its_groups_in_any_order_of_records(size: int) -> None:
    draw = np.random.default_rng(size)
    groups = draw.integers(0, 256, (5, 64))
    group = np.arange(size) % 5
    whole = records([3] * size, list(range(size)), groups[group])
    expected = match(whole, similarity, 0.9, one_a_text=True)
    for _ in range(3):
        again = match(whole.take(draw.permutation(size)), similarity, 0.9, one_a_text=True)
        assert all(np.array_equal(a, b) for a, b in zip(expected, again, strict=True))
    if size > 10:
        assert expected.document.tolist() == list(range(size))
        assert len(set(zip(group.tolist(), expected.root.tolist(), strict=True))) == 5


def test_a_key_of_very_many_unlike_documents_is_compared_with_its_best_ones_only() -> None:
    draw = np.random.default_rng(0)
    compared = 0

    def judge(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(left)
        return similarity(left, right)

    size = 5000
    match(records([3] * size, list(range(size)), draw.integers(0, 256, (size, 64))), judge, 0.8, one_a_text=True)
    assert compared <= 2 * 32 * size


def test_partitions_hold_every_record_once_by_the_range_of_its_key(tmp_path) -> None:  # type: ignore[no-untyped-def]
    store, draw = ObjectStore(str(tmp_path)), np.random.default_rng(0)
    whole = []
    stored = []
    for shard in range(3):
        keys = draw.integers(0, 2**64, 50 * shard, dtype=np.uint64)
        part = records(list(keys), list(range(len(keys))), draw.integers(0, 256, (len(keys), 8)))
        whole.append(part)
        data = partitioned(part, 7)
        stored.append(store.create_named("x", f"s{shard}", ".parquet", data, len(keys), "a"))
    found = [read_partition(store, stored, p) for p in range(7)]
    assert sum(len(part.key) for part in found) == 150
    for number, part in enumerate(found):
        assert (partition_of(part.key, 7) == number).all()
    every = {(int(k), tuple(s)) for part in found for k, s in zip(part.key, part.sketch.tolist(), strict=True)}
    assert every == {(int(k), tuple(s)) for part in whole for k, s in zip(part.key, part.sketch.tolist(), strict=True)}
    assert [partitioned(part, 7) for part in whole] == [
        partitioned(part.take(draw.permutation(len(part.key))), 7) for part in whole
    ]
