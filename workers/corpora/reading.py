"""Reads a shard as documents, with every bad row named and none lost.

rows_in of a shard is documents plus bad records. A blank line of JSONL is neither, but has a row number.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from assay.schemas.corpus import ReadOptions, Shard
from assay.workers.corpora.columnar import Chunk, Chunks, check_columns
from assay.workers.corpora.columns import ColumnTypes
from assay.workers.corpora.jsonl import Lines, max_line_bytes, parse_line
from assay.workers.corpora.records import REASONS, BadRecord, BadShard, Document, bad
from assay.workers.corpora.sources import check_unchanged

__all__ = [
    "REASONS",
    "BadRecord",
    "BadShard",
    "ColumnTypes",
    "Cursors",
    "Document",
    "read_documents",
    "source_columns",
]
_MISSING = object()
_OPEN_STREAMS = 2


class Cursors:
    """Keeps at most two objects open where their last shards ended, so that shards read in increasing order
    decompress their object once. For one thread; close it when done."""

    def __init__(self) -> None:
        self._open: dict[tuple[Any, ...], Lines | Chunks] = {}

    def take(self, key: tuple[Any, ...], row: int) -> Lines | Chunks | None:
        """The open stream of `key`, now the caller's, unless it is past `row`."""
        stream = self._open.pop(key, None)
        if stream is not None and stream.row > row:
            stream.close()
            return None
        return stream

    def keep(self, key: tuple[Any, ...], stream: Lines | Chunks) -> None:
        """Takes a stream back; the one that was unused for longest may be closed."""
        self._open[key] = stream
        while len(self._open) > _OPEN_STREAMS:
            self._open.pop(next(iter(self._open))).close()

    def close(self) -> None:
        """Closes all streams."""
        while self._open:
            self._open.popitem()[1].close()


@contextmanager
def open_shard(
    shard: Shard, options: ReadOptions, cursors: Cursors | None, columns: tuple[str, ...] | None
) -> Iterator[Lines | Chunks]:
    """A stream that stands at the shard's first row. `columns` limits a columnar object to these; None: all.

    Raises SourceChanged, before or at the end, if the object isn't the one that was planned.
    """
    source = shard.source
    check_unchanged(source)
    lines = source.format not in ("parquet", "arrow")
    limit = max_line_bytes(options)
    key = (source.uri, source.etag, limit if lines else columns)
    stream = cursors.take(key, shard.first_row) if cursors is not None else None
    if stream is None:
        stream = Lines(source, limit) if lines else Chunks(source, columns)
    finished = False
    try:
        if isinstance(stream, Lines) and shard.first_byte is not None and stream.row < shard.first_row:
            stream.jump_to(shard.first_row, shard.first_byte)
        stream.skip_to(shard.first_row)
        try:
            yield stream
        except BadShard:
            check_unchanged(source)  # what looks like damage may be another object
            raise
        check_unchanged(source)
        finished = True
    finally:
        if finished and cursors is not None:
            cursors.keep(key, stream)
        else:
            stream.close()


def read_documents(
    shard: Shard, options: ReadOptions, cursors: Cursors | None = None, columns: ColumnTypes | None = None
) -> Iterator[Document | BadRecord]:
    """Every row of the shard once, in order, as a document or a bad record; memory holds one batch or line.

    `columns` collects the source columns of the documents on the way. Raises BadShard for a shard that can't
    be read as a whole: damage in a compressed object shows only when it is reached, so the caller must then
    discard what it got. Raises AssayError for a missing text column and for a failing storage.
    """
    end = None if shard.rows is None else shard.first_row + shard.rows
    intake = _Intake(shard, options)
    wanted = tuple(dict.fromkeys(filter(None, (options.text_column, options.id_column))))
    with open_shard(shard, options, cursors, wanted) as stream:
        if isinstance(stream, Lines):
            for row, line in stream.read(end):
                record, value = intake.line(row, line)
                if record is None:
                    continue
                if columns is not None and isinstance(record, Document):
                    columns.add_row(value)
                yield record
            return
        check_columns(stream.schema, options, shard.source.uri)
        if columns is not None:
            columns.add_schema(stream.schema)
        for chunk in stream.read(end):
            yield from intake.chunk(chunk)


