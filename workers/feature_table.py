"""The features table: one row a document, sparse features of each layer as aligned lists (docs/data-format.md)."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

if TYPE_CHECKING:
    from assay.sae_runtime.runtime import ChunkFeatures

_PER_FEATURE = {"ids": pa.int32(), "max": pa.float32(), "mean": pa.float32(), "count": pa.int32()}
_PER_DOCUMENT = {"floor": pa.float32(), "outliers": pa.int32()}
RESIDUAL_MEAN = "l{}_residual_mean"


@dataclass(frozen=True, slots=True)
class LayerColumns:
    """One layer's features of a table's N documents: entry e belongs to document `document[e]`."""

    document: NDArray[np.int64]
    ids: NDArray[np.int32]
    max: NDArray[np.float32]
    mean: NDArray[np.float32]
    count: NDArray[np.int32]
    floor: NDArray[np.float32]


def features_schema(layers: Sequence[int], d_model: int | None = None) -> pa.Schema:
    """The Arrow schema of a features shard for these layers; with `d_model`, of one that holds residuals too."""
    fields = [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("n_bytes", pa.int64(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("tokens_seen", pa.int32(), nullable=False),
    ]
    for layer in layers:
        fields += [pa.field(f"l{layer}_{name}", pa.list_(kind), nullable=False) for name, kind in _PER_FEATURE.items()]
        fields += [pa.field(f"l{layer}_{name}", kind, nullable=False) for name, kind in _PER_DOCUMENT.items()]
        if d_model is not None:
            fields.append(pa.field(RESIDUAL_MEAN.format(layer), pa.list_(pa.float32(), d_model), nullable=False))
    return pa.schema(fields)


def features_table(
    rows: Sequence[int], ids: Sequence[str], n_bytes: Sequence[int], features: "ChunkFeatures"
) -> pa.Table:
    """A chunk's features as a table; `rows`, `ids` and `n_bytes` name its documents in order."""
    columns: dict[str, pa.Array] = {
        "row": pa.array(rows, pa.int64()),
        "doc_id": pa.array(ids, pa.string()),
        "n_bytes": pa.array(n_bytes, pa.int64()),
        "n_tokens": pa.array(features.n_tokens),
        "tokens_seen": pa.array(features.tokens_seen),
    }
    for layer, sparse in features.layers.items():
        offsets = pa.array(sparse.offsets.astype(np.int32))
        for name in _PER_FEATURE:
            columns[f"l{layer}_{name}"] = pa.ListArray.from_arrays(offsets, pa.array(getattr(sparse, name)))
        columns |= {f"l{layer}_{name}": pa.array(getattr(sparse, name)) for name in _PER_DOCUMENT}
    d_model = None
    for layer, mean_ND in (features.residual_means or {}).items():
        d_model = mean_ND.shape[1]
        columns[RESIDUAL_MEAN.format(layer)] = pa.FixedSizeListArray.from_arrays(pa.array(mean_ND.ravel()), d_model)
    return pa.Table.from_pydict(columns, schema=features_schema(list(features.layers), d_model))


def layer_columns(table: pa.Table, layer: int) -> LayerColumns:
    """One layer's lists of a features table, flattened."""
    ids = table[f"l{layer}_ids"].combine_chunks()
    lengths = ids.value_lengths().to_numpy(zero_copy_only=False)

    def flat(name: str) -> NDArray:
        return table[f"l{layer}_{name}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)

    return LayerColumns(
        document=np.repeat(np.arange(table.num_rows), lengths),
        ids=ids.flatten().to_numpy(zero_copy_only=False),
        max=flat("max"),
        mean=flat("mean"),
        count=flat("count"),
        floor=table[f"l{layer}_floor"].to_numpy(),
    )


def residual_means(table: pa.Table, layer: int) -> NDArray[np.float32]:
    """(N, d_model): one layer's mean residuals of a features table that holds them."""
    column = table[RESIDUAL_MEAN.format(layer)].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


class ParquetBuffer:
    """Parquet bytes in memory, a row group a table written; the same tables give the same bytes.

    Integer lists are delta-packed and float lists byte-split, which every reader of Parquet 2 understands and which
    takes some 26 bits a feature; pages carry checksums, so that a flipped bit is an error and not a number.
    """

    def __init__(self, schema: pa.Schema) -> None:
        encodings = {}
        for field in schema:
            if pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type):
                floats = pa.types.is_floating(field.type.value_type)
                packed = "BYTE_STREAM_SPLIT" if floats else "DELTA_BINARY_PACKED"
                encodings[f"{field.name}.list.element"] = packed
        self.rows = 0
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(
            self._buffer,
            schema,
            compression="zstd",
            compression_level=3,
            write_page_checksum=True,
            write_page_index=True,
            use_dictionary=[f.name for f in schema if pa.types.is_string(f.type) and f.name != "doc_id"],
            column_encoding=encodings,
        )

    def write(self, table: pa.Table) -> None:
        """Adds a table as one row group."""
        self.rows += table.num_rows
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def finish(self) -> bytes:
        """The whole file."""
        self._writer.close()
        return self._buffer.getvalue()


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file of one row group."""
    buffer = ParquetBuffer(table.schema)
    buffer.write(table)
    return buffer.finish()


def iter_parquet(source: pa.NativeFile, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of a file written by ParquetBuffer, their page checksums verified."""
    file = pq.ParquetFile(source, page_checksum_verification=True)
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, columns=list(columns) if columns is not None else None, use_threads=False)
