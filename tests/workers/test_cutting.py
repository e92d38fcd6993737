"""Cuts fill a quota exactly, in bounded memory, however keys and weights lie."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.workers import cutting
from assay.workers.cutting import Histogram, Ranked, find_cuts
from assay.workers.expressions import Interval
from assay.workers.ranking import hash_keys, score_keys


def cuts_of(shards: list[Ranked], extras: list[Fraction | None]) -> list[int | None]:
    histogram = Histogram(len(extras))
    for shard in shards:
        histogram.add(shard)

    def again() -> Iterator[Ranked]:
        return iter(shards)

    return find_cuts(histogram, extras, again)


def plain_cut(keys: list[int], weights: list[int], extra: Fraction | None) -> list[int]:
    """The documents that may be taken: groups of equal keys in rising order, while they fit."""
    taken: list[int] = []
    total = 0
    for key in sorted(set(keys)):
        group = [i for i, k in enumerate(keys) if k == key]
        total += sum(weights[i] for i in group)
        if extra is None or total > extra:
            break
        taken += group
    return sorted(taken)


few = st.sampled_from([0, 1, 2**16, 2**32, 2**32 + 1, 2**48, 2**48 + 5, 2**63, 2**64 - 1])
documents = st.lists(st.tuples(st.integers(0, 2), few | st.integers(0, 2**64 - 1), st.integers(0, 50)), max_size=40)


@settings(max_examples=150, deadline=None)
@given(documents, st.integers(0, 3), st.lists(st.none() | st.integers(0, 900), min_size=3, max_size=3), st.booleans())
def test_a_cut_takes_what_sorting_everything_would_take(
    found: list[tuple[int, int, int]], shards: int, extras: list[int | None], split: bool
) -> None:
    whole = Ranked(
        np.array([s for s, _, _ in found], np.int32),
        np.array([k for _, k, _ in found], np.uint64),
        np.array([w for _, _, w in found], np.int64),
    )
    parts = [Ranked(*(a[i :: shards + 1] for a in whole)) for i in range(shards + 1)]
    wanted = [None if e is None else Fraction(e, 1) + Fraction(1, 3) for e in extras]
    limit, cutting._COLLECT = cutting._COLLECT, 0 if split else cutting._COLLECT
    try:
        cuts = cuts_of(parts, wanted)
    finally:
        cutting._COLLECT = limit
    for stratum, cut in enumerate(cuts):
        rows = [i for i, (s, _, _) in enumerate(found) if s == stratum]
        expected = plain_cut([found[i][1] for i in rows], [found[i][2] for i in rows], wanted[stratum])
        taken = [n for n, i in enumerate(rows) if cut is not None and found[i][1] <= cut]
        if wanted[stratum] is not None and sum(found[i][2] for i in rows) <= wanted[stratum]:
            assert taken == list(range(len(rows)))
        else:
            assert sum(found[rows[n]][2] for n in taken) == sum(found[rows[n]][2] for n in expected)


def test_a_cut_is_found_where_a_million_keys_share_their_first_bits() -> None:
    draw = np.random.default_rng(0)
    keys = (np.uint64(7) << np.uint64(48)) | draw.integers(0, 2**40, 1_200_000).astype(np.uint64)
    shard = Ranked(np.zeros(len(keys), np.int32), keys, np.ones(len(keys), np.int64))
    (cut,) = cuts_of([shard], [Fraction(400_000)])
    assert cut is not None
    assert int((keys <= np.uint64(cut)).sum()) == 400_000


def test_keys_depend_on_id_and_seed_alone_and_are_even() -> None:
    ids = pa.chunked_array([[f"doc-{i}" for i in range(20_000)]])
    keys = hash_keys(ids, 0)
    assert (keys == hash_keys(pa.chunked_array([ids[:7].chunk(0), ids[7:].chunk(0)]), 0)).all()
    assert not (keys == hash_keys(ids, 1)).any()
    assert np.histogram(keys / 2**64, bins=10, range=(0, 1))[0] == pytest.approx(2000, rel=0.1)
    # The rule in docs/recipes.md, for those who want to repeat it.
    import hashlib

    assert int(keys[3]) == int.from_bytes(hashlib.sha256(b"0\0doc-3").digest()[:8], "big")


def test_scores_rank_from_the_largest_with_ties_by_hash_and_the_unknown_last() -> None:
    scores = np.array([0.5, 2.0, -1.0, -0.0, 0.0, 1e30, -1e30, -np.inf, 0.5])
    high = np.where(np.isinf(scores), np.inf, scores)
    hashes = np.array([9, 1, 1, 2, 1, 1, 1, 1, 3], np.uint64) << np.uint64(32)
    order = np.argsort(score_keys(Interval(scores, high), hashes))
    assert order.tolist() == [5, 1, 8, 0, 4, 3, 2, 6, 7]
