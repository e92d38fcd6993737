"""Documents get unique ids, files of unlike columns are read together, and a stream is opened once."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from assay.schemas.corpus import ReadOptions
from assay.workers.corpora.planning import plan_corpus
from assay.workers.corpora.reading import Cursors, Document, read_documents
from assay.workers.corpora.sources import SourceFile
from tests.corpus_files import json_lines, read_all, write, write_parquet


def test_an_id_column_gives_ids_and_repeated_or_unusable_ones_are_bad_records(tmp_path: Path) -> None:
    ids = ["a", 1, "a", "1", None, 1.5, True, "", "b\ud800", "b"]
    rows = [{"text": "x", "id": value} for value in ids] + [{"text": "x"}]
    records = read_all(write(tmp_path / "a.jsonl", json_lines(rows)), ReadOptions(id_column="id"))
    assert [r.id for r in records if isinstance(r, Document)] == ["a", "1", "b"]
    expected = ["duplicate_id", "duplicate_id", *["wrong_type"] * 4, "lone_surrogate", "wrong_type"]
    assert [r.reason for r in records if not isinstance(r, Document)] == expected
    parquet = write_parquet(tmp_path / "a.parquet", [{"text": "x", "id": i} for i in (7, 8, 7, None)])
    records = read_all(parquet, ReadOptions(id_column="id"))
    assert [r.id if isinstance(r, Document) else r.reason for r in records] == ["7", "8", "duplicate_id", "wrong_type"]


def test_made_ids_are_stable_unique_and_safe_in_a_path(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines([{"text": "same"}] * 1000))
    first, again = ([r.id for r in read_all(path, shard_bytes=size) if isinstance(r, Document)] for size in (10**9, 99))
    assert first == again
    assert len(set(first)) == 1000
    assert all(set(name) <= set("0123456789abcdef-") for name in first)


def test_files_with_different_columns_and_types_are_read_together(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"text": "x", "n": 1}])
    write_parquet(tmp_path / "b.parquet", pa.table({"n": ["s"], "text": pa.array(["y"], pa.large_string())}))
    write(tmp_path / "c.jsonl", json.dumps({"n": [1], "text": "z"}).encode())
    assert [r.text for r in read_all(tmp_path) if isinstance(r, Document)] == ["x", "y", "z"]


def test_shards_of_one_object_read_in_order_open_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.workers.corpora import jsonl

    write(tmp_path / "a.jsonl.gz", json_lines({"text": os.urandom(50).hex()} for _ in range(2000)))
    options = ReadOptions()
    plan = plan_corpus(str(tmp_path), options, 20_000)
    assert len(plan.shards) > 5
    opened: list[str] = []

    class Counted(jsonl.SourceFile):
        def __init__(self, uri: str) -> None:
            opened.append(uri)
            super().__init__(uri)

    monkeypatch.setattr(jsonl, "SourceFile", Counted)
    cursors = Cursors()
    rows = [r.row for shard in plan.shards[::2] for r in read_documents(shard, options, cursors)]
    assert len(opened) == 1
    second = list(read_documents(plan.shards[1], options, cursors))
    assert second[0].row == plan.shards[1].first_row
    assert len(opened) == 2
    next(read_documents(plan.shards[2], options, cursors))
    assert [r.row for r in read_documents(plan.shards[2], options, cursors)] == [
        row for row in rows if row in range(plan.shards[2].first_row, plan.shards[3].first_row)
    ]
    cursors.close()


def test_a_shard_of_plain_jsonl_is_read_from_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i} " * 500}) + "\n" for i in range(2000)))
    shards = plan_corpus(str(path), ReadOptions(), shard_bytes=1_000_000).shards
    read = 0
    whole = SourceFile.readinto

    def counted(self: SourceFile, buffer: bytearray) -> int:
        nonlocal read
        read += (n := whole(self, buffer))
        return n

    monkeypatch.setattr(SourceFile, "readinto", counted)
    documents = list(read_documents(shards[-2], ReadOptions()))
    assert documents[0].row == shards[-2].first_row
    assert read < 3_000_000 < path.stat().st_size / 3
