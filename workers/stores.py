"""A store's runs: opened, begun, and found by id."""

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from assay.schemas.base import fingerprint, record_json
from assay.schemas.corpus import CorpusPlan
from assay.schemas.errors import AssayError, printable
from assay.schemas.scope import EncoderIdentity, FeaturesIdentity, Scope
from assay.schemas.statistics import TagColumn
from assay.schemas.store import (
    RunRecord,
    TagManifest,
    features_prefix,
    run_prefix,
    tags_prefix,
)
from assay.schemas.tagger import Tagger
from assay.workers.sealing import seal as seal
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagger_set import TaggerSet

STORE_MARKER = "assay-store.json"
_FORMAT = "assay.store/1"
_TAGGERS: TypeAdapter[tuple[Tagger, ...]] = TypeAdapter(tuple[Tagger, ...])
_Record = TypeVar("_Record", bound=BaseModel)


class Identity(NamedTuple):
    """What a features fingerprint stands for."""

    encoder: EncoderIdentity
    features: FeaturesIdentity
    scope: Scope
    """as it was settled when the features were made"""

    @property
    def watched(self) -> dict[int, set[int]]:
        """Layer -> features that every document stores if they fired at all."""
        found: dict[int, set[int]] = {}
        for layer, feature in self.features.watched:
            found.setdefault(layer, set()).add(feature)
        return found


_IDENTITY: TypeAdapter[Identity] = TypeAdapter(Identity)


class StoredRun(NamedTuple):
    """A run as the store knows it, finished or not."""

    record: RunRecord
    corpus: CorpusPlan
    taggers: tuple[Tagger, ...]

    @property
    def columns(self) -> tuple[TagColumn, ...]:
        """What its tags table holds."""
        return TaggerSet(self.taggers, self.record.encoder).columns

    @property
    def recomputed_from(self) -> str | None:
        """The run whose undecided documents this one decided, if it did; AssayError if its taggers are others'."""
        tagset = TaggerSet(self.taggers, self.record.encoder).fingerprint(self.record.features)
        if tagset == self.record.tagset:
            return None
        if fingerprint([tagset, "recomputed"]) == self.record.tagset:
            return fingerprint([self.corpus.id, tagset])
        raise AssayError(
            "they are the taggers of another tag set", where=f"{tags_prefix(self.record.tagset)}/taggers.json"
        )


def open_store(uri: str) -> ObjectStore:
    """The store at `uri`, made if absent; AssayError if it can't promise that a commit is made once."""
    store = ObjectStore(uri)
    if store.exists(STORE_MARKER):
        require_store(store)
    else:
        store.require_atomic()
        write_marker(store)
    return store


def write_marker(store: ObjectStore) -> None:
    """Marks the folder as a store of this version's format."""
    store.create(STORE_MARKER, json.dumps({"format": _FORMAT}).encode() + b"\n", attempt="marker")


def begin_run(store: ObjectStore, record: RunRecord, corpus: CorpusPlan, taggers: Sequence[Tagger]) -> None:
    """Leaves in the store what the run's names stand for; the first writer's stays."""
    attempt = uuid.uuid4().hex[:12]
    written = [tagger.model_dump(mode="json") for tagger in taggers]
    write_identity(store, f"{tags_prefix(record.tagset)}/taggers.json", written, attempt)
    store.create(f"{run_prefix(record.run)}/run.json", record_json(record), attempt=attempt)
    store.create(f"{run_prefix(record.run)}/plan.json", record_json(corpus), attempt=attempt)


def require_store(store: ObjectStore) -> None:
    """AssayError unless this is a store that tagging has made, in the format that this version knows."""
    if not store.exists(STORE_MARKER):
        raise AssayError("no Assay store here", where=store.root, hint="`assay tag CORPUS --store STORE` makes one")
    found = re.search(rb'"format": *"([^"]*)"', store.read(STORE_MARKER))
    if not found or found[1].decode("ascii", "replace") != _FORMAT:
        raise AssayError(
            f"the store's format is {printable(found[1].decode('ascii', 'replace') if found else 'not told')!r}, "
            f"this version of Assay knows {_FORMAT!r}",
            where=store.uri(STORE_MARKER),
            hint="use the version of Assay that made the store, or a later one",
        )


