"""Tags a shard exactly once: read, features, tags and statistics, each object put once, the commit last."""

import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from assay.sae_runtime.runtime import ChunkFeatures, Runtime
from assay.schemas.base import canonical_json
from assay.schemas.corpus import ReadOptions, Shard
from assay.schemas.scope import Scope
from assay.schemas.store import ShardCommit, features_prefix
from assay.schemas.tagger import Tagger
from assay.workers.corpora.reading import BadRecord, BadShard, ColumnTypes, Cursors, Document, read_documents
from assay.workers.feature_table import ParquetBuffer, features_schema, features_table
from assay.workers.shard_tags import ShardTags, TagWriter
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
        self._feature_log = CommitLog(self._store, self._features_prefix)
        self._writer = TagWriter(self._store, self._taggers, self.tagset)
        self._cursors = Cursors()
        self.worked = 0
        """bytes of text that the model saw for the last shard"""

    def process(self, shard: Shard, attempt: str, skip: tuple[BadRecord, ...] = ()) -> ShardCommit:
        """Tags `shard` unless its commit exists; returns the commit that counts.

        The rows of `skip` are known to break a worker: they are quarantined as it says, and the model never sees them.
        """
        self.worked = 0
        done = self._writer.log.find(shard.id)
        if done is not None:
            return done
        started = time.monotonic()
        features = self._feature_log.find(shard.id)
        if features is not None:
            return self._writer.from_features(features, attempt, started)
        tags = self._writer.new()
        try:
            features = self._write_features(shard, skip, tags, attempt, started)
        except BadShard as e:
            features = self._commit_unreadable(shard, str(e), attempt)
        if features.attempt != attempt:
            return self._writer.from_features(features, attempt, started)
        return self._writer.put(features, tags, attempt, started)

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
        self, shard: Shard, skip: tuple[BadRecord, ...], tags: ShardTags, attempt: str, started: float
    ) -> ShardCommit:
        """Reads and encodes the shard, feeding each chunk's table to `tags`, and commits the features."""
        reader = _ChunkReader(shard, self._job.options, self._cursors, skip=skip)
        d_model = self._runtime.backbone.d_model if self._job.scope.residuals else None
        buffer = ParquetBuffer(features_schema(self._job.scope.layers, d_model))
        tokens = 0
        for features in self._runtime.stream(reader.texts()):
            table = reader.table(features)
            buffer.write(table)
            tags.add(self._taggers.apply(table))
            tokens += int(features.n_tokens.sum())
        self.worked = reader.bytes
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
            worker=self._writer.worker,
        )
        return self._settle(commit)

    def _commit_unreadable(self, shard: Shard, reason: str, attempt: str) -> ShardCommit:
        commit = ShardCommit(
            shard=shard.id,
            fingerprint=self.features_fingerprint,
            rows_in=0,
            rows_kept=0,
            unreadable=reason,
            objects={},
            attempt=attempt,
            worker=self._writer.worker,
        )
        return self._settle(commit)

    def _settle(self, commit: ShardCommit) -> ShardCommit:
        return commit if self._feature_log.commit(commit) else self._feature_log.read(commit.shard)


class _ChunkReader:
    """Cuts a shard's documents into chunks and remembers what each chunk held until its features come back."""

    def __init__(
        self, shard: Shard, options: ReadOptions, cursors: Cursors, skip: tuple[BadRecord, ...] = (), first: int = 0
    ) -> None:
        """Documents of `skip` become its bad records; those before row `first` are left out."""
        self.bad: list[BadRecord] = []
        self.bytes = 0
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
        self.bytes += sum(sizes)
        self._waiting.append(([d.row for d in chunk], [d.id for d in chunk], sizes))
        return [d.text for d in chunk]

    def table(self, features: ChunkFeatures) -> pa.Table:
        """The features table of the oldest chunk handed out."""
        return features_table(*self._waiting.pop(0), features)
