"""Bad rows are isolated and named; an object that can't be read as a whole is a BadShard, never a short read."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.schemas.corpus import ReadOptions
from assay.schemas.errors import AssayError
from assay.workers.corpora.planning import plan_corpus
from assay.workers.corpora.reading import REASONS, BadRecord, BadShard, Document, read_documents
from assay.workers.corpora.records import SourceChanged
from tests.corpus_files import json_lines, read_all, reasons, texts, write, write_arrow, write_parquet, zstd

GOOD = json_lines(texts(3))
LINES = [
    ("not_utf8", b'{"text": "caf\xe9"}'),
    ("not_json", b'{"text": "cut'),
    ("not_json", b"[" * 100_000),
    ("not_json", b'{"text": ' + b"9" * 10_000 + b"}"),
    ("not_an_object", b'["text"]'),
    ("not_an_object", b"7"),
    ("no_text", b'{"body": "x"}'),
    ("null_text", b'{"text": null}'),
    ("empty_text", b'{"text": ""}'),
    ("empty_text", b'{"text": " \\n\\t"}'),
    ("wrong_type", b'{"text": 12345}'),
    ("wrong_type", b'{"text": ["a"]}'),
    ("lone_surrogate", b'{"text": "a\\ud800b"}'),
    ("lone_surrogate", b'{"text": "a", "\\udfff": 1}'),
    ("too_long", json.dumps({"text": "é" * 600}).encode()),
]


@pytest.mark.parametrize(("reason", "line"), LINES)
def test_a_bad_line_is_one_bad_record_and_its_neighbours_are_documents(
    tmp_path: Path, reason: str, line: bytes
) -> None:
    path = write(tmp_path / "a.jsonl", GOOD + line + b"\n" + GOOD)
    records = read_all(path, ReadOptions(max_document_bytes=1000))
    assert reasons(records) == [(3, reason)]
    assert [r.row for r in records] == list(range(7))
    assert reason in REASONS
    detail = next(r.detail for r in records if isinstance(r, BadRecord))
    assert len(detail) <= 200
    assert detail.isprintable() and detail.isascii()


def test_a_20_mb_line_is_skipped_and_the_next_line_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", GOOD + json_lines([{"text": "x" * 20_000_000}]) + GOOD)
    records = read_all(path, ReadOptions(max_document_bytes=1000))
    assert reasons(records) == [(3, "too_long")]
    assert len(records) == 7


def test_bom_crlf_blank_lines_nul_and_a_missing_last_newline_are_fine(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b\\u0000c"}\r\n\n{"text": "\\ud83d\\ude00"}'
    records = read_all(write(tmp_path / "a.jsonl", data))
    assert [(r.row, r.text) for r in records if isinstance(r, Document)] == [(0, "a"), (3, "b\0c"), (5, "😀")]
    assert len(records) == 3


def test_a_gzip_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD) + gzip.compress(GOOD))
    assert len(read_all(path)) == 6


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cut.jsonl.gz", gzip.compress(GOOD * 50)[:-3]),
        ("half.jsonl.gz", gzip.compress(GOOD * 50)[:60]),
        ("cut.jsonl.zst", zstd(GOOD * 50)[:-3]),
        ("wrong.jsonl.gz", GOOD),
        ("checksum.jsonl.gz", gzip.compress(GOOD)[:-8] + b"\0" * 4 + gzip.compress(GOOD)[-4:]),
        ("empty.jsonl.gz", b""),
        ("empty.jsonl.zst", b""),
        ("empty.parquet", b""),
        ("footer.parquet", b"PAR1" + b"\x07" * 500 + b"PAR1"),
        ("schema.arrow", b"\xff" * 100),
    ],
)
def test_a_broken_object_is_planned_as_one_shard_that_fails_whole(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    write(tmp_path / "z.jsonl", GOOD)
    for shard_bytes in (10, 2**30):
        plan = plan_corpus(str(tmp_path), ReadOptions(), shard_bytes)
        broken = [shard for shard in plan.shards if shard.source.uri.endswith(name)]
        assert broken[-1].rows is None
        with pytest.raises(BadShard, match=name):
            list(read_documents(broken[-1], ReadOptions()))
        good = [shard for shard in plan.shards if shard not in broken]
        assert sum(len(list(read_documents(shard, ReadOptions()))) for shard in good) == 3


def test_of_a_big_truncated_gzip_only_the_last_shard_is_lost(tmp_path: Path) -> None:
    data = json_lines({"text": os.urandom(300).hex()} for _ in range(6000))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(data, 1)[:-1000])
    plan = plan_corpus(str(path), ReadOptions(), 500_000)
    assert len(plan.shards) > 4
    for shard in plan.shards[:-1]:
        assert len(list(read_documents(shard, ReadOptions()))) == shard.rows
    with pytest.raises(BadShard):
        list(read_documents(plan.shards[-1], ReadOptions()))


@pytest.mark.parametrize("cut", [-3, -8])
def test_an_arrow_file_cut_in_a_batch_or_exactly_between_two_is_a_bad_shard(tmp_path: Path, cut: int) -> None:
    path = write_arrow(tmp_path / "data-0.arrow", texts(100), 10)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BadShard):
        read_all(path)


def test_a_corrupt_page_loses_only_rows_of_its_row_group(tmp_path: Path) -> None:
    rows = [{"text": os.urandom(20).hex(), "n": i} for i in range(4000)]
    settings = {"row_group_size": 1000, "compression": "none", "write_page_checksum": True}
    path = write_parquet(tmp_path / "a.parquet", rows, **settings)
    chunk = pq.read_metadata(path).row_group(2).column(0)
    data = bytearray(path.read_bytes())
    at = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size // 2
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))
    for shard_bytes in (2**30, 30_000):
        records = read_all(path, shard_bytes=shard_bytes)
        lost = reasons(records)
        assert {reason for _, reason in lost} == {"bad_page"}
        assert {row // 1000 for row, _ in lost} == {2}
        assert [r.row for r in records] == list(range(4000))
    assert sum(bool(r.detail) for r in read_all(path) if isinstance(r, BadRecord)) == 1


def test_invalid_utf8_in_a_parquet_string_loses_only_its_row(tmp_path: Path) -> None:
    values = [b"good", b"caf\xe9", None, b"", b"x" * 50, "schön".encode()]
    binary = pa.array(values, pa.binary())
    strings = pa.Array.from_buffers(pa.string(), len(values), binary.buffers())
    expected = [(1, "not_utf8"), (2, "null_text"), (3, "empty_text"), (4, "too_long")]
    for column in (binary, strings, strings.cast(pa.large_binary()), binary.dictionary_encode()):
        path = write_parquet(tmp_path / "a.parquet", pa.table({"text": column}))
        records = read_all(path, ReadOptions(max_document_bytes=20))
        assert reasons(records) == expected
        assert [r.text for r in records if isinstance(r, Document)] == ["good", "schön"]


@pytest.mark.parametrize("column", ["txet", "n"])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_wrong_text_column_fails_the_plan_and_names_the_right_one(tmp_path: Path, column: str, kind: str) -> None:
    if kind == "parquet":
        write_parquet(tmp_path / "a.parquet", texts(3))
    else:
        write_arrow(tmp_path / "a.arrow", texts(3), 3)
    with pytest.raises(AssayError) as caught:
        plan_corpus(str(tmp_path), ReadOptions(text_column=column), 2**20)
    assert f"a.{kind}" in caught.value.where
    assert repr(column) in caught.value.what
    assert "'text'" in caught.value.hint


def test_a_file_whose_text_column_has_another_name_fails_the_plan(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", texts(3))
    write_parquet(tmp_path / "b.parquet", [{"content": "x"}])
    with pytest.raises(AssayError, match=r"b\.parquet"):
        plan_corpus(str(tmp_path), ReadOptions(), 2**20)


def test_a_failing_storage_is_not_mistaken_for_a_broken_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl.gz", GOOD * 1000)
    parquet = write_parquet(tmp_path / "a.parquet", texts(100))
    plans = [plan_corpus(str(p), ReadOptions(), 2**30) for p in (path, parquet)]

    def fail(*_: object) -> bytes:
        raise TimeoutError("no answer")

    from fsspec.implementations.local import LocalFileOpener

    monkeypatch.setattr(LocalFileOpener, "read", fail, raising=False)
    for plan in plans:
        with pytest.raises(AssayError, match="reached") as caught:
            list(read_documents(plan.shards[0], ReadOptions()))
        assert not isinstance(caught.value, BadShard)


@pytest.mark.parametrize("change", ["touch", "remove"])
def test_an_object_that_changed_since_the_plan_is_refused_and_not_called_damaged(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    plan = plan_corpus(str(path), ReadOptions(), 2**20)
    if change == "remove":
        path.unlink()
    else:
        path.write_bytes(GOOD + b" ")
    with pytest.raises(SourceChanged, match="since the corpus was planned"):
        read_all(plan)


def test_an_object_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    plan = plan_corpus(str(path), ReadOptions(), 2**20)
    records = read_documents(plan.shards[0], ReadOptions())
    next(records)
    path.write_bytes(GOOD + GOOD)
    with pytest.raises(SourceChanged):
        list(records)
