"""Checks a commit log against the objects that its commits name; changes nothing.

Safe beside a running driver: a commit is written after every object that it names.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from assay.schemas.errors import AssayError, StorageError
from assay.schemas.store import ShardCommit, StoredObject
from assay.workers.in_order import in_order
from assay.workers.storage.commits import CommitLog, unaccounted_rows
from assay.workers.storage.objects import ObjectStore
from assay.workers.storage.verify import what_is_wrong


class Finding(NamedTuple):
    """One thing that isn't as the records say."""

    kind: Literal["damaged", "missing", "disagrees", "unsealed"]
    """damaged: bytes or a record can't be what was written; missing: something named isn't there; disagrees: two
    records contradict each other; unsealed: all is done but the manifest"""
    key: str
    """the object or record"""
    what: str
    deletes: tuple[str, ...] = ()
    """what a repair takes away, so that the work is done again"""
    seals: str = ""
    """the run that a repair seals"""


class Counts:
    """What was read so far; `listener` hears of every commit."""

    def __init__(self, listener: "Callable[[Counts], None] | None" = None) -> None:
        self._listener = listener
        self.commits = self.objects = self.bytes = 0

    def add(self, read: Sequence[StoredObject], commits: int = 0) -> None:
        """Adds objects that were read and hashed."""
        self.commits += commits
        self.objects += len(read)
        self.bytes += sum(stored.size for stored in read)
        if self._listener is not None:
            self._listener(self)


class _Checked(NamedTuple):
    commit: ShardCommit | None
    read: tuple[StoredObject, ...]
    findings: tuple[Finding, ...]


class LogCheck:
    """One pass over a log: afterwards it tells what the commits name and which of them are sound."""

    def __init__(self, log: CommitLog, fingerprint: str, counts: Counts, checked: frozenset[str] = frozenset()) -> None:
        """`checked` are named objects that were read before and found whole: they aren't read again."""
        self._log = log
        self._fingerprint = fingerprint
        self._counts = counts
        self._known = checked
        self.named: set[str] = set()
        """every key that a readable commit names"""
        self.whole: set[str] = set()
        """those that are what was written"""
        self.sound: set[str] = set()
        """the shards whose commit and objects are as they should be"""

    def run(self) -> Iterator[Finding]:
        """What is wrong with each commit and its objects, commit by commit."""
        for checked in in_order(self._check, sorted(self._log.committed()), threads=8):
            self._counts.add(checked.read, commits=1)
            if checked.commit is not None:
                objects = {stored.key for stored in checked.commit.objects.values()}
                self.named |= objects
                self.whole |= objects - {finding.key for finding in checked.findings}
                if not checked.findings:
                    self.sound.add(checked.commit.shard)
            yield from checked.findings

    def _check(self, shard: str) -> _Checked:
        key = self._log.key(shard)
        try:
            commit = self._log.read(shard)
        except StorageError:
            raise
        except AssayError as e:
            return _Checked(None, (), (Finding("damaged", key, e.what, (key,)),))
        findings = []
        if commit.fingerprint != self._fingerprint:
            what = f"it is a commit of {commit.fingerprint!r}, in the folder of {self._fingerprint!r}"
            findings.append(Finding("disagrees", key, what, (key,)))
        if lost := unaccounted_rows(commit):
            findings.append(Finding("disagrees", key, f"{lost} of its {commit.rows_in} rows are in no count", (key,)))
        read = tuple(stored for stored in commit.objects.values() if stored.key not in self._known)
        checks = (check_object(self._log.store, stored, (key,)) for stored in read)
        return _Checked(commit, read, (*findings, *(finding for finding in checks if finding)))


def check_object(store: ObjectStore, stored: StoredObject, named_by: tuple[str, ...]) -> Finding | None:
    """What is wrong with an object; a repair takes it away with the records that name it.

    What is there under the name would keep an attempt from writing the object again.
    """
    what = what_is_wrong(store, stored)
    if what == "it is missing":
        return Finding("missing", stored.key, what, named_by)
    return Finding("damaged", stored.key, what, (*named_by, stored.key)) if what else None
