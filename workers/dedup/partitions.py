"""Pass 2: one partition of one stage, matched and committed."""

import os
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from assay.schemas.store import ShardCommit, StoredObject
from assay.workers.dedup.job import MATCHED, DedupJob, read_object, stage_rule
from assay.workers.dedup.matching import Matches, match
from assay.workers.dedup.records import binary_column, binary_values, read_partition
from assay.workers.feature_table import parquet_bytes
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore


class PartitionUnit(NamedTuple):
    """All records of a stage whose keys lie in one range."""

    kind: str
    partition: int

    @property
    def id(self) -> str:
        return f"{self.kind}-{self.partition:05d}"


class PartitionMatcher:
    """Matches partitions; holds one of them in memory."""

    def __init__(self, job: DedupJob, signed: Mapping[str, tuple[StoredObject, ...]]) -> None:
        """`signed` are the objects of pass 1 by kind, in the order of the shards."""
        self._job = job
        self._signed = signed
        self._output = ObjectStore(job.output)
        self._log = CommitLog(self._output, MATCHED)

    def process(self, unit: PartitionUnit, attempt: str) -> ShardCommit:
        """Matches `unit` unless its commit exists; returns the commit that counts."""
        if self._log.has(unit.id):
            return self._log.read(unit.id)
        started = time.monotonic()
        assert self._job.dedup is not None  # noqa: S101 - without it there are no partitions
        records = read_partition(self._output, self._signed[unit.kind], unit.partition)
        rule = stage_rule(self._job.dedup, unit.kind)
        found = match(records, rule.judge, rule.threshold, one_a_text=rule.one_a_text)
        table = pa.table(
            [found.document, found.root, found.rank, binary_column(found.sketch)], names=list(Matches._fields)
        )
        stored = self._output.create_named(
            f"{MATCHED}/data", unit.id, ".parquet", parquet_bytes(table), table.num_rows, attempt
        )
        commit = ShardCommit(
            shard=unit.id,
            fingerprint=self._job.fingerprint,
            rows_in=len(records.key),
            rows_kept=len(records.key),
            objects={"matches": stored},
            seconds=round(time.monotonic() - started, 3),
            attempt=attempt,
            worker=f"{socket.gethostname()}:{os.getpid()}",
        )
        return commit if self._log.commit(commit) else self._log.read(unit.id)


def read_matches(store: ObjectStore, stored: StoredObject) -> Matches:
    """What a partition's commit names."""
    table = read_object(store, stored)
    document, root, rank = (table[name].to_numpy() for name in Matches._fields[:3])
    return Matches(document, root, np.asarray(rank, np.float64), binary_values(table["sketch"]))
