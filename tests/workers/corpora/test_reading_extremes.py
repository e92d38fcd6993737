"""Corpora made to hurt a reader: bombs, giants, swarms, and columns of the wrong kind; the rest is read."""

import gzip
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from assay.schemas.corpus import ReadOptions
from assay.schemas.errors import AssayError
from assay.workers.corpora.planning import plan_corpus
from assay.workers.corpora.reading import Document, read_documents
from tests.corpus_files import json_lines, read_all, reasons, texts, write, write_parquet, zstd

GOOD = json_lines(texts(3))
MB = 2**20


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_line_that_unpacks_to_a_thousand_times_its_size_is_one_bad_record_in_little_memory(
    tmp_path: Path, suffix: str
) -> None:
    data = GOOD + b'{"text": "' + b"0" * (60 * MB) + b'"}\n' + GOOD
    path = tmp_path / f"bomb.jsonl.{suffix}"
    path.write_bytes(gzip.compress(data, 1) if suffix == "gz" else zstd(data))
    del data
    assert path.stat().st_size < MB
    plan = plan_corpus(str(path), ReadOptions(max_document_bytes=MB), 2**30)
    tracemalloc.start()
    records = read_all(plan, ReadOptions(max_document_bytes=MB))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reasons(records) == [(3, "too_long")]
    assert sum(isinstance(record, Document) for record in records) == 6
    assert peak < 30 * MB


def test_a_200_mb_document_is_one_bad_record_and_its_neighbours_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "giant.jsonl"
    with path.open("wb") as out:
        out.write(GOOD + b'{"text": "')
        for _ in range(200):
            out.write(b"x" * MB)
        out.write(b'"}\n' + GOOD)
    records = read_all(path)
    assert reasons(records) == [(3, "too_long")]
    assert [record.row for record in records] == list(range(7))


def test_very_many_empty_documents_are_each_a_bad_record(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "empty.parquet", pa.table({"text": [""] * 100_000 + ["good"]}))
    found = dict.fromkeys((True, False), 0)
    (shard,) = plan_corpus(str(path), ReadOptions(), 2**30).shards
    for record in read_documents(shard, ReadOptions()):
        found[isinstance(record, Document)] += 1
    assert found == {True: 1, False: 100_000}


@pytest.mark.parametrize(
    "column",
    [pa.array([["a", "b"]]), pa.array([{"body": "a"}]), pa.array([1]), pa.array([1.5]), pa.array([True])],
    ids=["a list", "a struct", "integers", "floats", "booleans"],
)
def test_a_text_column_of_another_kind_fails_the_plan_and_is_named_with_its_type(
    tmp_path: Path, column: pa.Array
) -> None:
    write_parquet(tmp_path / "a.parquet", pa.table({"text": column}))
    with pytest.raises(AssayError, match="column 'text' holds") as caught:
        plan_corpus(str(tmp_path), ReadOptions(), MB)
    assert str(column.type).partition("<")[0] in caught.value.what


def test_a_text_column_of_bytes_is_read_as_utf_8(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", pa.table({"text": pa.array(["schön".encode(), b"\xff"])}))
    records = read_all(path)
    assert [record.text for record in records if isinstance(record, Document)] == ["schön"]
    assert reasons(records) == [(1, "not_utf8")]


@pytest.mark.parametrize(
    "identity",
    ["../../etc/passwd", "/absolute", "a/b\\c", "\x1b[2J\x07", "new\nline", "\u202egnp", " ", "\0", "x" * 5000],
)
def test_an_id_of_any_characters_is_kept_as_it_is(tmp_path: Path, identity: str) -> None:
    path = write(tmp_path / "a.jsonl", json_lines([{"id": identity, "text": "good"}]))
    (record,) = read_all(path, ReadOptions(id_column="id"))
    assert isinstance(record, Document)
    assert record.id == identity
