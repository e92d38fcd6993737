"""What a store holds and how far its runs are, read from commits and manifests only."""

from typing import Any

from assay.schemas.base import Model
from assay.schemas.corpus import CorpusPlan
from assay.schemas.store import RunRecord, TagManifest, run_prefix, tags_prefix
from assay.workers.runs import list_runs, require_store
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore


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


def store_status(uri: str) -> list[RunStatus]:
    """The status of every run in the store at `uri`, by run id."""
    store = ObjectStore(uri)
    require_store(store)
    committed: dict[str, set[str]] = {}
    for prefix in {key.split("/")[1] for key in store.list("tags")}:
        committed[prefix] = CommitLog(store, tags_prefix(prefix)).committed()
    return [_status(store, run, sealed, committed) for run, sealed in list_runs(store)]


def _status(store: ObjectStore, run: str, sealed: bool, committed: dict[str, set[str]]) -> RunStatus:
    plan = CorpusPlan.model_validate_json(store.read(f"{run_prefix(run)}/plan.json"))
    ids = {shard.id for shard in plan.shards}
    numbers: dict[str, Any] = {}
    if sealed:
        manifest = TagManifest.model_validate_json(store.read(f"{run_prefix(run)}/manifest.json"))
        names = ("rows_in", "rows_kept", "rows_quarantined", "tokens", "unreadable_shards")
        numbers = {name: getattr(manifest, name) for name in names}
        done = len(ids)
    else:
        record = RunRecord.model_validate_json(store.read(f"{run_prefix(run)}/run.json"))
        done = len(ids & committed.get(record.tagset, set()))
    return RunStatus(run=run, corpus=plan.corpus, shards=len(ids), shards_done=done, finished=sealed, **numbers)
