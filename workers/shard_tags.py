"""A shard's tags from its features: made chunk by chunk, each object put once, the commit last."""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from assay.schemas.statistics import TagColumn, merge, shard_statistics
from assay.schemas.store import ShardCommit, StoredObject, tags_prefix
from assay.workers.feature_table import ParquetBuffer, iter_parquet, parquet_bytes
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagger_set import TaggerSet


class ShardTags:
    """A shard's tags and statistics as they grow."""

    def __init__(self, columns: Sequence[TagColumn]) -> None:
        self._columns = columns
        self._buffer: ParquetBuffer | None = None
        self._statistics: list[pa.Table] = []
        self._nulls: Counter[str] = Counter()

    def add(self, tags: pa.Table) -> None:
        """Takes the tags of the next documents, as one row group."""
        self._buffer = self._buffer or ParquetBuffer(tags.schema)
        self._buffer.write(tags)
        self._statistics.append(shard_statistics(tags, self._columns))
        self._nulls.update({c.name: tags[c.name].null_count for c in self._columns})

    @property
    def rows(self) -> int:
        """Documents so far."""
        return self._buffer.rows if self._buffer else 0

    @property
    def undecided(self) -> dict[str, int]:
        """Tagger -> documents that it could not decide, where there are any."""
        return {name: n for name, n in sorted(self._nulls.items()) if n}

    def parquet(self, empty: pa.Table) -> tuple[bytes, int]:
        """The tags as Parquet, and their number; `empty` are the tags of no documents."""
        if self._buffer is None:
            self.add(empty)
        assert self._buffer is not None  # noqa: S101 - add() made it
        return self._buffer.finish(), self._buffer.rows

    def statistics(self) -> tuple[bytes, int]:
        """The merged statistics as Parquet, and their number of rows."""
        table = merge(self._statistics)
        return parquet_bytes(table), table.num_rows


class TagWriter:
    """Commits a shard's tags exactly once, to the same objects whoever makes them."""

    def __init__(self, store: ObjectStore, taggers: TaggerSet, tagset: str) -> None:
        self._store, self._taggers, self.tagset = store, taggers, tagset
        self._prefix = tags_prefix(tagset)
        self.log = CommitLog(store, self._prefix)
        self.worker = f"{socket.gethostname()}:{os.getpid()}"

    def new(self) -> ShardTags:
        """Where a shard's tags are gathered."""
        return ShardTags(self._taggers.columns)

    def from_features(self, features: ShardCommit, attempt: str, started: float) -> ShardCommit:
        """Tags a shard from its stored features and commits it; returns the commit that counts."""
        tags = self.new()
        for table in stored_tables(self._store, features, "features", self._taggers.reads):
            tags.add(self._taggers.apply(table))
        return self.put(features, tags, attempt, started)

    def put(
        self,
        features: ShardCommit,
        tags: ShardTags,
        attempt: str,
        started: float,
        more: dict[str, StoredObject] | None = None,
    ) -> ShardCommit:
        """Commits `tags` to the shard whose features those are, with `more` objects beside; the commit that counts."""
        objects = dict(features.objects)
        if not features.unreadable:
            table, statistics, shard = tags.parquet(self._taggers.empty()), tags.statistics(), features.shard
            objects |= (more or {}) | {
                "tags": self._store.create_named(f"{self._prefix}/data", shard, ".parquet", *table, attempt=attempt),
                "statistics": self._store.create_named(
                    f"{self._prefix}/statistics", shard, ".parquet", *statistics, attempt=attempt
                ),
            }
        return self.settle(features, objects, tags.undecided, attempt, started)

    def settle(
        self,
        features: ShardCommit,
        objects: dict[str, StoredObject],
        undecided: dict[str, int],
        attempt: str,
        started: float,
    ) -> ShardCommit:
        """Commits objects that are there already; returns the commit that counts."""
        changes = {
            "fingerprint": self.tagset,
            "objects": objects,
            "undecided": undecided,
            "attempt": attempt,
            "seconds": round(time.monotonic() - started, 3),
            "worker": self.worker,
        }
        commit = features.model_copy(update=changes)
        return commit if self.log.commit(commit) else self.log.read(commit.shard)


def stored_tables(
    store: ObjectStore, commit: ShardCommit, role: str, columns: Iterable[str] | None = None
) -> Iterator[pa.Table]:
    """The tables of a commit's object, verified; none where it hasn't one."""
    stored = commit.objects.get(role)
    if stored is not None:
        source = pa.BufferReader(store.read_verified(stored))
        yield from iter_parquet(source, None if columns is None else list(columns))
