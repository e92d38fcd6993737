"""Seals a run: adds its commits up and writes the manifest, which is the same whoever writes it."""

import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from assay.schemas.base import record_json
from assay.schemas.corpus import CorpusPlan, Shard
from assay.schemas.statistics import TagColumn, merge
from assay.schemas.store import (
    Recomputed,
    RunRecord,
    ShardCommit,
    ShardEntry,
    StoredObject,
    TagManifest,
    run_prefix,
    tags_prefix,
)
from assay.workers.corpora.columns import unify_columns
from assay.workers.feature_table import iter_parquet, parquet_bytes
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore

_MERGE_EVERY = 64


def seal(
    store: ObjectStore,
    record: RunRecord,
    corpus: CorpusPlan,
    taggers: Sequence[TagColumn],
    recomputed_from: str | None = None,
) -> TagManifest:
    """Writes the manifest once every shard is committed; where the run was sealed before, that manifest stays.

    `recomputed_from` names the run whose undecided documents this one decided. AssayError if a commit is missing or
    damaged, or a shard's statistics aren't what was written.
    """
    statistics = _Merged()
    sums = sum_up(store, record, corpus, taggers, recomputed_from, statistics)
    attempt = uuid.uuid4().hex[:12]
    prefix = run_prefix(record.run)
    merged = store.create_named(prefix, "statistics", ".parquet", *statistics.parquet(), attempt=attempt)
    manifest = TagManifest(**sums, statistics=merged)
    store.create(f"{prefix}/manifest.json", record_json(manifest), attempt=attempt)
    return TagManifest.model_validate_json(store.read(f"{prefix}/manifest.json"))


def sum_up(
    store: ObjectStore,
    record: RunRecord,
    corpus: CorpusPlan,
    taggers: Sequence[TagColumn],
    recomputed_from: str | None = None,
    statistics: "_Merged | None" = None,
) -> dict[str, Any]:
    """What the run's commits add up to: every field of its manifest but the statistics, which are added to those given.

    AssayError if a commit is missing or damaged.
    """
    reasons: Counter[str] = Counter()
    undecided: Counter[str] = Counter()
    entries, columns, unreadable = [], [], 0
    documents = tokens = 0
    log = CommitLog(store, tags_prefix(record.tagset))
    for shard, commit in zip(corpus.shards, log.read_many(s.id for s in corpus.shards), strict=True):
        entries.append(shard_entry(shard, commit))
        columns.append(commit.columns)
        reasons.update(commit.quarantine_reasons)
        undecided.update(commit.undecided)
        if "recomputed" in commit.objects:
            documents += commit.objects["recomputed"].rows
            tokens += commit.recomputed_tokens
        if commit.unreadable:
            unreadable += 1
        elif statistics is not None:
            statistics.add(store, commit.objects["statistics"])
    return {
        "run": record.run,
        "corpus": corpus.corpus,
        "options": corpus.options,
        "plan": corpus.id,
        "encoder": record.encoder,
        "features": record.features,
        "tagset": record.tagset,
        "taggers": tuple(taggers),
        "columns": unify_columns(columns),
        "rows_in": sum(e.rows_in for e in entries),
        "rows_kept": sum(e.rows_kept for e in entries),
        "rows_quarantined": sum(e.rows_quarantined for e in entries),
        "tokens": sum(e.tokens for e in entries),
        "quarantine_reasons": dict(sorted(reasons.items())),
        "undecided": dict(sorted(undecided.items())),
        "unreadable_shards": unreadable,
        "recomputed": Recomputed(run=recomputed_from, documents=documents, tokens=tokens) if recomputed_from else None,
        "shards": tuple(entries),
    }


def shard_entry(shard: Shard, commit: ShardCommit) -> ShardEntry:
    """The line of a manifest for a committed shard."""
    return ShardEntry(
        shard=shard.id,
        source=shard.source,
        first_row=shard.first_row,
        source_rows=shard.rows,
        first_byte=shard.first_byte,
        rows_in=commit.rows_in,
        rows_kept=commit.rows_kept,
        rows_quarantined=commit.rows_quarantined,
        tokens=commit.tokens,
        unreadable=commit.unreadable,
        objects=commit.objects,
    )


class _Merged:
    """Statistics tables added up, a few at a time in memory."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def add(self, store: ObjectStore, stored: StoredObject) -> None:
        self._tables += iter_parquet(pa.BufferReader(store.read_verified(stored)))
        if len(self._tables) >= _MERGE_EVERY:
            self._tables = [merge(self._tables)]

    def parquet(self) -> tuple[bytes, int]:
        table = merge(self._tables)
        return parquet_bytes(table), table.num_rows


def source_shard(entry: ShardEntry) -> Shard:
    """The input shard that a manifest's entry stands for."""
    assert entry.source is not None  # noqa: S101 - a tagging run's entries all have one
    return Shard(
        id=entry.shard,
        source=entry.source,
        first_row=entry.first_row,
        rows=entry.source_rows,
        bytes=0,
        first_byte=entry.first_byte,
    )
