"""Finds text of benchmarks in documents: runs of words that both hold (13 words, as in Brown et al. 2020)."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assay.schemas.dedup import Decontaminate, ReferenceFile
from assay.schemas.errors import AssayError, printable
from assay.workers.dedup.words import Hashes, WordHasher, normalise, runs
from assay.workers.storage.create_once import read_whole
from assay.workers.storage.filesystem import filesystem, public, storage_errors

_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


class Found(NamedTuple):
    """A benchmark item that a document holds text of."""

    item: str
    """file#row:column"""
    share: float
    """of the item's runs that the document holds"""


class Reference(NamedTuple):
    """Every run of every benchmark item; small beside the benchmarks, and picklable."""

    lengths: tuple[int, ...]
    """words in a run; below ngram only where there are items of exactly that many words"""
    run: Hashes
    """ascending, with the length mixed in; an item's run stands once for each item"""
    item: NDArray[np.int32]
    runs_of: NDArray[np.int32]
    """distinct runs of each item"""
    names: tuple[str, ...]
    overlap: float

    def find(self, words: Hashes) -> Found | None:
        """The item that the document holds most of (the first of several), if it holds enough of one."""
        parts = [_marked(runs(words, n), n) for n in self.lengths if n <= len(words)]
        mine = np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))
        first = np.searchsorted(self.run, mine, "left")
        counts = np.searchsorted(self.run, mine, "right") - first
        if not counts.any():
            return None
        at = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        held = np.bincount(self.item[at], minlength=len(self.names)) / self.runs_of
        best = int(held.argmax())
        return Found(self.names[best], float(held[best])) if held[best] >= self.overlap else None


def read_reference(spec: Decontaminate) -> tuple[Reference, tuple[ReferenceFile, ...]]:
    """Reads the benchmark files. AssayError for one that can't be read or that holds no text."""
    hasher = WordHasher()
    names: list[str] = []
    items: list[Hashes] = []
    lengths: set[int] = set()
    files = []
    least = min(spec.shortest, spec.ngram)
    for path in spec.reference:
        fs, inside = filesystem(path)
        with storage_errors(path):
            data = read_whole(fs, inside)
        name, found, short = PurePosixPath(inside).name, 0, 0
        for row, column, text in _texts(name, data, spec.columns, path):
            words = hasher(normalise(text))
            if len(words) < least:
                short += 1
                continue
            found += 1
            length = min(len(words), spec.ngram)
            lengths.add(length)
            items.append(np.unique(_marked(runs(words, length), length)))
            names.append(f"{name}#{row}:{column}" if column else f"{name}#{row}")
        if not found:
            raise AssayError(
                f"no text of {least} words or more in this benchmark file ({short} shorter ones)",
                where=public(path),
                hint="name its text columns with `columns`, or lower `shortest`",
            )
        files.append(ReferenceFile(name=name, sha256=hashlib.sha256(data).hexdigest(), items=found, too_short=short))
    run = np.concatenate(items)
    item = np.repeat(np.arange(len(items), dtype=np.int32), [len(part) for part in items])
    order = np.lexsort((item, run))
    return (
        Reference(
            lengths=tuple(sorted(lengths)),
            run=run[order],
            item=item[order],
            runs_of=np.array([len(part) for part in items], np.int32),
            names=tuple(names),
            overlap=spec.overlap,
        ),
        tuple(files),
    )


def _marked(values: Hashes, length: int) -> Hashes:
    """Runs of different lengths kept apart."""
    return values ^ np.uint64(length)


def _texts(name: str, data: bytes, columns: Sequence[str], where: str) -> Iterator[tuple[int, str, str]]:
    """Row, column and text of every text of a file; a line of a .txt file is one text of no column."""
    suffixes = PurePosixPath(name).suffixes
    try:
        if suffixes and suffixes[-1] in _COMPRESSED:
            data = pa.CompressedInputStream(pa.BufferReader(data), _COMPRESSED[suffixes.pop()]).read()
        kind = suffixes[-1] if suffixes else ""
        if kind == ".txt":
            yield from ((row, "", line) for row, line in enumerate(data.decode().splitlines()))
        elif kind in (".jsonl", ".json"):
            rows = (json.loads(line) for line in data.splitlines() if line.strip())
            yield from _strings(rows, columns, where)
        elif kind == ".parquet":
            batches = pq.ParquetFile(io.BytesIO(data)).iter_batches(1024)
            yield from _strings((row for batch in batches for row in batch.to_pylist()), columns, where)
        else:
            raise AssayError(
                "unknown kind of benchmark file",
                where=public(where),
                hint="known: .jsonl, .parquet and .txt (one text a line); .jsonl and .txt also as .gz or .zst",
            )
    except (ValueError, OSError, pa.ArrowException) as error:
        raise AssayError(f"this benchmark file can't be read: {printable(error)}", where=public(where)) from error


def _strings(rows: Iterable[object], columns: Sequence[str], where: str) -> Iterator[tuple[int, str, str]]:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise AssayError(f"row {number} is no object with columns", where=public(where))
        if missing := [name for name in columns if name not in row]:
            raise AssayError(
                f"row {number} has no column {missing[0]!r}", where=public(where), hint=f"it has: {', '.join(row)}"
            )
        for name in columns or row:
            if isinstance(row[name], str):
                yield number, name, row[name]
