"""What a store holds and how far its runs are, read from commits, manifests and failures only."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from assay.flows.failures import FailureLog
from assay.schemas.base import Model
from assay.schemas.store import RunRecord, TagManifest, tags_prefix
from assay.workers.corpora.records import WORKER_REASONS
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.filesystem import public
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import list_runs, read_manifest, read_plan, read_record, require_store

_MOST = 100
"""troubles of one kind that are listed of a run"""


class Trouble(Model):
    """Something that a run could not do."""

    kind: Literal["failed", "unreadable", "quarantined"]
    """failed: a shard without a commit; unreadable: committed as such; quarantined: a document that broke its worker"""
    uri: str
    row: int
    """the first row of a shard, or the document's"""
    what: str


class RunStatus(Model):
    """How far one tagging run is."""

    run: str
    corpus: str
    shards: int
    shards_done: int
    finished: bool
    rows_in: int = 0
    rows_kept: int = 0
    rows_quarantined: int = 0
    tokens: int = 0
    unreadable_shards: int = 0
    undecided: dict[str, int] = Field(default_factory=dict, description="tagger -> documents it could not decide")
    retried_by: str = ""
    """the finished run that does this one's unreadable shards again"""
    troubles: tuple[Trouble, ...] = ()
    """at most 100 of a kind"""


def store_status(uri: str) -> list[RunStatus]:
    """The status of every run in the store at `uri`, by run id."""
    store = ObjectStore(uri)
    require_store(store)
    committed: dict[str, set[str]] = {}
    for prefix in {key.split("/")[1] for key in store.list("tags")}:
        committed[prefix] = CommitLog(store, tags_prefix(prefix)).committed()
    runs = list(list_runs(store))
    records = {run: read_record(store, run) for run, _ in runs}
    retried = {records[run].retry_of: run for run, sealed in runs if sealed}
    return [
        _status(store, records[run], sealed, committed.get(records[run].tagset, set()), retried.get(run, ""))
        for run, sealed in runs
    ]


def _status(store: ObjectStore, record: RunRecord, sealed: bool, committed: set[str], retried_by: str) -> RunStatus:
    run = record.run
    plan = read_plan(store, run)
    ids = {shard.id for shard in plan.shards}
    numbers: dict[str, Any] = {}
    troubles: list[Trouble] = []
    if sealed:
        manifest = read_manifest(store, run)
        names = ("rows_in", "rows_kept", "rows_quarantined", "tokens", "unreadable_shards", "undecided")
        numbers = {name: getattr(manifest, name) for name in names}
        troubles += list(_unreadable(manifest))[:_MOST]
        if any(reason in manifest.quarantine_reasons for reason in WORKER_REASONS):
            troubles += list(_broke(store, manifest))
    else:
        for failure in FailureLog(store, run).standing(committed):
            troubles.append(Trouble(kind="failed", uri=failure.uri, row=failure.first_row, what=failure.error))
        troubles = troubles[:_MOST]
    return RunStatus(
        run=run,
        corpus=plan.corpus,
        shards=len(ids),
        shards_done=len(ids) if sealed else len(ids & committed),
        finished=sealed,
        retried_by=retried_by,
        troubles=tuple(troubles),
        **numbers,
    )


def _unreadable(manifest: TagManifest) -> Iterator[Trouble]:
    for entry in manifest.shards:
        if entry.unreadable and entry.source is not None:
            uri = public(entry.source.uri)
            yield Trouble(kind="unreadable", uri=uri, row=entry.first_row, what=entry.unreadable)


def _broke(store: ObjectStore, manifest: TagManifest) -> Iterator[Trouble]:
    """The documents that broke their workers, from the quarantine files; stops at _MOST."""
    found = 0
    for entry in manifest.shards:
        if "quarantine" not in entry.objects or entry.source is None:
            continue
        for line in store.read_verified(entry.objects["quarantine"]).splitlines():
            record = json.loads(line)
            if record["reason"] in WORKER_REASONS:
                what = " ".join(filter(None, (record["reason"], record["detail"])))
                yield Trouble(kind="quarantined", uri=public(entry.source.uri), row=record["row"], what=what)
                found += 1
                if found >= _MOST:
                    return


def undecided_lines(manifest: TagManifest, store: str) -> list[str]:
    """How many documents each tagger left open, and what decides them."""
    if not manifest.undecided:
        return []
    counts = ", ".join(f"{name} {n:,}" for name, n in manifest.undecided.items())
    return [
        f"undecided: {counts} (a feature that a tagger reads may have been cut)",
        f"to decide them with the model: assay recompute {store} --run {manifest.run}",
    ]
