"""A store's runs: opened, begun, found by id, and sealed once every shard is committed."""

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from assay.schemas.base import record_json
from assay.schemas.corpus import CorpusPlan, Shard
from assay.schemas.errors import AssayError
from assay.schemas.scope import EncoderIdentity, FeaturesIdentity, Scope
from assay.schemas.statistics import TagColumn, merge
from assay.schemas.store import (
    Recomputed,
    RunRecord,
    ShardCommit,
    ShardEntry,
    StoredObject,
    TagManifest,
    features_prefix,
    run_prefix,
    tags_prefix,
)
from assay.schemas.tagger import Tagger
from assay.workers.corpora.columns import unify_columns
from assay.workers.feature_table import iter_parquet, parquet_bytes
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore

STORE_MARKER = "assay-store.json"
_MERGE_EVERY = 64


class Identity(NamedTuple):
    """What a features fingerprint stands for."""

    encoder: EncoderIdentity
    features: FeaturesIdentity
    scope: Scope
    """as it was settled when the features were made"""


def open_store(uri: str) -> ObjectStore:
    """The store at `uri`, made if absent; AssayError if it can't promise that a commit is made once."""
    store = ObjectStore(uri)
    if not store.exists(STORE_MARKER):
        store.require_atomic()
        store.create(STORE_MARKER, b'{"format": "assay.store/1"}\n', attempt="marker")
    return store


def begin_run(store: ObjectStore, record: RunRecord, corpus: CorpusPlan, taggers: Sequence[Tagger]) -> None:
    """Leaves in the store what the run's names stand for; the first writer's stays."""
    attempt = uuid.uuid4().hex[:12]
    written = [tagger.model_dump(mode="json") for tagger in taggers]
    write_identity(store, f"{tags_prefix(record.tagset)}/taggers.json", written, attempt)
    store.create(f"{run_prefix(record.run)}/run.json", record_json(record), attempt=attempt)
    store.create(f"{run_prefix(record.run)}/plan.json", record_json(corpus), attempt=attempt)


def seal(
    store: ObjectStore,
    record: RunRecord,
    corpus: CorpusPlan,
    taggers: Sequence[TagColumn],
    recomputed_from: str | None = None,
) -> TagManifest:
    """Writes the manifest once every shard is committed; where a run was sealed before, that manifest stays.

    `recomputed_from` names the run whose undecided documents this one decided.
    """
    key = f"{run_prefix(record.run)}/manifest.json"
    log = CommitLog(store, tags_prefix(record.tagset))
    reasons: Counter[str] = Counter()
    undecided: Counter[str] = Counter()
    entries, columns, unreadable, again = [], [], 0, {"documents": 0, "tokens": 0}
    statistics = _Merged()
    for shard, commit in zip(corpus.shards, log.read_many(s.id for s in corpus.shards), strict=True):
        entries.append(_entry(shard, commit))
        columns.append(commit.columns)
        reasons.update(commit.quarantine_reasons)
        undecided.update(commit.undecided)
        if "recomputed" in commit.objects:
            again["documents"] += commit.objects["recomputed"].rows
            again["tokens"] += commit.recomputed_tokens
        if commit.unreadable:
            unreadable += 1
        else:
            statistics.add(store, commit.objects["statistics"])
    attempt = uuid.uuid4().hex[:12]
    merged = statistics.parquet()
    manifest = TagManifest(
        run=record.run,
        corpus=corpus.corpus,
        options=corpus.options,
        plan=corpus.id,
        encoder=record.encoder,
        features=record.features,
        tagset=record.tagset,
        taggers=tuple(taggers),
        columns=unify_columns(columns),
        rows_in=sum(e.rows_in for e in entries),
        rows_kept=sum(e.rows_kept for e in entries),
        rows_quarantined=sum(e.rows_quarantined for e in entries),
        tokens=sum(e.tokens for e in entries),
        quarantine_reasons=dict(sorted(reasons.items())),
        undecided=dict(sorted(undecided.items())),
        unreadable_shards=unreadable,
        statistics=store.create_named(run_prefix(record.run), "statistics", ".parquet", *merged, attempt=attempt),
        recomputed=Recomputed(run=recomputed_from, **again) if recomputed_from else None,
        shards=tuple(entries),
    )
    store.create(key, record_json(manifest), attempt=attempt)
    return TagManifest.model_validate_json(store.read(key))


def require_store(store: ObjectStore) -> None:
    """AssayError unless this is a store that tagging has made."""
    if not store.exists(STORE_MARKER):
        raise AssayError("no Assay store here", where=store.root, hint="`assay tag CORPUS --store STORE` makes one")


def load_manifest(store: ObjectStore, run: str | None = None) -> TagManifest:
    """A finished run's manifest; without `run`, the store's only one. AssayError lists the runs otherwise."""
    require_store(store)
    runs = list(list_runs(store))
    finished = [name for name, sealed in runs if sealed]
    if run is None and len(finished) == 1:
        run = finished[0]
    if run is None or run not in finished:
        what = f"no finished run {run!r}" if run else "no finished run" if not finished else "several finished runs"
        listed = ", ".join(f"{name}{'' if sealed else ' (unfinished)'}" for name, sealed in runs) or "none"
        raise AssayError(
            f"{what} in this store", where=store.root, hint=f"runs: {listed}; name one (--run, or run: in a recipe)"
        )
    return TagManifest.model_validate_json(store.read(f"{run_prefix(run)}/manifest.json"))


def list_runs(store: ObjectStore) -> Iterator[tuple[str, bool]]:
    """Every run of a store, and whether it has a manifest."""
    keys: Sequence[str] = sorted(store.list("runs"))
    sealed = {key.split("/")[1] for key in keys if key.endswith("/manifest.json")}
    for run in sorted({key.split("/")[1] for key in keys}):
        yield run, run in sealed


def read_plan(store: ObjectStore, run: str) -> CorpusPlan:
    """How a run's corpus was cut."""
    return CorpusPlan.model_validate_json(store.read(f"{run_prefix(run)}/plan.json"))


def read_record(store: ObjectStore, run: str) -> RunRecord:
    """What a run's id stands for."""
    return RunRecord.model_validate_json(store.read(f"{run_prefix(run)}/run.json"))


def read_identity(store: ObjectStore, features: str) -> Identity:
    """The encoder, features identity and scope of stored features."""
    kept = json.loads(store.read(f"{features_prefix(features)}/identity.json"))
    return Identity(
        EncoderIdentity.model_validate(kept["encoder"]),
        FeaturesIdentity.model_validate(kept["features"]),
        Scope.model_validate(kept["scope"]),
    )


def read_taggers(store: ObjectStore, tagset: str) -> tuple[Tagger, ...]:
    """The taggers that a store's tag set was made with."""
    key = f"{tags_prefix(tagset)}/taggers.json"
    if not store.exists(key):
        raise AssayError(f"no record of tag set {tagset}", where=store.root)
    return tuple(Tagger.model_validate(t) for t in json.loads(store.read(key)))


def write_identity(store: ObjectStore, key: str, value: object, attempt: str) -> None:
    """Leaves a readable record of what a fingerprint stands for; the first writer's stays."""
    store.create(key, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), attempt=attempt)


def _entry(shard: Shard, commit: ShardCommit) -> ShardEntry:
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
