"""Pass 1: reads a tagged shard once and writes the keys of its documents, partitioned, and what is contaminated."""

import os
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.errors import AssayError
from assay.schemas.store import ShardCommit, StoredObject
from assay.workers.corpora.reading import Cursors, Document, read_documents
from assay.workers.dedup import near
from assay.workers.dedup.contamination import Found
from assay.workers.dedup.exact import split_keys, text_key
from assay.workers.dedup.features import feature_bands, feature_keys, feature_vectors, projections
from assay.workers.dedup.job import SIGNED, DedupJob, SearchUnit, layer_names, read_object
from assay.workers.dedup.records import Records, partitioned
from assay.workers.dedup.words import Hashes, WordHasher, mix, normalise, runs
from assay.workers.feature_table import parquet_bytes
from assay.workers.sealing import source_shard
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore

_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 1024, 4 << 20
CONTAMINATED = pa.schema([("index", pa.int64()), ("item", pa.string()), ("share", pa.float64())])


class _Texts(NamedTuple):
    """What one reading of the text gives."""

    places: NDArray[np.int64]
    """of the N documents that are compared, in the tags table"""
    keys: bytes
    """16 bytes a document"""
    signature: NDArray[np.uint32]
    """MinHash [N, permutations]; zeros where there are no words"""
    worded: NDArray[np.bool_]
    contaminated: list[tuple[int, Found]]


