from itertools import permutations
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.schemas.errors import AssayError
from assay.schemas.statistics import (
    NO_BIN,
    SCORE_BINS,
    STATISTICS,
    TagColumn,
    length_bin_start,
    merge,
    shard_statistics,
)

COLUMNS = (
    TagColumn(name="quality", axis="quality", kind="score"),
    TagColumn(name="toxicity", axis="safety", kind="score"),
    TagColumn(name="domain", axis="domain", kind="label"),
    TagColumn(name="language", axis="language", kind="label"),
    TagColumn(name="register", axis="custom", kind="label"),
)
SCHEMA = pa.schema(
    [("n_tokens", pa.int32()), ("quality", pa.float32()), ("toxicity", pa.float32()), ("domain", pa.string()),
     ("language", pa.string()), ("register", pa.string())]
)  # fmt: skip

scores = st.none() | st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.5, 1.0])
labels = st.none() | st.sampled_from(["code", "news", "", "\u202eevil", "新闻"])
documents = st.fixed_dictionaries(
    {
        "n_tokens": st.integers(0, 2**31 - 1) | st.integers(0, 40),
        "quality": scores,
        "toxicity": scores,
        "domain": labels,
        "language": labels,
        "register": labels,
    }
)


def tags(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


def one(**values: Any) -> pa.Table:
    return tags([{"n_tokens": 10, "quality": None, "toxicity": None, **values}])


@settings(deadline=None, max_examples=60)
@given(st.lists(documents, max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_merging_the_parts_of_a_table_gives_the_statistics_of_the_whole(
    rows: list[dict[str, Any]], first: int, second: int
) -> None:
    low, high = sorted((first, second))
    parts = [shard_statistics(tags(part), COLUMNS) for part in (rows[:low], rows[low:high], rows[high:])]
    whole = shard_statistics(tags(rows), COLUMNS)
    for order in permutations(parts):
        assert merge(order).equals(whole, check_metadata=True)
    assert merge([merge(parts[:2]), parts[2]]).equals(whole)
    assert merge([parts[0], merge(parts[1:])]).equals(whole)


@settings(deadline=None, max_examples=60)
@given(st.lists(documents, max_size=40))
def test_every_metric_counts_every_document_and_token_once(rows: list[dict[str, Any]]) -> None:
    statistics = shard_statistics(tags(rows), COLUMNS)
    assert statistics.schema.equals(STATISTICS, check_metadata=True)
    for metric in ("tokens", "quality", "toxicity", "register"):
        cells = [row for row in statistics.to_pylist() if row["metric"] == metric]
        assert sum(cell["docs"] for cell in cells) == len(rows)
        assert sum(cell["tokens"] for cell in cells) == sum(row["n_tokens"] for row in rows)
        missing = sum(row.get(metric) is None for row in rows) if metric != "tokens" else None
        if missing is not None:
            assert sum(cell["docs"] for cell in cells if cell["bin"] == NO_BIN) == missing


@settings(deadline=None, max_examples=30)
@given(st.lists(documents, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_equal_documents_in_another_order_give_equal_bytes(rows: list[dict[str, Any]], random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    files = []
    for table in (rows, shuffled):
        sink = pa.BufferOutputStream()
        pq.write_table(shard_statistics(tags(table), COLUMNS), sink)
        files.append(sink.getvalue().to_pybytes())
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.0, 0),
        (1 / 64, 1),
        (0.0156, 0),
        (0.5, 32),
        (0.4999, 31),
        (0.999, 63),
        (1.0, 63),
        (None, -1),
        (float("nan"), -1),
    ],
)
def test_a_score_falls_in_the_bin_that_holds_it(score: float | None, expected: int) -> None:
    statistics = shard_statistics(one(quality=score), COLUMNS)
    assert [row["bin"] for row in statistics.to_pylist() if row["metric"] == "quality"] == [expected]
    assert expected < SCORE_BINS


@pytest.mark.parametrize("score", [-0.01, 1.01, float("inf")])
def test_a_score_outside_zero_to_one_is_refused(score: float) -> None:
    with pytest.raises(AssayError, match="outside"):
        shard_statistics(one(quality=score), COLUMNS)


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, -1), (1, 0), (2, 4), (4, 8), (1023, 39), (1024, 40), (2**31 - 1, 123)]
)
def test_four_length_bins_make_an_octave(tokens: int, expected: int) -> None:
    statistics = shard_statistics(one(n_tokens=tokens), COLUMNS)
    assert [row["bin"] for row in statistics.to_pylist() if row["metric"] == "tokens"] == [expected]
    if expected >= 0:
        assert length_bin_start(expected) <= tokens < length_bin_start(expected + 1)


def test_without_label_taggers_the_dimensions_are_empty() -> None:
    statistics = shard_statistics(one(quality=0.3), COLUMNS[:1])
    assert {(row["domain"], row["language"]) for row in statistics.to_pylist()} == {("", "")}


def test_a_second_domain_tagger_is_a_metric_of_its_own() -> None:
    second = TagColumn(name="register", axis="domain", kind="label")
    statistics = shard_statistics(one(domain="code", register="formal"), [*COLUMNS[:4], second])
    row = next(row for row in statistics.to_pylist() if row["metric"] == "register")
    assert (row["domain"], row["label"], row["bin"], row["docs"]) == ("code", "formal", 0, 1)


def test_a_tagger_named_tokens_is_refused() -> None:
    with pytest.raises(AssayError, match="tokens"):
        shard_statistics(one(), [TagColumn(name="tokens", axis="quality", kind="score")])


def test_nothing_merges_to_an_empty_table() -> None:
    assert merge([]).num_rows == 0
    assert merge([]).schema.equals(STATISTICS)
