"""Checks a commit log against the objects that its commits name; changes nothing.

Safe beside a running driver: a commit is written after every object that it names.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from assay.schemas.errors import AssayError, StorageError
from assay.schemas.store import ShardCommit, StoredObject
from assay.workers.storage.commits import CommitLog, unaccounted_rows
from assay.workers.storage.verify import in_parallel, what_is_wrong


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
    """What was read so far."""

    def __init__(self) -> None:
        self.commits = self.objects = self.bytes = 0


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
        for checked in in_parallel(self._check, sorted(self._log.committed())):
            self._counts.commits += 1
            self._counts.objects += len(checked.read)
            self._counts.bytes += sum(stored.size for stored in checked.read)
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
        for stored in read:
            if what := what_is_wrong(self._log.store, stored):
                # What is there under the name keeps an attempt from writing it again.
                kind: Literal["missing", "damaged"] = "missing" if what == "it is missing" else "damaged"
                findings.append(Finding(kind, stored.key, what, (key, stored.key)))
        return _Checked(commit, read, tuple(findings))
