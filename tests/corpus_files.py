"""Writes small corpora, good and broken, for the reading tests."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assay.schemas.corpus import CorpusPlan, ReadOptions
from assay.workers.corpora.planning import plan_corpus
from assay.workers.corpora.reading import BadRecord, Cursors, Document, read_documents

BIG = 2**30


def json_lines(rows: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def texts(count: int, words: int = 5) -> list[dict[str, Any]]:
    return [{"text": f"document {i} " + "word " * (words + i % 7), "n": i} for i in range(count)]


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else zstd(data) if path.suffix == ".zst" else data)
    return path


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def write_parquet(path: Path, rows: list[dict[str, Any]] | pa.Table, **settings: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows) if isinstance(rows, list) else rows
    pq.write_table(table, path, **settings)
    return path


def write_arrow(path: Path, rows: list[dict[str, Any]], batch_rows: int) -> Path:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return path


def read_all(
    corpus: Path | str | CorpusPlan,
    options: ReadOptions | None = None,
    shard_bytes: int = BIG,
    cursors: Cursors | None = None,
) -> list[Document | BadRecord]:
    options = options or ReadOptions()
    plan = corpus if isinstance(corpus, CorpusPlan) else plan_corpus(str(corpus), options, shard_bytes)
    return [record for shard in plan.shards for record in read_documents(shard, options, cursors)]


def reasons(records: Iterable[Document | BadRecord]) -> list[tuple[int, str]]:
    return [(r.row, r.reason) for r in records if isinstance(r, BadRecord)]