class ShardSigner:
    """Signs shards: one reading of the text, whatever the stages."""

    def __init__(self, job: DedupJob) -> None:
        self._job = job
        self._stores = [ObjectStore(uri) for uri in job.stores]
        self._output = ObjectStore(job.output)
        self._log = CommitLog(self._output, SIGNED)
        self._cursors = Cursors()
        self._hasher = WordHasher()

    def process(self, unit: SearchUnit, attempt: str) -> ShardCommit:
        """Signs `unit` unless its commit exists; returns the commit that counts."""
        if self._log.has(unit.id):
            return self._log.read(unit.id)
        started = time.monotonic()
        tags = read_object(self._stores[unit.source], unit.entry.objects["tags"])
        select = self._job.select
        chosen = np.ones(tags.num_rows, bool) if select is None else select(unit)
        texts = self._read(unit, tags, chosen)
        objects = dict(self._write(unit, tags, texts, attempt))
        commit = ShardCommit(
            shard=unit.id,
            fingerprint=self._job.fingerprint,
            rows_in=tags.num_rows,
            rows_kept=len(texts.places),
            rows_dropped=tags.num_rows - len(texts.places),
            tokens=int(tags["n_tokens"].to_numpy()[chosen].sum()),
            objects=objects,
            seconds=round(time.monotonic() - started, 3),
            attempt=attempt,
            worker=f"{socket.gethostname()}:{os.getpid()}",
        )
        return commit if self._log.commit(commit) else self._log.read(unit.id)

    def _read(self, unit: SearchUnit, tags: pa.Table, chosen: NDArray[np.bool_]) -> _Texts:
        spec = self._job.dedup.near if self._job.dedup else None
        index: list[int] = []
        keys = bytearray()
        signed: list[NDArray[np.uint32]] = []
        worded: list[bool] = []
        contaminated: list[tuple[int, Found]] = []
        waiting: list[Hashes] = []
        characters = 0
        for at, document in self._documents(unit, tags, chosen):
            normal = normalise(document.text)
            reference = self._job.reference
            words = self._hasher(normal) if spec or reference else np.zeros(0, np.uint64)
            if reference is not None and (found := reference.find(words)):
                contaminated.append((at, found))
                continue
            index.append(at)
            keys += text_key(normal)
            if spec is None:
                continue
            worded.append(len(words) > 0)
            waiting.append(runs(words, spec.shingle) if len(words) else np.zeros(1, np.uint64))
            characters += len(normal)
            if len(waiting) >= _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
                signed.append(near.signatures(waiting, spec.permutations))
                waiting, characters = [], 0
        if spec is not None:
            signed.append(near.signatures(waiting, spec.permutations))
        return _Texts(
            places=np.array(index, np.int64),
            keys=bytes(keys),
            signature=np.concatenate(signed) if signed else np.zeros((0, 0), np.uint32),
            worded=np.array(worded, bool),
            contaminated=contaminated,
        )

    def _documents(self, unit: SearchUnit, tags: pa.Table, chosen: NDArray[np.bool_]) -> Iterator[tuple[int, Document]]:
        """The chosen documents with their index in the tags table. AssayError if the source holds others than it."""
        entry, rows = unit.entry, tags["row"].to_numpy()
        shard = source_shard(entry)
        at = 0
        for record in read_documents(shard, self._job.options[unit.source], self._cursors):
            if not isinstance(record, Document):
                continue
            if at >= len(rows) or record.row != rows[at]:
                break
            if chosen[at]:
                yield at, record
            at += 1
        else:
            if at == len(rows):
                return
        raise AssayError(
            f"the source's documents aren't those that were tagged (at document {at} of {len(rows)})",
            where=shard.source.uri,
            hint="tag the corpus again",
        )

    def _write(
        self, unit: SearchUnit, tags: pa.Table, texts: _Texts, attempt: str
    ) -> Iterator[tuple[str, StoredObject]]:
        first, rest = split_keys(texts.keys)
        everyone = _Keyed(unit, texts.places, ranks(self._job, tags)[texts.places], first)
        within = self._job.dedup is not None and self._job.dedup.within == "source"
        for kind in self._job.kinds:
            if kind == "exact":
                records = everyone.records(np.ones(len(first), bool), first[:, None], rest)
            elif kind == "near":
                records = self._near(everyone, texts)
            else:
                records = self._features(everyone, unit)
            if within:
                records = records._replace(key=mix(records.key ^ mix(np.full(1, unit.source + 1, np.uint64))))
            data = partitioned(records, self._job.partitions)
            yield kind, self._put(unit, kind, data, len(records.key), attempt)
        if texts.contaminated:
            columns = [list(column) for column in zip(*((i, *f) for i, f in texts.contaminated), strict=True)]
            table = pa.table(columns, schema=CONTAMINATED)
            yield "contaminated", self._put(unit, "contaminated", parquet_bytes(table), table.num_rows, attempt)

    def _near(self, everyone: "_Keyed", texts: _Texts) -> Records:
        assert self._job.dedup is not None and self._job.dedup.near is not None  # noqa: S101 - it is a kind
        signature = texts.signature[texts.worded]
        keys = near.band_keys(signature, near.near_bands(self._job.dedup.near))
        return everyone.records(texts.worded, keys, near.sketches(signature))

    def _features(self, everyone: "_Keyed", unit: SearchUnit) -> Records:
        spec, weights = self._job.dedup.features if self._job.dedup else None, self._job.weights
        assert spec is not None and weights is not None  # noqa: S101 - it is a kind
        table = read_object(self._stores[unit.source], unit.entry.objects["features"], layer_names(spec.layer))
        vectors = feature_vectors(table, spec.layer)[everyone.places]
        enough = np.diff(vectors.indptr) >= spec.min_features
        vectors = vectors[enough]
        return everyone.records(enough, feature_keys(vectors, weights, feature_bands(spec)), projections(vectors))

    def _put(self, unit: SearchUnit, kind: str, data: bytes, rows: int, attempt: str) -> StoredObject:
        return self._output.create_named(f"{SIGNED}/data", f"{kind}-{unit.id}", ".parquet", data, rows, attempt)


class _Keyed(NamedTuple):
    """N compared documents of a shard."""

    unit: SearchUnit
    places: NDArray[np.int64]
    rank: NDArray[np.float64]
    text: Hashes

    def records(self, mask: NDArray[np.bool_], keys: Hashes, sketch: NDArray[np.uint8]) -> Records:
        """A record for each key [M, bands] of the M documents where `mask` holds."""
        count = keys.shape[1]
        document = self.unit.document(self.places[mask])
        return Records(
            key=keys.ravel(),
            document=np.repeat(document, count),
            rank=np.repeat(self.rank[mask], count),
            text=np.repeat(self.text[mask], count),
            sketch=np.repeat(sketch, count, axis=0),
        )


def ranks(job: DedupJob, tags: pa.Table) -> NDArray[np.float64]:
    """What decides which copy stays, higher first; an unknown score is below all others."""
    keep = job.dedup.keep if job.dedup else "first"
    if keep == "longest":
        return tags["n_bytes"].to_numpy().astype(np.float64)
    if job.dedup and job.dedup.score:
        return np.nan_to_num(tags[job.dedup.score].to_numpy().astype(np.float64), nan=-1.0)
    return np.zeros(tags.num_rows)
