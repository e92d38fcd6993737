"""What a run gave up and why, kept in the store until the shard is committed after all."""

import uuid
from collections.abc import Collection, Iterator
from datetime import UTC, datetime

from assay.schemas.base import record_json
from assay.schemas.corpus import Shard
from assay.schemas.store import ShardFailure, failures_prefix
from assay.workers.storage.filesystem import public
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import read_as


class FailureLog:
    """The failures of one run: added to, never changed."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self._store = store
        self._prefix = failures_prefix(run)
        self._attempt = uuid.uuid4().hex[:12]

    def add(self, shard: Shard, error: str) -> None:
        """Notes that `shard` was given up."""
        failure = ShardFailure(
            shard=shard.id,
            uri=public(shard.source.uri),
            first_row=shard.first_row,
            source_rows=shard.rows,
            error=error,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            attempt=self._attempt,
        )
        self._store.create_named(self._prefix, shard.id, ".json", record_json(failure), 1, attempt=self._attempt)

    def standing(self, committed: Collection[str]) -> Iterator[ShardFailure]:
        """The last failure of each shard that isn't in `committed`, by shard."""
        last: dict[str, ShardFailure] = {}
        for key in self._store.list(self._prefix):
            shard = key.rpartition("/")[2].rpartition("-")[0]
            if shard in committed:
                continue
            failure = read_as(self._store, key, ShardFailure)
            if shard not in last or last[shard].at <= failure.at:
                last[shard] = failure
        yield from (last[shard] for shard in sorted(last))
