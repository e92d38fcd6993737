"""Tags a shard exactly once: read, features, tags and statistics, each object put once, the commit last."""

import json
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from assay.sae_runtime.runtime import ChunkFeatures, Runtime
from assay.schemas.base import canonical_json
from assay.schemas.corpus import ReadOptions, Shard
from assay.schemas.scope import Scope
from assay.schemas.statistics import merge, shard_statistics
from assay.schemas.store import ShardCommit, StoredObject, features_prefix, tags_prefix
from assay.schemas.tagger import Tagger
from assay.workers.corpora.reading import BadRecord, BadShard, ColumnTypes, Cursors, Document, read_documents
from assay.workers.feature_table import ParquetBuffer, features_schema, features_table, iter_parquet, parquet_bytes
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagger_set import TaggerSet

_CHUNK_DOCUMENTS = 2048
_CHUNK_BYTES = 4 * 2**20


class TagJob(NamedTuple):
    """Everything that a tagging worker needs; small and picklable."""

    store: str
    options: ReadOptions
    scope: Scope
    taggers: tuple[Tagger, ...]
    watched: tuple[tuple[int, int], ...]
    device: str | None = None
    threads: int = 1


class ShardTagger:
    """Holds backbone, SAEs and taggers, and tags shard after shard."""

    def __init__(self, job: TagJob) -> None:
        """Loads the scope; AssayError if its weights or the taggers don't fit."""
        os.environ["RAYON_NUM_THREADS"] = str(job.threads)
        self._job = job
        self._runtime = Runtime(job.scope, device=job.device, watched=job.watched, threads=job.threads)
        self._store = ObjectStore(job.store)
        self._taggers = TaggerSet(job.taggers, self._runtime.encoder_fingerprint, job.watched)
        self.features_fingerprint = self._runtime.features_fingerprint
        self.tagset = self._taggers.fingerprint(self.features_fingerprint)
        self._features_prefix = features_prefix(self.features_fingerprint)
        self._tags_prefix = tags_prefix(self.tagset)
        self._feature_log = CommitLog(self._store, self._features_prefix)
        self._tag_log = CommitLog(self._store, self._tags_prefix)
        self._cursors = Cursors()
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def process(self, shard: Shard, attempt: str, skip: tuple[BadRecord, ...] = ()) -> ShardCommit:
        """Tags `shard` unless its commit exists; returns the commit that counts.

        The rows of `skip` are known to break a worker: they are quarantined as it says, and the model never sees them.
        """
        done = self._tag_log.find(shard.id)
        if done is not None:
            return done
        started = time.monotonic()
        features = self._feature_log.find(shard.id)
        if features is not None:
            return self._commit_tags(features, self._stored_features(features), attempt, started)
        tags = _Tags(self._taggers)
        try:
            features = self._write_features(shard, skip, tags, attempt, started)
        except BadShard as e:
            features = self._commit_unreadable(shard, str(e), attempt)
            return self._commit_tags(features, [], attempt, started)
        if features.attempt != attempt:
            return self._commit_tags(features, self._stored_features(features), attempt, started)
        return self._put_tags(features, tags, attempt, started)

    def rows(self, shard: Shard) -> tuple[int, int]:
        """The first row with a document and the row after the last one; equal where there is none.

        A shard that can't be read is committed as such: in `process` a worker may have died before it came to that.
        """
        first = end = shard.first_row
        try:
            for record in read_documents(shard, self._job.options, self._cursors):
                if isinstance(record, Document):
                    first, end = first if end > first else record.row, record.row + 1
        except BadShard as e:
            self._commit_unreadable(shard, str(e), uuid.uuid4().hex[:12])
            return shard.first_row, shard.first_row
        return first, end

    def probe(self, shard: Shard, first: int, end: int) -> None:
        """Encodes and tags the documents among rows first..end-1 and writes nothing."""
        upto = shard.model_copy(update={"rows": end - shard.first_row})
        reader = _ChunkReader(upto, self._job.options, self._cursors, first=first)
        for features in self._runtime.stream(reader.texts()):
            self._taggers.apply(reader.table(features))

    def _write_features(
        self, shard: Shard, skip: tuple[BadRecord, ...], tags: "_Tags", attempt: str, started: float
    ) -> ShardCommit:
        """Reads and encodes the shard, feeding each chunk's table to `tags`, and commits the features."""
        reader = _ChunkReader(shard, self._job.options, self._cursors, skip=skip)
        d_model = self._runtime.backbone.d_model if self._job.scope.residuals else None
        buffer = ParquetBuffer(features_schema(self._job.scope.layers, d_model))
        tokens = 0
        for features in self._runtime.stream(reader.texts()):
            table = reader.table(features)
            buffer.write(table)
            tags.add(table)
            tokens += int(features.n_tokens.sum())
        prefix, store = self._features_prefix, self._store
        objects = {
            "features": store.create_named(
                f"{prefix}/data", shard.id, ".parquet", buffer.finish(), buffer.rows, attempt=attempt
            )
        }
        if reader.bad:
            lines = "".join(canonical_json(bad._asdict()) + "\n" for bad in reader.bad).encode()
            objects["quarantine"] = store.create_named(
                f"{prefix}/quarantine", shard.id, ".jsonl", lines, len(reader.bad), attempt=attempt
            )
        commit = ShardCommit(
            shard=shard.id,
            fingerprint=self.features_fingerprint,
            rows_in=buffer.rows + len(reader.bad),
            rows_kept=buffer.rows,
            rows_quarantined=len(reader.bad),
            tokens=tokens,
            quarantine_reasons=dict(sorted(Counter(bad.reason for bad in reader.bad).items())),
            columns=reader.columns.types(),
            objects=objects,
            seconds=round(time.monotonic() - started, 3),
            attempt=attempt,
            worker=self._worker,
        )
        return self._settle(self._feature_log, commit)

    def _commit_unreadable(self, shard: Shard, reason: str, attempt: str) -> ShardCommit:
        commit = ShardCommit(
            shard=shard.id,
            fingerprint=self.features_fingerprint,
            rows_in=0,
            rows_kept=0,
            unreadable=reason,
            objects={},
            attempt=attempt,
            worker=self._worker,
        )
        return self._settle(self._feature_log, commit)

    def _settle(self, log: CommitLog, commit: ShardCommit) -> ShardCommit:
        return commit if log.commit(commit) else log.read(commit.shard)

    def _stored_features(self, features: ShardCommit) -> Iterator[pa.Table]:
        stored = features.objects.get("features")
        if stored is not None:
            yield from iter_parquet(pa.BufferReader(self._store.read_verified(stored)))

    def _commit_tags(
        self, features: ShardCommit, tables: Iterable[pa.Table], attempt: str, started: float
    ) -> ShardCommit:
        tags = _Tags(self._taggers)
        for table in tables:
            tags.add(table)
        return self._put_tags(features, tags, attempt, started)

    def _put_tags(self, features: ShardCommit, tags: "_Tags", attempt: str, started: float) -> ShardCommit:
        objects = dict(features.objects)
        if not features.unreadable:
            objects |= self._put_tag_objects(features.shard, tags, attempt)
        changes = {
            "fingerprint": self.tagset,
            "objects": objects,
            "undecided": tags.undecided,
            "attempt": attempt,
            "seconds": round(time.monotonic() - started, 3),
            "worker": self._worker,
        }
        return self._settle(self._tag_log, features.model_copy(update=changes))

    def _put_tag_objects(self, shard: str, tags: "_Tags", attempt: str) -> dict[str, StoredObject]:
        prefix, store = self._tags_prefix, self._store
        table, statistics = tags.parquet(), tags.statistics()
        return {
            "tags": store.create_named(f"{prefix}/data", shard, ".parquet", *table, attempt=attempt),
            "statistics": store.create_named(f"{prefix}/statistics", shard, ".parquet", *statistics, attempt=attempt),
        }


