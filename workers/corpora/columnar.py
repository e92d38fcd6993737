"""Reads Parquet and Arrow files one record batch at a time, and loses no more than what can't be decoded."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from assay.schemas.corpus import ReadOptions, SourceObject
from assay.schemas.errors import AssayError, unknown_name
from assay.workers.corpora.records import BadShard
from assay.workers.corpora.sources import DECODE_ERRORS, SourceFile
from assay.workers.storage.filesystem import public

BATCH_BYTES = 8 * 2**20
BATCH_ROWS = 1024
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
_HINT = "write the file again, or remove it from the corpus"


class Chunk(NamedTuple):
    """Consecutive rows: a record batch, or None for rows that can't be decoded, and then why."""

    row: int
    rows: int
    batch: pa.RecordBatch | None
    detail: str = ""

    def slice(self, start: int, end: int) -> "Chunk":
        """The chunk's rows from `start` up to `end`."""
        batch = None if self.batch is None else self.batch.slice(start - self.row, end - start)
        return Chunk(start, end - start, batch, self.detail)


class Chunks:
    """One forward-only pass over a columnar object; `row` is the next row it gives."""

    def __init__(self, source: SourceObject, columns: Sequence[str] | None = None) -> None:
        self.row = 0
        self._rest: Chunk | None = None
        self._file = SourceFile(source.uri)
        self._group_ends: list[int] = []
        try:
            if source.format == "parquet":
                parquet = open_parquet(self._file)
                self.schema: pa.Schema = parquet.schema_arrow
                groups = (parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups))
                self._group_ends = list(accumulate(groups))
                self._jump: Callable[[int], Iterator[Chunk]] = lambda row: _parquet_chunks(
                    self._file, parquet, columns, row
                )
                self._chunks = self._jump(0)
            else:
                reader = open_arrow(self._file)
                self.schema = reader.schema
                self._chunks = _arrow_chunks(self._file, reader, columns)
        except BaseException:
            self._file.close()
            raise

    def skip_to(self, row: int) -> None:
        """Moves on to `row`; Parquet row groups in between are not read."""
        if row <= self.row:
            return
        if bisect_right(self._group_ends, row) > bisect_right(self._group_ends, self.row):
            self._chunks, self._rest = self._jump(row), None
        for _ in self.read(row):
            pass

    def read(self, end: int | None) -> Iterator[Chunk]:
        """The chunks up to row `end`. Raises BadShard if an Arrow file is damaged or ends before `end`."""
        while end is None or self.row < end:
            chunk = self._rest or next(self._chunks, None)
            self._rest = None
            if chunk is None:
                if end is None:
                    return
                raise self._file.ended(self.row, end)
            last = chunk.row + chunk.rows
            self.row = last if end is None else min(last, end)
            if self.row < last:
                self._rest = chunk.slice(self.row, last)
            if chunk.rows:
                yield chunk.slice(chunk.row, self.row)

    def close(self) -> None:
        """Closes the object."""
        self._file.close()


def open_parquet(file: SourceFile) -> pq.ParquetFile:
    """The Parquet file, page checksums verified where it has them. Raises BadShard without a good footer."""
    with file.decoding("the Parquet footer can't be read", _HINT):
        return pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False, buffer_size=BATCH_BYTES)


def open_arrow(file: SourceFile) -> pa.RecordBatchStreamReader:
    """The batches of an Arrow stream or Arrow file, in order. Raises BadShard without a good schema."""
    with file.decoding("the Arrow schema can't be read", _HINT):
        file.seek(0 if file.read(6) != b"ARROW1" else 8)  # the file format is a stream in a wrapper
        return pa.ipc.open_stream(file)


def arrow_batches(file: SourceFile, reader: pa.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    """All batches. Raises BadShard for a damaged file, also for one cut exactly between two batches."""
    while True:
        with file.decoding("the Arrow file is cut short or damaged", _HINT):
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                break
        yield batch
    file.seek(-8, 2)
    tail = file.read(8)
    if tail != _STREAM_END and not tail.endswith(b"ARROW1"):
        raise BadShard("the Arrow file has no end mark: it was cut short", where=public(file.uri), hint=_HINT)


def check_columns(schema: pa.Schema, options: ReadOptions, uri: str) -> None:
    """Raises AssayError unless the text and id columns exist once each and hold text, or text or integers."""
    for column, wanted, holds in (
        (options.text_column, "text", is_text),
        (options.id_column, "text or integers", lambda kind: is_text(kind) or pa.types.is_integer(kind)),
    ):
        if column is None:
            continue
        found = schema.get_all_field_indices(column)
        if not found:
            raise unknown_name("column", column, schema.names, where=public(uri))
        if len(found) > 1:
            raise AssayError(f"{len(found)} columns have the name {column!r}", where=public(uri))
        if not holds(schema.field(found[0]).type):
            usable = ", ".join(repr(field.name) for field in schema if holds(field.type))
            raise AssayError(
                f"column {column!r} holds {schema.field(found[0]).type}, not {wanted}",
                where=public(uri),
                hint=f"columns that hold {wanted}: {usable or 'none'}",
            )


def is_text(kind: pa.DataType) -> bool:
    """Whether the type is a string or binary type, or a dictionary of one."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    checks = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{name}")(value) for name in checks)


def _parquet_chunks(
    file: SourceFile, parquet: pq.ParquetFile, columns: Sequence[str] | None, row: int
) -> Iterator[Chunk]:
    """The chunks from the row group that holds `row` on. Batches lie on a grid from the row group's start, so
    a page that can't be decoded loses the same rows wherever reading begins."""
    end = 0
    for index in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(index)
        at, end = end, end + group.num_rows
        if end <= row:
            continue
        detail = "the row group ends early"
        try:
            batches = parquet.iter_batches(
                batch_size=_batch_rows(group, columns), row_groups=[index], columns=columns, use_threads=False
            )
            for batch in batches:
                yield Chunk(at, batch.num_rows, batch)
                at += batch.num_rows
        except DECODE_ERRORS as error:
            file.raise_failure()
            detail = f"row group {index}: {error}"
        if at < end:
            yield Chunk(at, end - at, None, detail)


def _batch_rows(group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> int:
    sizes = (group.column(i) for i in range(group.num_columns))
    size = sum(c.total_uncompressed_size for c in sizes if columns is None or c.path_in_schema in columns)
    return max(1, min(BATCH_ROWS, BATCH_BYTES * group.num_rows // max(1, size)))


def _arrow_chunks(
    file: SourceFile, reader: pa.RecordBatchStreamReader, columns: Sequence[str] | None
) -> Iterator[Chunk]:
    row = 0
    for batch in arrow_batches(file, reader):
        yield Chunk(row, batch.num_rows, batch if columns is None else batch.select(columns))
        row += batch.num_rows
