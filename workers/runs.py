"""Finds what a store holds: its marker, its runs with plan and taggers, and their manifests."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from assay.schemas.corpus import CorpusPlan
from assay.schemas.errors import AssayError, printable
from assay.schemas.store import RunRecord, TagManifest, run_prefix, tags_prefix
from assay.schemas.tagger import Tagger
from assay.workers.storage.objects import ObjectStore

STORE_MARKER = "assay-store.json"
FORMAT = "assay.store/1"
_TAGGERS: TypeAdapter[tuple[Tagger, ...]] = TypeAdapter(tuple[Tagger, ...])
_Read = TypeVar("_Read")


class StoredRun(NamedTuple):
    """A run as the store knows it, finished or not."""

    record: RunRecord
    corpus: CorpusPlan
    taggers: tuple[Tagger, ...]


def open_store(uri: str) -> ObjectStore:
    """The store at `uri`, made if absent; AssayError if it can't promise that a commit is made once."""
    store = ObjectStore(uri)
    if store.exists(STORE_MARKER):
        require_store(store)
    else:
        store.require_atomic()
        store.create(STORE_MARKER, json.dumps({"format": FORMAT}).encode() + b"\n", attempt="marker")
    return store


def require_store(store: ObjectStore) -> None:
    """AssayError unless this is a store that tagging has made, in the format that this version knows."""
    if not store.exists(STORE_MARKER):
        raise AssayError("no Assay store here", where=store.root, hint="`assay tag CORPUS --store STORE` makes one")
    found = read_record(store, STORE_MARKER, TypeAdapter(dict[str, str]).validate_json).get("format", "")
    if found != FORMAT:
        raise AssayError(
            f"the store's format is {printable(found)!r}, this version of Assay knows {FORMAT!r}",
            where=store.uri(STORE_MARKER),
            hint="use the version of Assay that made the store, or a later one",
        )


def read_record(store: ObjectStore, key: str, parse: Callable[[bytes], _Read]) -> _Read:
    """The record under `key`; AssayError that names it if it isn't one."""
    try:
        return parse(store.read(key))
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole record"
        raise AssayError(
            f"this record can't be read: {printable(field)}: {printable(first['msg'])}",
            where=store.uri(key),
            hint="read it with the version that wrote it; `assay fsck` checks the whole store",
        ) from e


def load_run(store: ObjectStore, run: str) -> StoredRun:
    """What a run's id stands for; AssayError if one of its records is missing or damaged."""
    record = read_record(store, f"{run_prefix(run)}/run.json", RunRecord.model_validate_json)
    corpus = read_record(store, f"{run_prefix(run)}/plan.json", CorpusPlan.model_validate_json)
    taggers = read_record(store, f"{tags_prefix(record.tagset)}/taggers.json", _TAGGERS.validate_json)
    return StoredRun(record, corpus, taggers)


def load_manifest(store: ObjectStore, run: str | None = None) -> TagManifest:
    """A finished run's manifest; without `run`, the store's only one. AssayError lists the runs otherwise.

    A run that another finished one retries is left out where none is named.
    """
    require_store(store)
    runs = list(list_runs(store))
    finished = [name for name, sealed in runs if sealed]
    if run is None:
        current = sorted(set(finished) - superseded(store, finished)) if len(finished) > 1 else finished
        run = current[0] if len(current) == 1 else None
    if run is None or run not in finished:
        what = f"no finished run {run!r}" if run else "no finished run" if not finished else "several finished runs"
        listed = ", ".join(f"{name}{'' if sealed else ' (unfinished)'}" for name, sealed in runs) or "none"
        raise AssayError(
            f"{what} in this store", where=store.root, hint=f"runs: {listed}; name one (--run, or run: in a recipe)"
        )
    return read_record(store, f"{run_prefix(run)}/manifest.json", TagManifest.model_validate_json)


def superseded(store: ObjectStore, finished: Sequence[str]) -> set[str]:
    """The runs that a run of `finished` retries."""
    records = (read_record(store, f"{run_prefix(run)}/run.json", RunRecord.model_validate_json) for run in finished)
    return {record.retry_of for record in records if record.retry_of}


def list_runs(store: ObjectStore) -> Iterator[tuple[str, bool]]:
    """Every run of a store, and whether it has a manifest."""
    keys: Sequence[str] = sorted(store.list("runs"))
    sealed = {key.split("/")[1] for key in keys if key.endswith("/manifest.json")}
    for run in sorted({key.split("/")[1] for key in keys}):
        yield run, run in sealed
