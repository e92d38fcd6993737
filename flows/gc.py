"""gc: removes what no record names, is old enough, and can't come to be named.

An attempt that comes to the bytes of an orphan takes it over and commits it. So an orphan is removed only where no
commit of it can follow: its shard is committed already (an attempt that is still at work loses), or no run of the
store has such a shard. What an unfinished run may still take over stays.

Ages are told by the store's clock against the store's clock. Records are read after the orphans were listed.
"""

from collections.abc import Iterator

from pydantic import Field

from assay.flows.dataset_check import CLAIM, CONTROL, objects_of
from assay.flows.progress import size
from assay.schemas.base import Model
from assay.schemas.curation import CurationManifest
from assay.schemas.errors import AssayError
from assay.schemas.store import TagManifest, features_prefix, run_prefix, tags_prefix
from assay.workers.storage.ages import Aged, abandoned, aged
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import STORE_MARKER, list_runs, read_as, read_plan, read_record, require_store


class Garbage(Model):
    """What is, or was, removed and what stays."""

    store: str
    removable: tuple[str, ...] = Field(description="keys; and files and uploads that killed processes left")
    bytes: int
    young: int = Field(description="orphans that aren't old enough")
    claimable: int = Field(description="orphans that an unfinished run may still take over")
    deleted: bool


def gc(uri: str, *, older_than_s: float, delete: bool = False) -> Garbage:
    """Finds the garbage of the store or dataset at `uri`, and removes it if asked to."""
    store = ObjectStore(uri)
    if store.exists(STORE_MARKER):
        require_store(store)
        candidates, find = list(_store_candidates(store)), _store_orphans
    elif store.exists(CLAIM):
        candidates, find = list(_dataset_candidates(store)), _dataset_orphans
    else:
        raise AssayError("neither an Assay store nor a curated dataset", where=store.root, hint="check the path")
    orphans, claimable = find(store, candidates)
    left = list(abandoned(store))
    old = [item for item in (*orphans, *left) if item.age_s >= older_than_s]
    if delete:
        for item in old:
            item.remove()
    return Garbage(
        store=uri,
        removable=tuple(item.key for item in old),
        bytes=sum(item.size for item in old),
        young=len(orphans) + len(left) - len(old),
        claimable=claimable,
        deleted=delete,
    )


def gc_lines(garbage: Garbage) -> list[str]:
    """What was found and what to do next."""
    what = "removed" if garbage.deleted else "would remove"
    lines = [f"{what} {key}" for key in garbage.removable]
    lines.append(f"{what} {len(garbage.removable):,} objects, {size(garbage.bytes)}")
    if garbage.young:
        lines.append(f"{garbage.young:,} more aren't old enough (--older-than)")
    if garbage.claimable:
        lines.append(f"{garbage.claimable:,} more stay: an unfinished run may still take them over")
    if garbage.removable and not garbage.deleted:
        lines.append(f"next: assay gc {garbage.store} --delete")
    return lines


def _store_candidates(store: ObjectStore) -> Iterator[Aged]:
    for item in aged(store, ("features", "tags", "runs")):
        parts = item.key.split("/")
        of_run = parts[0] == "runs" and len(parts) == 3 and parts[2].startswith("statistics-")
        if of_run or (len(parts) == 4 and parts[2] in ("data", "quarantine", "statistics", "recomputed")):
            yield item


def _store_orphans(store: ObjectStore, candidates: list[Aged]) -> tuple[list[Aged], int]:
    """The candidates that can go, and how many orphans must stay."""
    planned: set[str] = set()
    sealed: dict[str, bool] = {}
    for run, finished in list_runs(store):
        read_record(store, run)  # a run without its record says nothing of its shards: better to stop
        planned |= {shard.id for shard in read_plan(store, run).shards}
        sealed[run] = finished
    named, committed = _named(store, sealed)
    gone: list[Aged] = []
    claimable = 0
    for item in candidates:
        if item.key in named:
            continue
        folder, group, *_, name = item.key.split("/")
        shard = name.rpartition("-")[0]
        final = sealed.get(group, False) if folder == "runs" else (folder, group, shard) in committed
        if final or (folder != "runs" and shard not in planned):
            gone.append(item)
        else:
            claimable += 1
    return gone, claimable


def _named(store: ObjectStore, sealed: dict[str, bool]) -> tuple[set[str], set[tuple[str, str, str]]]:
    """The keys that a commit or manifest names, and (folder, fingerprint, shard) of every commit."""
    named: set[str] = set()
    committed: set[tuple[str, str, str]] = set()
    for folder, prefix in (("features", features_prefix), ("tags", tags_prefix)):
        for group in sorted({key.split("/")[1] for key in store.list(folder) if key.count("/") >= 2}):
            log = CommitLog(store, prefix(group))
            for commit in log.read_many(sorted(log.committed())):
                committed.add((folder, group, commit.shard))
                named |= {stored.key for stored in commit.objects.values()}
    for run, finished in sealed.items():
        if finished:
            manifest = read_as(store, f"{run_prefix(run)}/manifest.json", TagManifest)
            named |= {stored.key for stored in objects_of(manifest)}
    return named, committed


def _dataset_candidates(store: ObjectStore) -> Iterator[Aged]:
    return aged(store, ("data", "dropped", f"{CONTROL}/statistics"))


def _dataset_orphans(store: ObjectStore, candidates: list[Aged]) -> tuple[list[Aged], int]:
    log = CommitLog(store, CONTROL)
    named = {s.key for commit in log.read_many(sorted(log.committed())) for s in commit.objects.values()}
    if not store.exists("manifest.json"):
        return [], sum(item.key not in named for item in candidates)
    named |= {stored.key for stored in objects_of(read_as(store, "manifest.json", CurationManifest))}
    return [item for item in candidates if item.key not in named], 0