class _ChunkReader:
    """Cuts a shard's documents into chunks and remembers what each chunk held until its features come back."""

    def __init__(
        self, shard: Shard, options: ReadOptions, cursors: Cursors, skip: tuple[BadRecord, ...] = (), first: int = 0
    ) -> None:
        """Documents of `skip` become its bad records; those before row `first` are left out."""
        self.bad: list[BadRecord] = []
        self._skip = {record.row: record for record in skip}
        self._first = first
        self.columns = ColumnTypes()
        self._records = read_documents(shard, options, cursors, self.columns)
        self._waiting: list[tuple[list[int], list[str], list[int]]] = []

    def texts(self) -> Iterator[list[str]]:
        """Chunks of at most 2,048 documents and 4 MB (or one longer document)."""
        chunk: list[Document] = []
        sizes: list[int] = []
        for record in self._records:
            record = self._skip.get(record.row, record)
            if isinstance(record, BadRecord):
                self.bad.append(record)
                continue
            if record.row < self._first:
                continue
            chunk.append(record)
            sizes.append(len(record.text.encode()))
            if len(chunk) >= _CHUNK_DOCUMENTS or sum(sizes) >= _CHUNK_BYTES:
                yield self._hand_out(chunk, sizes)
                chunk, sizes = [], []
        if chunk:
            yield self._hand_out(chunk, sizes)

    def _hand_out(self, chunk: Sequence[Document], sizes: list[int]) -> list[str]:
        self._waiting.append(([d.row for d in chunk], [d.id for d in chunk], sizes))
        return [d.text for d in chunk]

    def table(self, features: ChunkFeatures) -> pa.Table:
        """The features table of the oldest chunk handed out."""
        return features_table(*self._waiting.pop(0), features)


class _Tags:
    """A shard's tags and statistics as they grow."""

    def __init__(self, taggers: TaggerSet) -> None:
        self._taggers = taggers
        self._buffer: ParquetBuffer | None = None
        self._statistics: list[pa.Table] = []
        self._nulls: Counter[str] = Counter()

    def add(self, features: pa.Table) -> None:
        tags = self._taggers.apply(features)
        self._buffer = self._buffer or ParquetBuffer(tags.schema)
        self._buffer.write(tags)
        self._statistics.append(shard_statistics(tags, self._taggers.columns))
        self._nulls.update({c.name: tags[c.name].null_count for c in self._taggers.columns})

    @property
    def undecided(self) -> dict[str, int]:
        """Tagger -> documents that it could not decide, where there are any."""
        return {name: n for name, n in sorted(self._nulls.items()) if n}

    def parquet(self) -> tuple[bytes, int]:
        """The tags as Parquet, and their number."""
        if self._buffer is None:
            self.add(features_schema(self._layers()).empty_table())
        assert self._buffer is not None  # noqa: S101 - add() made it
        return self._buffer.finish(), self._buffer.rows

    def statistics(self) -> tuple[bytes, int]:
        """The merged statistics as Parquet, and their number of rows."""
        table = merge(self._statistics)
        return parquet_bytes(table), table.num_rows

    def _layers(self) -> list[int]:
        return sorted({f.layer for t in self._taggers.taggers for f in t.features})


def write_identity(store: ObjectStore, key: str, value: object, attempt: str) -> None:
    """Leaves a readable record of what a fingerprint stands for; the first writer's stays."""
    store.create(key, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), attempt=attempt)
