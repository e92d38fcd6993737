"""The features table: what was computed comes back bit for bit, packed small, and damage is an error."""

import io

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.workers.feature_table import ParquetBuffer, features_schema, iter_parquet, layer_columns, residual_means

from .feature_tables import Doc, table

DOCS = [
    Doc({(2, 5): (1.5, 0.25, 3), (2, 900): (0.125, 0.0625, 1), (4, 7): (3.0, 1.0, 10)}, {2: 0.0625}),
    Doc(),
    Doc({(4, 0): (2.0, 2.0, 1)}, {4: 0.5}, tokens=1),
]


def many(count: int = 400) -> list[Doc]:
    draw = np.random.default_rng(0)
    return [
        Doc(
            {
                (layer, int(f)): (float(draw.random()), float(draw.random()), int(draw.integers(1, 50)))
                for layer in (2, 4)
                for f in draw.choice(4096, 24, replace=False)
            },
            {2: 0.25},
            tokens=50,
        )
        for _ in range(count)
    ]


def parquet(*tables: pa.Table) -> bytes:
    buffer = ParquetBuffer(tables[0].schema)
    for part in tables:
        buffer.write(part)
    assert buffer.rows == sum(part.num_rows for part in tables)
    return buffer.finish()


def read(data: bytes, columns: list[str] | None = None) -> list[pa.Table]:
    return list(iter_parquet(pa.BufferReader(data), columns))


def test_tables_come_back_one_row_group_each() -> None:
    first, second = table(DOCS), table(many(3000))
    found = read(parquet(first, second))
    assert [part.num_rows for part in found] == [3, 3000]
    assert found[0].equals(first)
    assert found[1].equals(second)
    assert found[0].schema == features_schema([2, 4])


def test_chosen_columns_are_read_alone() -> None:
    [found] = read(parquet(table(DOCS)), ["doc_id", "n_tokens"])
    assert found.to_pydict() == {"doc_id": ["d0", "d1", "d2"], "n_tokens": [11, 11, 2]}


def test_a_table_without_documents_comes_back_with_its_columns() -> None:
    empty = features_schema([2]).empty_table()
    found = read(parquet(empty))
    assert [part.num_rows for part in found] == [0]
    assert found[0].schema == empty.schema


def test_a_layers_columns_are_the_flattened_lists_with_their_documents() -> None:
    columns = layer_columns(table(DOCS), 2)
    assert columns.document.tolist() == [0, 0]
    assert columns.ids.tolist() == [5, 900]
    assert columns.max.tolist() == [1.5, 0.125]
    assert columns.mean.tolist() == [0.25, 0.0625]
    assert columns.count.tolist() == [3, 1]
    assert columns.floor.tolist() == [0.0625, 0, 0]
    assert layer_columns(table(DOCS), 4).document.tolist() == [0, 2]


def test_a_slice_of_a_table_is_flattened_like_the_table_that_it_is() -> None:
    part = table(DOCS).slice(2)
    assert layer_columns(part, 4).document.tolist() == [0]
    assert layer_columns(part, 4).ids.tolist() == [0]
    assert layer_columns(part, 2).ids.tolist() == []


def test_lists_are_delta_packed_and_byte_split() -> None:
    metadata = pq.ParquetFile(io.BytesIO(parquet(table(many())))).metadata
    group = metadata.row_group(0)
    encodings = {group.column(i).path_in_schema: set(group.column(i).encodings) for i in range(metadata.num_columns)}
    for layer in (2, 4):
        for name, wanted in (
            ("ids", "DELTA_BINARY_PACKED"),
            ("count", "DELTA_BINARY_PACKED"),
            ("max", "BYTE_STREAM_SPLIT"),
            ("mean", "BYTE_STREAM_SPLIT"),
        ):
            assert encodings[f"l{layer}_{name}.list.element"] == {wanted, "RLE"}
    assert {group.column(i).compression for i in range(metadata.num_columns)} == {"ZSTD"}


def test_the_same_tables_give_the_same_bytes() -> None:
    assert parquet(table(DOCS), table(many())) == parquet(table(DOCS), table(many()))


def test_other_readers_of_parquet_read_it() -> None:
    data = parquet(table(DOCS))
    assert pl.read_parquet(io.BytesIO(data)).to_dicts() == table(DOCS).to_pylist()


def test_a_flipped_byte_of_a_page_is_an_error_and_not_a_number() -> None:
    whole = table(many(40))
    data = parquet(whole)
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    column = next(
        c for c in (metadata.row_group(0).column(i) for i in range(99)) if c.path_in_schema.startswith("l2_max")
    )
    end = column.data_page_offset + column.total_compressed_size
    for at in range(end - 1500, end, 61):
        broken = bytearray(data)
        broken[at] ^= 0x10
        with pytest.raises((OSError, pa.ArrowException)):
            read(bytes(broken))
    assert read(data)[0].equals(whole)


def test_mean_residuals_come_back_bit_for_bit_beside_the_features() -> None:
    mean_ND = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    with_means = table(DOCS, residual_means={2: mean_ND, 4: -mean_ND})
    [found] = read(parquet(with_means))
    assert found.schema == features_schema([2, 4], 6)
    assert (residual_means(found, 2) == mean_ND).all()
    assert (residual_means(found.slice(1), 4) == -mean_ND[1:]).all()
    assert found.select(table(DOCS).column_names).equals(table(DOCS))
    packed = pq.ParquetFile(pa.BufferReader(parquet(with_means))).metadata.row_group(0)
    columns = {packed.column(i).path_in_schema: packed.column(i).encodings for i in range(packed.num_columns)}
    assert "BYTE_STREAM_SPLIT" in columns["l2_residual_mean.list.element"]
