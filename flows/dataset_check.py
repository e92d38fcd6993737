"""Checks a curated dataset: the commits of its parts, then what the manifest says of them."""

from collections.abc import Iterator

from pydantic import BaseModel

from assay.schemas.base import Model
from assay.schemas.curation import CurationManifest
from assay.schemas.errors import AssayError, StorageError
from assay.schemas.store import StoredObject
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.log_check import Counts, Finding, LogCheck, check_object
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import read_as
from assay.workers.versions import version_folder

CONTROL = "_assay"
CLAIM = f"{CONTROL}/recipe.json"
_MANIFEST = "manifest.json"
_PARTS = ("data", "dropped", f"{CONTROL}/statistics")


class _Claim(Model):
    """What claims a dataset's folder."""

    fingerprint: str
    recipe: dict[str, object]


class DatasetCheck:
    """One pass over a dataset; afterwards it tells what is named and what isn't."""

    def __init__(self, store: ObjectStore, counts: Counts) -> None:
        self._store = store
        self._counts = counts
        self.unfinished: list[str] = []
        self.orphans: list[str] = []
        self.strays: list[str] = []

    def run(self) -> Iterator[Finding]:
        """Everything that isn't as a record says."""
        listed = [key for folder in _PARTS for key in self._store.list(folder)]
        try:
            claim = read_as(self._store, CLAIM, _Claim)
        except StorageError:
            raise
        except AssayError as e:
            yield Finding("damaged", CLAIM, e.what)
            return
        check = LogCheck(CommitLog(self._store, CONTROL), claim.fingerprint, self._counts)
        broken = list(check.run())
        sealed = self._store.exists(_MANIFEST)
        for finding in broken:
            again = (_MANIFEST, *finding.deletes) if sealed and finding.deletes else finding.deletes
            yield finding._replace(deletes=again)
        named = set(check.named)
        if sealed:
            yield from self._manifest(claim.fingerprint, check, named)
        if broken or not sealed:
            self.unfinished.append(self._store.root)
        if sealed:  # before that, a part without a commit may still get one
            self.orphans = [key for key in listed if key not in named]

    def _manifest(self, fingerprint: str, check: LogCheck, named: set[str]) -> Iterator[Finding]:
        try:
            manifest = read_as(self._store, _MANIFEST, CurationManifest)
        except StorageError:
            raise
        except AssayError as e:
            yield Finding("damaged", _MANIFEST, e.what, (_MANIFEST,))
            return
        if manifest.fingerprint != fingerprint:
            yield Finding("disagrees", _MANIFEST, "it is the manifest of another recipe", (_MANIFEST,))
        parts = {stored.key for stored in (*manifest.shards, *manifest.dropped_shards)}
        if lost := sorted(parts - check.named):
            what = f"{len(lost)} of its parts are in no commit, the first {lost[0]}"
            yield Finding("disagrees", _MANIFEST, what, (_MANIFEST,))
        named |= parts
        for stored in objects_of((manifest.model_copy(update={"version": None}), _own_objects(manifest))):
            if stored.key in check.named:
                continue
            named.add(stored.key)
            self._counts.add([stored])
            if finding := check_object(self._store, stored, (_MANIFEST,)):
                yield finding
        if not self._store.exists("README.md"):
            yield Finding("missing", "README.md", "the dataset has no card", (_MANIFEST,))


def _own_objects(manifest: CurationManifest) -> tuple[StoredObject, ...]:
    """What a version names in its own folder; what lies in an earlier one's is that one's to check."""
    version = manifest.version
    if version is None:
        return ()
    folder = f"{version_folder(version.number)}/"
    return tuple(
        stored.model_copy(update={"key": stored.key.removeprefix(folder)})
        for stored in (version.inputs, *version.parts)
        if stored.key.startswith(folder)
    )


def objects_of(record: object) -> Iterator[StoredObject]:
    """Every object that a record names, wherever in it."""
    if isinstance(record, StoredObject):
        yield record
    elif isinstance(record, BaseModel):
        for name in type(record).model_fields:
            yield from objects_of(getattr(record, name))
    elif isinstance(record, dict):
        yield from (found for value in record.values() for found in objects_of(value))
    elif isinstance(record, tuple | list):
        yield from (found for value in record for found in objects_of(value))
