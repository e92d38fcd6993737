"""A takedown list, and the parts of a dataset without the documents that it names."""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assay.schemas.errors import AssayError, printable
from assay.schemas.recipe import Output
from assay.schemas.store import StoredObject
from assay.workers.corpora.reading import Document, read_documents
from assay.workers.curate_job import CurateJob, TaggedShard
from assay.workers.dataset_file import new_file
from assay.workers.sealing import source_shard
from assay.workers.storage.objects import ObjectStore

_HASH = re.compile(r"sha256:([0-9a-f]{64})")


class TakedownList(NamedTuple):
    """Documents that may be in no new dataset."""

    ids: frozenset[str]
    hashes: frozenset[str]
    """SHA-256 of texts, as UTF-8"""

    @property
    def entries(self) -> list[str]:
        """What the list holds, sorted."""
        return sorted([*self.ids, *(f"sha256:{h}" for h in self.hashes)])

    @property
    def sha256(self) -> str:
        """Names the list, whatever the order of its lines."""
        return hashlib.sha256("".join(f"{entry}\n" for entry in self.entries).encode()).hexdigest()

    def holds(self, doc_id: str, text: str | None) -> bool:
        """Whether the list names a document."""
        return doc_id in self.ids or (text is not None and text_hash(text) in self.hashes)


class Rewritten(NamedTuple):
    """A part of an earlier version without the documents that were taken down."""

    stored: StoredObject
    rows: int
    """that are gone"""
    tokens: int


def text_hash(text: str) -> str:
    """SHA-256 of a text as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_takedown(path: Path) -> TakedownList:
    """A list with an id or sha256:... a line; blank lines and lines that begin with # are left out."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        raise AssayError(f"can't read the takedown list: {e}", where=str(path)) from e
    entries = [line for line in lines if line and not line.startswith("#")]
    for entry in entries:
        if entry.startswith("sha256:") and not _HASH.fullmatch(entry):
            raise AssayError(f"no SHA-256: {printable(entry)}", where=str(path), hint="sha256: and 64 hex digits")
    hashes = frozenset(m[1] for entry in entries if (m := _HASH.fullmatch(entry)))
    return TakedownList(frozenset(entry for entry in entries if not entry.startswith("sha256:")), hashes)


def listed_ids(job: CurateJob, units: Iterable[TaggedShard], listed: TakedownList) -> frozenset[str]:
    """The list's ids, and those of the documents of `units` whose text it names; texts are read only for hashes."""
    found = set(listed.ids)
    if listed.hashes:
        for unit in units:
            for record in read_documents(source_shard(unit.entry), job.options[unit.source]):
                if isinstance(record, Document) and text_hash(record.text) in listed.hashes:
                    found.add(record.id)
    return frozenset(found)


def rewrite_part(
    store: ObjectStore, part: StoredObject, key: str, listed: TakedownList, text: str, output: Output, attempt: str
) -> Rewritten | None:
    """Writes `part` as `key` without the listed documents, the others untouched; None if it holds none of them.

    `text` is the name of the text column. AssayError if hashes are listed and the dataset doesn't have it.
    """
    data = store.read_verified(part)
    made = (_parquet if output.format == "parquet" else _lines)(data, listed, text, output)
    if made is None:
        return None
    body, rows, gone, tokens = made
    stored = StoredObject(key=key, size=len(body), sha256=hashlib.sha256(body).hexdigest(), rows=rows)
    if not store.create(key, body, attempt=attempt):
        store.read_verified(stored)
    return Rewritten(stored, gone, tokens)


def _parquet(data: bytes, listed: TakedownList, text: str, output: Output) -> tuple[bytes, int, int, int] | None:
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    if listed.hashes and text not in file.schema_arrow.names:
        raise _no_text(text)
    columns = ["assay_id", "assay_n_tokens", *([text] if listed.hashes else [])]
    looked = file.read(columns=columns, use_threads=False)
    gone = _gone(looked["assay_id"].to_pylist(), looked[text].to_pylist() if listed.hashes else None, listed)
    if not gone.any():
        return None
    kept = new_file(output, file.schema_arrow)
    table = file.read(use_threads=False).filter(pa.array(~gone))
    if table.num_rows:
        kept.write(table)
    tokens = pc.sum(looked["assay_n_tokens"].filter(pa.array(gone))).as_py() or 0
    return kept.finish(), table.num_rows, int(gone.sum()), int(tokens)


def _lines(data: bytes, listed: TakedownList, text: str, output: Output) -> tuple[bytes, int, int, int] | None:
    lines = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read().splitlines(keepends=True)
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    if listed.hashes and rows and text not in rows[0]:
        raise _no_text(text)
    texts = [row[text] for row in rows] if listed.hashes else None
    gone = _gone([row["assay_id"] for row in rows], texts, listed)
    if not gone.any():
        return None
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        for line, taken in zip(lines, gone, strict=True):
            if not taken:
                stream.write(line)
    tokens = sum(row["assay_n_tokens"] for row, taken in zip(rows, gone, strict=True) if taken)
    return sink.getvalue().to_pybytes(), int((~gone).sum()), int(gone.sum()), tokens


def _gone(ids: Sequence[str], texts: Sequence[str | None] | None, listed: TakedownList) -> NDArray[np.bool_]:
    pairs = zip(ids, texts if texts is not None else [None] * len(ids), strict=True)
    return np.array([listed.holds(i, text) for i, text in pairs], bool)


def _no_text(name: str) -> AssayError:
    return AssayError(
        f"the dataset has no column {name!r}, so a text can't be found in it by its hash",
        hint="list ids, or keep the text among output.columns",
    )
