"""Chosen rows come back with all their columns, in types that fit every shard."""

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.schemas.corpus import ReadOptions
from assay.schemas.errors import AssayError
from assay.workers.corpora.columns import ColumnTypes, parse_type, type_name, unify_columns
from assay.workers.corpora.planning import plan_corpus
from assay.workers.corpora.reading import Document, read_documents, source_columns
from assay.workers.corpora.rows import read_rows
from tests.corpus_files import json_lines, texts, write, write_arrow, write_parquet

OPTIONS = ReadOptions()
TYPES = [
    pa.string(),
    pa.large_string(),
    pa.float16(),
    pa.date32(),
    pa.timestamp("ns", tz="Europe/Berlin"),
    pa.decimal128(10, 2),
    pa.dictionary(pa.int32(), pa.string()),
    pa.list_(pa.struct([("a|b", pa.int64()), ("c", pa.map_(pa.string(), pa.binary()))])),
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_every_type_is_named_and_parsed_back(kind: pa.DataType) -> None:
    assert parse_type(type_name(kind)) == kind


def test_a_name_that_is_no_type_is_an_error() -> None:
    with pytest.raises(AssayError, match="no column type"):
        parse_type("list<nonsense>")


@pytest.mark.parametrize(
    ("names", "united"),
    [
        (("null", "string"), "string"),
        (("int64", "double"), "double"),
        (("int64", "string"), "json"),
        (("json", "null"), "json"),
        (("int32", "int64"), "int64"),
        (("uint64", "int64"), "json"),
        (("string", "large_string"), "large_string"),
        (("string", "binary"), "large_binary"),
        (("bool", "int64"), "json"),
        (("null", "null"), "null"),
    ],
)
def test_types_unify_without_loss_in_either_order(names: tuple[str, str], united: str) -> None:
    for pair in (names, names[::-1]):
        assert unify_columns([{"c": pair[0], "only": "bool"}, {"c": pair[1]}]) == {"c": united, "only": "bool"}


def test_chosen_rows_of_parquet_and_arrow_keep_their_native_types(tmp_path: Path) -> None:
    rows = [
        {"text": f"t{i}", "tags": [{"k": i}], "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)}
        for i in range(3000)
    ]
    wanted = [0, 5, 6, 999, 1000, 2500, 2999]
    for path in (
        write_parquet(tmp_path / "a.parquet", rows, row_group_size=800),
        write_arrow(tmp_path / "a.arrow", rows, 123),
    ):
        plan = plan_corpus(str(path), OPTIONS, 7000)
        assert len(plan.shards) > 1
        read: list[dict[str, Any]] = []
        for shard in plan.shards:
            end = 3000 if shard.rows is None else shard.first_row + shard.rows
            mine = [row for row in wanted if shard.first_row <= row < end]
            for table in read_rows(shard, OPTIONS, mine):
                assert table.schema.equals(pa.Table.from_pylist(rows).schema)
                read += table.to_pylist()
        assert read == [rows[i] for i in wanted]
        columns = source_columns(plan.shards[0], OPTIONS)
        assert {name: parse_type(kind) for name, kind in columns.items()} == {
            field.name: field.type for field in pa.Table.from_pylist(rows).schema
        }


def test_scattered_rows_decode_each_row_group_at_most_once_and_skip_those_without_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "a.parquet", texts(9000), row_group_size=3000)
    shard = plan_corpus(str(path), OPTIONS, 2**30).shards[0]
    decoded: list[int] = []
    original = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, *args: Any, **settings: Any) -> Any:
        decoded.extend(settings["row_groups"])
        return original(self, *args, **settings)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    wanted = [*range(3, 3000, 7), *range(6000, 9000, 1025)]
    tables = list(read_rows(shard, OPTIONS, wanted))
    assert [n for table in tables for n in table["n"].to_pylist()] == wanted
    assert decoded == [0, 2]


def test_every_document_of_a_jsonl_shard_can_be_read_back_as_a_row(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"text": "a", "n": 1, "x": 1, "deep": {"b": 1, "a": [None, 2.5]}, "gone": None},
        {"text": None},
        {"text": "b", "n": 2.5, "x": "one", "late": True, "half": "\ud800"},
        {"text": "c", "n": 2**70, "x": None, "nan": float("nan")},
    ]
    path = write(tmp_path / "a.jsonl", json_lines(rows[:1]) + b"\n{bad\n" + json_lines(rows[1:]))
    shard = plan_corpus(str(path), OPTIONS, 2**20).shards[0]
    seen = ColumnTypes()
    documents = [r for r in read_documents(shard, OPTIONS, columns=seen) if isinstance(r, Document)]
    assert (
        seen.types()
        == source_columns(shard, OPTIONS)
        == {
            "text": "string",
            "n": "json",
            "x": "json",
            "deep": "json",
            "gone": "null",
            "late": "bool",
            "half": "string",
            "nan": "double",
        }
    )
    (table,) = read_rows(shard, OPTIONS, [d.row for d in documents], seen.types())
    assert table.column_names == list(seen.types())
    assert table["text"].to_pylist() == [d.text for d in documents]
    assert table["n"].to_pylist() == ["1", "2.5", str(2**70)]
    assert table["x"].to_pylist() == ["1", '"one"', None]
    assert table["deep"].to_pylist() == ['{"b":1,"a":[null,2.5]}', None, None]
    assert table["half"].to_pylist() == [None, "\ufffd", None]
    assert [t.num_rows for t in read_rows(shard, OPTIONS, [d.row for d in documents])] == [3]


def test_rows_of_unlike_files_fit_one_table_under_the_unified_columns(tmp_path: Path) -> None:
    table = pa.table({"text": ["p"], "n": pa.array([3], pa.int32()), "m": [[1, 2]], "b": [b"\xff"]})
    write_parquet(tmp_path / "a.parquet", table)
    write(tmp_path / "b.jsonl", json_lines([{"text": "j", "n": 2.5, "m": {"a": 1}, "b": "x", "new": "y"}]))
    shards = plan_corpus(str(tmp_path), OPTIONS, 2**20).shards
    columns = unify_columns([source_columns(shard, OPTIONS) for shard in shards])
    whole = pa.concat_tables(t for shard in shards for t in read_rows(shard, OPTIONS, [0], columns))
    assert whole.to_pylist() == [
        {"text": "p", "n": 3.0, "m": "[1,2]", "b": b"\xff", "new": None},
        {"text": "j", "n": 2.5, "m": '{"a":1}', "b": b"x", "new": "y"},
    ]
    assert json.loads(whole["m"][0].as_py()) == [1, 2]


def test_columns_that_were_not_unified_are_an_error_that_names_the_column(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", json_lines(texts(1)))
    shard = plan_corpus(str(tmp_path), OPTIONS, 2**20).shards[0]
    with pytest.raises(AssayError, match="'text' doesn't fit the type int64"):
        list(read_rows(shard, OPTIONS, [0], {"text": "int64"}))


def test_rows_outside_the_shard_or_out_of_order_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", texts(10))
    shard = plan_corpus(str(tmp_path), OPTIONS, 2**20).shards[0]
    for rows in ([10], [2, 1], [3, 3]):
        with pytest.raises(ValueError, match="row"):
            list(read_rows(shard, OPTIONS, rows))
    assert list(read_rows(shard, OPTIONS, [])) == []
