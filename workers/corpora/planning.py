"""Plans a corpus: freezes its objects and cuts them into shards without holding any of them in memory."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pyarrow.parquet as pq

from assay.schemas.corpus import CorpusPlan, ReadOptions, Shard, SourceObject
from assay.schemas.errors import AssayError
from assay.workers.corpora.columnar import arrow_batches, check_columns, open_arrow, open_parquet
from assay.workers.corpora.jsonl import Lines, max_line_bytes
from assay.workers.corpora.listing import list_corpus
from assay.workers.corpora.records import BadShard
from assay.workers.corpora.sources import SourceFile

_GROWTH = {"jsonl.gz": 4, "jsonl.zst": 4}  # typical bytes of JSON text in a compressed byte
_ONE_SHARD = 1.25
_SNAP = 0.25
_THREADS = 8
_REPORT_SECONDS = 10.0


def plan_corpus(
    corpus: str, options: ReadOptions, shard_bytes: int, progress: Callable[[str], None] | None = None
) -> CorpusPlan:
    """Freezes `corpus` into shards of about `shard_bytes` bytes of text; every object has at least one shard.

    The same objects, options and shard size always give the same plan. Parquet is cut by its footers; JSONL
    and Arrow objects over 1.25 shards are read through once, several at a time. An object that is found
    damaged does not fail the plan: its last shard does, when it is read. Raises AssayError for a corpus
    without readable files, an unusable text or id column of Parquet or Arrow, and a failing storage.
    """
    if shard_bytes < 1:
        raise AssayError(f"shard_bytes is {shard_bytes}", hint="give a positive number of bytes")
    sources = list_corpus(corpus, progress)
    shards: list[Shard] = []
    told = time.monotonic()
    with ThreadPoolExecutor(min(_THREADS, len(sources))) as pool:
        for done, cut in enumerate(pool.map(lambda source: _cut(source, options, shard_bytes), sources), 1):
            shards.extend(cut)
            if progress and time.monotonic() - told > _REPORT_SECONDS:
                told = time.monotonic()
                progress(f"planned {done} of {len(sources)} objects: {len(shards)} shards")
    return CorpusPlan(corpus=corpus, options=options, shard_bytes=shard_bytes, shards=tuple(shards))


def _cut(source: SourceObject, options: ReadOptions, shard_bytes: int) -> list[Shard]:
    if source.format == "parquet":
        return _cut_parquet(source, options, shard_bytes)
    if source.format == "arrow":
        pieces = _arrow_pieces(source, options, shard_bytes)
    else:
        pieces = _line_pieces(source, options, shard_bytes)
    estimate = source.size * _GROWTH.get(source.format, 1)
    shards: list[Shard] = []
    row = counted = 0
    try:
        for rows, size in pieces:
            first_byte = counted if source.format == "jsonl" else None
            shards.append(Shard.make(source, row, rows or None, size, options, first_byte))
            row, counted = row + rows, counted + size
    except BadShard:
        shards.append(Shard.make(source, row, None, max(0, estimate - counted), options))
    return shards


def _line_pieces(source: SourceObject, options: ReadOptions, shard_bytes: int) -> Iterator[tuple[int, int]]:
    """(rows, bytes) of each shard of a JSONL object; 0 rows for the last, which ends with the object."""
    estimate = source.size * _GROWTH.get(source.format, 1)
    if estimate <= _ONE_SHARD * shard_bytes:
        yield 0, estimate
        return
    lines = Lines(source, max_line_bytes(options))
    try:
        yield from _last_open(_cut_lines(lines, shard_bytes))
    finally:
        lines.close()


def _cut_lines(lines: Lines, shard_bytes: int) -> Iterator[tuple[int, int]]:
    rows = size = 0
    for block in lines.blocks():
        start = 0
        while True:
            newline = block.find(b"\n", start + max(0, shard_bytes - size - 1))
            if newline < 0:
                break
            yield rows + block.count(b"\n", start, newline + 1), size + newline + 1 - start
            rows, size, start = 0, 0, newline + 1
        rows, size = rows + block.count(b"\n", start), size + len(block) - start
    if size:
        yield rows + 1, size


def _arrow_pieces(source: SourceObject, options: ReadOptions, shard_bytes: int) -> Iterator[tuple[int, int]]:
    with SourceFile(source.uri) as file:
        reader = open_arrow(file)
        check_columns(reader.schema, options, source.uri)
        if source.size <= _ONE_SHARD * shard_bytes:
            yield 0, source.size
            return

        def cuts() -> Iterator[tuple[int, int]]:
            rows = size = 0
            for batch in arrow_batches(file, reader):
                rows, size = rows + batch.num_rows, size + batch.column(options.text_column).nbytes
                if size >= shard_bytes:
                    yield rows, size
                    rows = size = 0
            if rows:
                yield rows, size

        yield from _last_open(cuts())


def _last_open(pieces: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    held: tuple[int, int] | None = None
    for piece in pieces:
        if held:
            yield held
        held = piece
    yield 0, held[1] if held else 0


def _cut_parquet(source: SourceObject, options: ReadOptions, shard_bytes: int) -> list[Shard]:
    with SourceFile(source.uri) as file:
        try:
            parquet = open_parquet(file)
        except BadShard:
            return [Shard.make(source, 0, None, source.size, options)]
        check_columns(parquet.schema_arrow, options, source.uri)
        groups = [_group_size(parquet.metadata.row_group(i), options) for i in range(parquet.num_row_groups)]
    shards: list[Shard] = []
    cuts = _cuts(groups, shard_bytes)
    for (first, before), (last, after) in pairwise(cuts):
        shards.append(Shard.make(source, first, last - first, after - before, options))
    return shards


def _group_size(group: pq.RowGroupMetaData, options: ReadOptions) -> tuple[int, int]:
    columns = [group.column(i) for i in range(group.num_columns)]
    size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == options.text_column)
    return group.num_rows, size


def _cuts(groups: list[tuple[int, int]], shard_bytes: int) -> list[tuple[int, int]]:
    """(row, text bytes before it) of each cut; one near a row group's border is moved there."""
    borders = [(0, 0)]
    for rows, size in groups:
        borders.append((borders[-1][0] + rows, borders[-1][1] + size))
    total_rows, total = borders[-1]
    pieces = max(1, round(total / shard_bytes))
    cuts, at = [(0, 0)], 1
    for piece in range(1, pieces):
        target = total * piece // pieces
        while borders[at][1] < target:
            at += 1
        near = min(borders[at - 1], borders[at], key=lambda border: abs(border[1] - target))
        if abs(near[1] - target) > _SNAP * total / pieces:
            (row, size), (next_row, next_size) = borders[at - 1], borders[at]
            near = (row + (next_row - row) * (target - size) // (next_size - size), target)
        if cuts[-1][0] < near[0] < total_rows:
            cuts.append(near)
    return [*cuts, (total_rows, total)]