def source_columns(shard: Shard, options: ReadOptions) -> dict[str, str]:
    """The shard's source columns and type names (see `columns`); reads a JSONL shard through."""
    columns = ColumnTypes()
    if shard.source.format in ("parquet", "arrow"):
        with open_shard(shard, options, None, None) as stream:
            if isinstance(stream, Chunks):
                columns.add_schema(stream.schema)
    else:
        for _ in read_documents(shard, options, columns=columns):
            pass
    return columns.types()


class _Intake:
    """Decides for each row of one shard whether it is a document."""

    def __init__(self, shard: Shard, options: ReadOptions) -> None:
        self._options = options
        self._object = hashlib.sha256(shard.source.uri.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        self._ids: set[str] = set()
        self._told = ""

    def line(self, row: int, line: bytes | None) -> tuple[Document | BadRecord | None, dict[str, Any]]:
        """The record on a line, None if it is blank, and the line's object."""
        if line is None:
            return bad(row, "too_long", f"a line of more than {max_line_bytes(self._options)} bytes"), {}
        value = parse_line(row, line)
        if not isinstance(value, dict):
            return value, {}
        column, id_column = self._options.text_column, self._options.id_column
        text = value.get(column, _MISSING)
        if text is _MISSING:
            some = ", ".join(list(value)[:10])
            return bad(row, "no_text", f"no column {column!r} among: {some}"), value
        if text is None:
            return bad(row, "null_text"), value
        if not isinstance(text, str):
            return bad(row, "wrong_type", f"column {column!r} holds {type(text).__name__}"), value
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            return bad(row, "lone_surrogate", f"at character {error.start}: {text[error.start]}"), value
        return self._admit(row, text, data, value.get(id_column, _MISSING) if id_column else None), value

    def chunk(self, chunk: Chunk) -> Iterator[Document | BadRecord]:
        """The records of a chunk of columnar rows."""
        if chunk.batch is None:
            detail = chunk.detail if chunk.detail != self._told else ""
            self._told = chunk.detail
            for row in range(chunk.row, chunk.row + chunk.rows):
                yield bad(row, "bad_page", detail if row == chunk.row else "")
            return
        texts = _values(chunk.batch.column(self._options.text_column))
        id_column = self._options.id_column
        ids = _values(chunk.batch.column(id_column)) if id_column else [None] * chunk.rows
        for row, (data, raw_id) in enumerate(zip(texts, ids, strict=True), chunk.row):
            if data is None:
                yield bad(row, "null_text")
                continue
            try:
                text = data.decode("utf-8")
                raw_id = raw_id.decode("utf-8") if isinstance(raw_id, bytes) else raw_id
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                yield bad(row, "not_utf8", f"byte {byte:#04x} at {error.start}: {error.reason}")
                continue
            yield self._admit(row, text, data, raw_id)

    def _admit(self, row: int, text: str, data: bytes, raw_id: object) -> Document | BadRecord:
        if len(data) > self._options.max_document_bytes:
            return bad(row, "too_long", f"{len(data)} bytes, the limit is {self._options.max_document_bytes}")
        if not text or text.isspace():
            return bad(row, "empty_text")
        column = self._options.id_column
        if not column:
            return Document(row, f"{hashlib.sha256(data).hexdigest()[:16]}-{self._object}-{row:x}", text)
        if raw_id is None or raw_id is _MISSING or raw_id == "":
            problem = "empty" if raw_id == "" else "missing or null"
            return bad(row, "wrong_type", f"id column {column!r} is {problem}")
        if isinstance(raw_id, bool) or not isinstance(raw_id, str | int):
            return bad(row, "wrong_type", f"id column {column!r} holds {type(raw_id).__name__}")
        identity = str(raw_id)
        if not identity.isascii() and any("\ud800" <= letter <= "\udfff" for letter in identity):
            return bad(row, "lone_surrogate", f"id {identity}")
        if identity in self._ids:
            return bad(row, "duplicate_id", identity)
        self._ids.add(identity)
        return Document(row, identity, text)


def _values(column: pa.Array) -> list[Any]:
    """The values, text as undecoded bytes: a cast to binary checks nothing, so none can spoil the rest."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        return column.to_pylist()
    return column.cast(pa.large_binary()).to_pylist()
