"""The files of a curated dataset, made in memory: the same tables give the same bytes."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from assay.schemas.recipe import Output
from assay.workers.corpora.rows import jsonable

_GROUP_BYTES = 32 * 2**20


class DatasetFile:
    """A file that grows by tables of one schema."""

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0
        self.schema = schema

    def write(self, table: pa.Table) -> None:
        """Adds the rows of a table, cast to the schema."""
        self.rows += table.num_rows
        self._add(table.cast(self.schema))

    def finish(self) -> bytes:
        """The whole file."""
        raise NotImplementedError

    def _add(self, table: pa.Table) -> None:
        raise NotImplementedError


def new_file(output: Output, schema: pa.Schema) -> DatasetFile:
    """An empty file of the output's format."""
    return _Parquet(schema, output.compression) if output.format == "parquet" else _JsonLines(schema)


class _Parquet(DatasetFile):
    """Row groups of about 32 MB, which streaming readers take one at a time."""

    def __init__(self, schema: pa.Schema, compression: str) -> None:
        super().__init__(schema)
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(
            self._buffer, schema, compression=compression, write_page_checksum=True, write_page_index=True
        )
        self._waiting: list[pa.Table] = []
        self._size = 0

    def _add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._size += table.nbytes
        if self._size >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        group = pa.concat_tables(self._waiting)
        self._writer.write_table(group, row_group_size=max(1, group.num_rows))
        self._waiting, self._size = [], 0

    def finish(self) -> bytes:
        if self._waiting:
            self._flush()
        self._writer.close()
        return self._buffer.getvalue()


class _JsonLines(DatasetFile):
    def __init__(self, schema: pa.Schema) -> None:
        super().__init__(schema)
        self._sink = pa.BufferOutputStream()
        self._stream = pa.CompressedOutputStream(self._sink, "zstd")

    def _add(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._stream.write((json.dumps(jsonable(row), ensure_ascii=False) + "\n").encode())

    def finish(self) -> bytes:
        self._stream.close()
        return self._sink.getvalue().to_pybytes()
