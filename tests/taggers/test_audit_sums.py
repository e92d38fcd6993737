"""Sums that are added up: the same whatever the cut, in bounded memory."""

import numpy as np
import pyarrow as pa
import pytest

from assay.taggers.audit import audit_findings
from assay.taggers.audit_sums import LENGTH, MAX_VALUES, OTHERS, AuditSums, Chunk, length_words
from assay.taggers.feature_values import FeatureValues
from tests.workers.feature_tables import score

TAGGER = score({(2, 1): (1.0, 1.0), (2, 2): (1.0, -1.0)}, name="quality")


def chunk(n: int, seed: int, values: int = 3) -> Chunk:
    draw = np.random.default_rng(seed)
    tag = pa.array(draw.random(n), mask=draw.random(n) < 0.1)
    groups = {"site": pa.array([None if i % 7 == 0 else f"s{draw.integers(values)}" for i in range(n)], pa.string())}
    entries = FeatureValues(np.arange(n), draw.integers(0, 2, n), draw.random(n))
    return Chunk(tag, draw.integers(0, 5000, n).astype(np.int32), groups, entries)


def summed(chunks: list[Chunk]) -> AuditSums:
    sums = AuditSums(TAGGER, ["site"])
    for one in chunks:
        sums.add(one)
    return sums


def test_shards_added_up_are_the_same_as_all_documents_at_once() -> None:
    chunks = [chunk(200, seed) for seed in range(4)]
    whole, parts = summed(chunks), AuditSums(TAGGER, ["site"])
    for one in chunks:
        parts.merge(summed([one]))
    for name in whole.dimensions:
        a, b = whole.table(name), parts.table(name)
        assert a.values == b.values
        for left, right in zip((*a.outputs, *a.features), (*b.outputs, *b.features), strict=True):
            assert left == pytest.approx(right)
    assert (whole.length_counts(0) == parts.length_counts(0)).all()


def test_every_document_is_in_one_group_of_each_dimension() -> None:
    sums = summed([chunk(500, 1)])
    for name in sums.dimensions:
        table = sums.table(name)
        assert int(table.outputs.n_G.sum() + table.undecided_G.sum()) == 500
    found = audit_findings(sums)
    assert found.documents + found.undecided == 500


def test_values_beyond_the_limit_are_counted_together_so_that_memory_is_bounded() -> None:
    sums = summed([chunk(3000, 1, values=1000)])
    table = sums.table("site")
    assert len(table.values) == MAX_VALUES + 1
    assert OTHERS in table.values
    assert int(table.outputs.n_G.sum() + table.undecided_G.sum()) == 3000


def test_a_million_documents_do_not_make_a_trifle_a_flag() -> None:
    draw = np.random.default_rng(1)
    sums = AuditSums(TAGGER, ["site"])
    for _ in range(10):
        n = 100_000
        site = draw.integers(0, 2, n)
        tag = np.clip(draw.normal(0.5, 0.1, n) + 0.01 * site, 0, 1)
        groups = {"site": pa.array(np.where(site == 1, "a", "b"))}
        none = FeatureValues(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))
        sums.add(Chunk(pa.array(tag), np.full(n, 100, np.int32), groups, none))
    found = audit_findings(sums)
    assert found.documents == 1_000_000
    assert found.dimensions[0].q < 1e-9, "it is significant"
    assert not found.dimensions[0].flagged, "and of no weight"


def test_lengths_double_and_stand_in_their_order() -> None:
    words = length_words()
    assert words[:5] == ("0 tokens", "1 token", "2 to 3 tokens", "4 to 7 tokens", "8 to 15 tokens")
    tokens = np.array([0, 1, 2, 3, 4, 4095, 4096], np.int32)
    none = FeatureValues(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))
    sums = AuditSums(TAGGER, [])
    sums.add(Chunk(pa.array([0.5] * 7), tokens, {}, none))
    table = sums.table(LENGTH)
    assert dict(zip(table.values, table.outputs.n_G.tolist(), strict=True)) == {
        "0 tokens": 1, "1 token": 1, "2 to 3 tokens": 2, "4 to 7 tokens": 1, "2,048 to 4,095 tokens": 1,
        "4,096 to 8,191 tokens": 1,
    }  # fmt: skip
