"""Checks a store from its objects up to its manifests: hashes, rows, sums, and names that must follow from contents."""

import re
from collections.abc import Iterator

from assay.schemas.base import fingerprint
from assay.schemas.errors import AssayError, StorageError
from assay.schemas.store import ShardFailure, TagManifest, features_prefix, run_prefix, tags_prefix
from assay.workers.sealing import sum_up
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.log_check import Counts, Finding, LogCheck, check_object
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import STORE_MARKER, StoredRun, list_runs, load_run, read_as, read_identity, read_record

_KNOWN = re.compile(
    r"features/[^/]+/(identity\.json|(data|quarantine|commits)/[^/]+)"
    r"|tags/[^/]+/(taggers\.json|origin\.json|(data|statistics|recomputed|commits)/[^/]+)"
    r"|runs/[^/]+/((run|plan|manifest)\.json|statistics-[^/]+|failures/[^/]+)"
    r"|" + re.escape(STORE_MARKER)
)
_OBJECTS = re.compile(
    r"features/[^/]+/(data|quarantine)/.*|tags/[^/]+/(data|statistics|recomputed)/.*|runs/[^/]+/statistics-.*"
)


class StoreCheck:
    """One pass over a store; afterwards it tells what is named, what isn't, and which runs have work to do."""

    def __init__(self, store: ObjectStore, counts: Counts) -> None:
        self._store = store
        self._counts = counts
        self._sound: dict[str, set[str]] = {}
        self.unfinished: list[str] = []
        self.orphans: list[str] = []
        self.strays: list[str] = []

    def run(self) -> Iterator[Finding]:
        """Everything that isn't as a record says, features first, then tags, then runs."""
        listed = [key for key in self._store.list() if _OBJECTS.fullmatch(key) or not _KNOWN.fullmatch(key)]
        named: set[str] = set()
        whole: set[str] = set()
        for features in self._folders("features"):
            yield from self._identity(features)
            check = LogCheck(CommitLog(self._store, features_prefix(features)), features, self._counts)
            yield from check.run()
            named |= check.named
            whole |= check.whole
        for tagset in self._folders("tags"):
            log = CommitLog(self._store, tags_prefix(tagset))
            check = LogCheck(log, tagset, self._counts, frozenset(whole))
            yield from check.run()
            named |= check.named
            self._sound[tagset] = check.sound
        for run, sealed in list_runs(self._store):
            yield from self._run(run, sealed, named)
            yield from self._failures(run)
        self.orphans = [key for key in listed if _OBJECTS.fullmatch(key) and key not in named]
        self.strays = [key for key in listed if not _KNOWN.fullmatch(key)]

    def _folders(self, floor: str) -> list[str]:
        return sorted({key.split("/")[1] for key in self._store.list(floor) if key.count("/") >= 2})

    def _identity(self, features: str) -> Iterator[Finding]:
        key = f"{features_prefix(features)}/identity.json"
        if not self._store.exists(key):
            yield Finding("missing", key, "nothing says what these features are; the next `assay tag` writes it again")
            return
        try:
            identity = read_identity(self._store, features)
        except StorageError:
            raise
        except AssayError as e:
            yield Finding("damaged", key, e.what, (key,))
            return
        if fingerprint(identity.features) != features or fingerprint(identity.encoder) != identity.features.encoder:
            yield Finding("damaged", key, "it is the identity of other features", (key,))

    def _run(self, run: str, sealed: bool, named: set[str]) -> Iterator[Finding]:
        manifest_key = f"{run_prefix(run)}/manifest.json"
        try:
            for key in self._lacking(run):
                yield Finding("missing", key, "the next `assay tag` of the same corpus writes it again")
                return
            stored = load_run(self._store, run)
            self._check_names(stored)
        except StorageError:
            raise
        except AssayError as e:
            key = e.where.removeprefix(f"{self._store.root.rstrip('/')}/")
            yield Finding("damaged", key, e.what, (key,))
            return
        missing = [s.id for s in stored.corpus.shards if s.id not in self._sound.get(stored.record.tagset, set())]
        if missing and not sealed:
            self.unfinished.append(run)
        elif missing:
            what = f"{len(missing)} of the shards that it lists have no sound commit, the first {missing[0]}"
            yield Finding("disagrees", manifest_key, what, (manifest_key,))
            self.unfinished.append(run)
        elif not sealed:
            yield Finding("unsealed", manifest_key, "every shard is committed, and there is no manifest", seals=run)
        else:
            yield from self._manifest(manifest_key, stored, named)

    def _lacking(self, run: str) -> Iterator[str]:
        """The records without which a run's id stands for nothing, as far as they are missing."""
        wanted = [f"{run_prefix(run)}/run.json", f"{run_prefix(run)}/plan.json"]
        if self._store.exists(wanted[0]):
            wanted.append(f"{tags_prefix(read_record(self._store, run).tagset)}/taggers.json")
        return (key for key in wanted if not self._store.exists(key))

    def _manifest(self, key: str, run: StoredRun, named: set[str]) -> Iterator[Finding]:
        """What the manifest says against what the commits add up to."""
        again = run.record.run
        try:
            manifest = read_as(self._store, key, TagManifest)
        except StorageError:
            raise
        except AssayError as e:
            yield Finding("damaged", key, e.what, (key,), seals=again)
            return
        named.add(manifest.statistics.key)
        self._counts.add([manifest.statistics])
        if finding := check_object(self._store, manifest.statistics, (key,)):
            yield finding._replace(seals=again)
        expected = sum_up(self._store, run.record, run.corpus, run.columns, run.recomputed_from)
        wrong = [name for name, value in expected.items() if getattr(manifest, name) != value]
        if wrong:
            what = f"its {', '.join(wrong)} aren't what the commits add up to"
            yield Finding("disagrees", key, what, (key,), seals=again)

    def _check_names(self, run: StoredRun) -> None:
        """AssayError if one of the run's records isn't what its name says."""
        record = run.record
        if run.corpus.id != record.plan or fingerprint([run.corpus.id, record.tagset]) != record.run:
            where = self._store.uri(f"{run_prefix(record.run)}/plan.json")
            raise AssayError("it is another run's plan", where=where)
        try:
            _ = run.recomputed_from
        except AssayError as e:
            raise AssayError(e.what, where=self._store.uri(e.where)) from e

    def _failures(self, run: str) -> Iterator[Finding]:
        for key in self._store.list(f"{run_prefix(run)}/failures"):
            try:
                read_as(self._store, key, ShardFailure)
            except StorageError:
                raise
            except AssayError as e:
                yield Finding("damaged", key, e.what, (key,))