def load_manifest(store: ObjectStore, run: str | None = None) -> TagManifest:
    """A finished run's manifest; without `run`, the store's only one. AssayError lists the runs otherwise.

    A run that another finished one retries is left out where none is named.
    """
    require_store(store)
    runs = list(list_runs(store))
    finished = [name for name, sealed in runs if sealed]
    if run is None and finished:
        retried = {read_record(store, name).retry_of for name in finished} if len(finished) > 1 else set()
        current = [name for name in finished if name not in retried]
        run = current[0] if len(current) == 1 else None
    if run is None or run not in finished:
        what = f"no finished run {run!r}" if run else "no finished run" if not finished else "several finished runs"
        listed = ", ".join(f"{name}{'' if sealed else ' (unfinished)'}" for name, sealed in runs) or "none"
        raise AssayError(
            f"{what} in this store", where=store.root, hint=f"runs: {listed}; name one (--run, or run: in a recipe)"
        )
    return read_manifest(store, run)


def list_runs(store: ObjectStore) -> Iterator[tuple[str, bool]]:
    """Every run of a store, and whether it has a manifest."""
    keys: Sequence[str] = sorted(store.list("runs"))
    sealed = {key.split("/")[1] for key in keys if key.endswith("/manifest.json")}
    for run in sorted({key.split("/")[1] for key in keys}):
        yield run, run in sealed


def load_run(store: ObjectStore, run: str) -> StoredRun:
    """What a run's id stands for; AssayError if one of its records is missing or damaged."""
    record = read_record(store, run)
    return StoredRun(record, read_plan(store, run), read_taggers(store, record.tagset))


def read_plan(store: ObjectStore, run: str) -> CorpusPlan:
    """How a run's corpus was cut."""
    return read_as(store, f"{run_prefix(run)}/plan.json", CorpusPlan)


def read_record(store: ObjectStore, run: str) -> RunRecord:
    """What a run's id stands for."""
    return read_as(store, f"{run_prefix(run)}/run.json", RunRecord)


def read_manifest(store: ObjectStore, run: str) -> TagManifest:
    """A finished run's manifest."""
    return read_as(store, f"{run_prefix(run)}/manifest.json", TagManifest)


def read_identity(store: ObjectStore, features: str) -> Identity:
    """The encoder, features identity and scope of stored features."""
    key = f"{features_prefix(features)}/identity.json"
    with _damage(store, key):
        return _IDENTITY.validate_json(store.read(key))


def read_taggers(store: ObjectStore, tagset: str) -> tuple[Tagger, ...]:
    """The taggers that a store's tag set was made with."""
    key = f"{tags_prefix(tagset)}/taggers.json"
    if not store.exists(key):
        raise AssayError(f"no record of tag set {tagset}", where=store.root)
    with _damage(store, key):
        return _TAGGERS.validate_json(store.read(key))


def read_as(store: ObjectStore, key: str, model: type[_Record]) -> _Record:
    """The record under `key`; AssayError that names it if it is none of this model."""
    with _damage(store, key):
        return model.model_validate_json(store.read(key))


@contextmanager
def _damage(store: ObjectStore, key: str) -> Iterator[None]:
    """Turns the failure to parse the record under `key` into an error that names it."""
    try:
        yield
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole record"
        raise AssayError(
            f"this record can't be read: {printable(field)}: {printable(first['msg'])}",
            where=store.uri(key),
            hint="read it with the version that wrote it; `assay fsck` checks the whole store",
        ) from e


def write_identity(store: ObjectStore, key: str, value: object, attempt: str) -> None:
    """Leaves a readable record of what a fingerprint stands for; the first writer's stays."""
    store.create(key, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), attempt=attempt)
