"""Reads chosen rows of a shard with all their source columns: the tables that curated data come from."""

import json
import math
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

from assay.schemas.corpus import ReadOptions, Shard
from assay.schemas.errors import AssayError
from assay.workers.corpora.columnar import BATCH_BYTES, BATCH_ROWS, Chunks
from assay.workers.corpora.columns import JSON, ColumnTypes, parse_type
from assay.workers.corpora.jsonl import Lines, parse_line
from assay.workers.corpora.reading import Cursors, open_shard
from assay.workers.corpora.records import BadShard
from assay.workers.storage.filesystem import public


def read_rows(
    shard: Shard,
    options: ReadOptions,
    rows: Sequence[int],
    columns: Mapping[str, str] | None = None,
    cursors: Cursors | None = None,
) -> Iterator[pa.Table]:
    """The given rows of the shard, once each and in order, in tables of bounded size.

    `rows` are row numbers of the object, as in Document.row, increasing. With `columns` (name -> type name,
    as `unify_columns` gives them) every table has exactly these columns and types, absent values are null,
    and a "json" column is JSON text. Without it, Parquet and Arrow columns come untouched, and
    JSONL columns with the types that fit each table. Half a UTF-16 pair in a JSONL column other than the text,
    which Arrow can't hold, becomes U+FFFD. Raises BadShard when a row can't be read, ValueError when `rows`
    don't increase or lie outside the shard.
    """
    end = math.inf if shard.rows is None else shard.first_row + shard.rows
    if any(a >= b for a, b in pairwise(rows)):
        raise ValueError("rows must increase")
    if not rows:
        return
    if rows[0] < shard.first_row or rows[-1] >= end:
        raise ValueError(f"rows {rows[0]} to {rows[-1]} aren't all in the shard")
    with open_shard(shard, options, cursors, None) as stream:
        if isinstance(stream, Lines):
            yield from _from_lines(stream, rows, columns, shard)
        else:
            yield from _from_chunks(stream, rows, columns, shard)


def _from_chunks(
    stream: Chunks, rows: Sequence[int], columns: Mapping[str, str] | None, shard: Shard
) -> Iterator[pa.Table]:
    at = 0
    while at < len(rows):
        stream.skip_to(rows[at])
        run = at + 1
        while run < len(rows) and rows[run] < rows[at] + BATCH_ROWS:
            run += 1
        for chunk in stream.read(rows[run - 1] + 1):
            chosen = [row - chunk.row for row in rows[at:run] if chunk.row <= row < chunk.row + chunk.rows]
            at += len(chosen)
            if not chosen:
                continue
            if chunk.batch is None:
                what = f"row {rows[at - 1]} can't be decoded: {chunk.detail}"
                raise BadShard(what, where=public(shard.source.uri))
            batch = chunk.batch if len(chosen) == chunk.rows else chunk.batch.take(pa.array(chosen))
            table = pa.Table.from_batches([batch])
            yield table if columns is None else _conform(table, columns, shard)


def _conform(table: pa.Table, columns: Mapping[str, str], shard: Shard) -> pa.Table:
    arrays = []
    for name, type_name in columns.items():
        kind = parse_type(type_name)
        found = table.schema.get_all_field_indices(name)
        try:
            if not found:
                arrays.append(pa.nulls(table.num_rows, kind))
            elif type_name == JSON:
                values = table.column(found[0]).to_pylist()
                arrays.append(pa.array([_json_text(value) for value in values], kind))
            else:
                column = table.column(found[0])
                safe = not (pa.types.is_integer(column.type) and pa.types.is_floating(kind))
                arrays.append(column if column.type == kind else column.cast(kind, safe=safe))
        except (pa.ArrowException, ValueError) as error:
            raise _unfit(name, type_name, shard, error) from error
    return pa.Table.from_arrays(arrays, names=list(columns))


def _from_lines(
    stream: Lines, rows: Sequence[int], columns: Mapping[str, str] | None, shard: Shard
) -> Iterator[pa.Table]:
    batch: list[dict[str, Any]] = []
    size, wanted = 0, set(rows)
    for row, line in stream.read(rows[-1] + 1):
        if row not in wanted:
            continue
        value = parse_line(row, line) if line is not None else None
        if line is None or not isinstance(value, dict):
            raise BadShard(f"row {row} holds no JSON object", where=public(shard.source.uri))
        batch.append(value)
        size += len(line)
        if size >= BATCH_BYTES or len(batch) >= BATCH_ROWS:
            yield _table(batch, columns, shard)
            batch, size = [], 0
    if batch:
        yield _table(batch, columns, shard)


def _table(values: list[dict[str, Any]], columns: Mapping[str, str] | None, shard: Shard) -> pa.Table:
    if columns is None:
        seen = ColumnTypes()
        for value in values:
            seen.add_row(value)
        columns = seen.types()
    arrays = []
    for name, type_name in columns.items():
        column = [value.get(name) for value in values]
        try:
            arrays.append(_array(column, type_name))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise _unfit(name, type_name, shard, error) from error
    return pa.Table.from_arrays(arrays, names=list(columns))


def _array(values: list[Any], type_name: str) -> pa.Array:
    kind = parse_type(type_name)
    if type_name == JSON:
        values = [_json_text(value) for value in values]
    elif pa.types.is_floating(kind):
        values = [None if value is None else float(value) for value in values]
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        return pa.array([None if value is None else _whole(value) for value in values], kind)


def _whole(text: str) -> str:
    """`text` with U+FFFD for each half of a UTF-16 pair."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _json_text(value: Any) -> str | None:
    return None if value is None else json.dumps(jsonable(value), separators=(",", ":"), ensure_ascii=False)


def jsonable(value: Any) -> Any:
    """`value` as JSON can hold it: bytes as text or else base64, dates ISO 8601, NaN and infinities null."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _unfit(name: str, type_name: str, shard: Shard, error: Exception) -> AssayError:
    return AssayError(
        f"column {name!r} doesn't fit the type {type_name[:60]} ({str(error)[:100]})",
        where=public(shard.source.uri),
        hint="the columns must be unified over every shard that is read; tag the corpus again if it changed",
    )
