"""The commit log of a prefix: a shard exists because its one commit record does.

A shard's objects are written first, under names made from their content; the commit, which names them, is
written last. Any number of attempts at a shard may run at the same time, one commit wins, and the others'
objects are either the same ones or orphans.
"""

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from assay.schemas.base import record_json
from assay.schemas.errors import AssayError, printable
from assay.schemas.store import ShardCommit
from assay.workers.corpora.records import WORKER_REASONS
from assay.workers.in_order import in_order
from assay.workers.storage.objects import ObjectStore, check_key

_SUFFIX = ".json"
_MUST_AGREE = ("fingerprint", "rows_in", "rows_kept", "rows_dropped", "rows_quarantined")
_MAY_DIFFER = ("rows_kept", "rows_quarantined")


class CommitLog:
    """The commits below `{prefix}/commits/`: at most one per shard, for ever; pickles with its store."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store = store
        self.prefix = check_key(prefix)

    def key(self, shard: str) -> str:
        """Where the commit of `shard` is kept."""
        return f"{self.prefix}/commits/{shard}{_SUFFIX}"

    def commit(self, record: ShardCommit) -> bool:
        """Commits a shard exactly once: True if `record` is its commit, False if an equal attempt was first.

        Raises AssayError if rows are unaccounted for, or if the winner came to other results. Rows that broke a worker
        (WORKER_REASONS) may be other ones on another machine: the winner's count.
        """
        if lost := unaccounted_rows(record):
            raise AssayError(
                f"shard {record.shard} read {record.rows_in} rows but accounts for {record.rows_in - lost}",
                where=self.store.uri(self.key(record.shard)),
                hint="this is a defect in the stage that counted them; nothing was committed",
            )
        data = record_json(record)
        if self.store.create(self.key(record.shard), data, attempt=record.attempt):
            return True
        winner = self.read(record.shard)
        if winner.attempt == record.attempt:
            return True
        differences = [
            f"{field} is {printable(getattr(winner, field))} in the commit, "
            f"{printable(getattr(record, field))} in the new attempt"
            for field in _MUST_AGREE
            if _countable(winner, field) != _countable(record, field)
        ]
        if differences:
            raise AssayError(
                f"two attempts of shard {record.shard} disagree: {'; '.join(differences)}",
                where=self.store.uri(self.key(record.shard)),
                hint="the source changed between them, or two versions of Assay write to one run; "
                "the committed one stays",
            )
        return False

    def has(self, shard: str) -> bool:
        """Whether `shard` is committed now."""
        return self.store.exists(self.key(shard))

    def find(self, shard: str) -> ShardCommit | None:
        """The commit of `shard`, or None if it isn't committed now."""
        return self.read(shard) if self.has(shard) else None

    def committed(self) -> set[str]:
        """The shards that are committed now, from one listing."""
        folder = f"{self.prefix}/commits"
        names = (key[len(folder) + 1 :] for key in self.store.list(folder))
        return {name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)}

    def read(self, shard: str) -> ShardCommit:
        """The commit of `shard`. Raises AssayError if there is none or if it isn't a commit of this shard."""
        key = self.key(shard)
        data = self.store.read(key)
        try:
            record = ShardCommit.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the whole record"
            raise self._unreadable(key, f"{printable(field)}: {printable(first['msg'])}") from error
        if record.shard != shard:
            raise self._unreadable(key, f"it names shard {printable(record.shard)}")
        return record

    def read_many(self, shards: Iterable[str], threads: int = 16) -> Iterator[ShardCommit]:
        """The commits of `shards` in the order given, read ahead by `threads` at most twice as many."""
        return in_order(self.read, shards, threads)

    def orphans(self, *folders: str) -> Iterator[str]:
        """The keys below `{prefix}/{folder}` that no commit names.

        Only while nothing writes below the prefix are these garbage: objects are written before their commit.
        """
        listed = [key for folder in folders for key in self.store.list(f"{self.prefix}/{folder}")]
        named = {
            stored.key for record in self.read_many(sorted(self.committed())) for stored in record.objects.values()
        }
        yield from (key for key in listed if key not in named)

    def _unreadable(self, key: str, why: str) -> AssayError:
        return AssayError(
            f"this isn't a commit that this version of Assay can read: {why}",
            where=self.store.uri(key),
            hint="read it with the version that wrote it, or delete it to have its shard done again",
        )


def unaccounted_rows(record: ShardCommit) -> int:
    """Rows that were read and are neither kept, dropped nor quarantined; 0 in every sound commit."""
    return record.rows_in - record.rows_kept - record.rows_dropped - record.rows_quarantined


def _countable(record: ShardCommit, field: str) -> object:
    """The field as it would be if no row had broken a worker."""
    value = getattr(record, field)
    if field not in _MAY_DIFFER:
        return value
    broken = sum(record.quarantine_reasons.get(reason, 0) for reason in WORKER_REASONS)
    return value + broken if field == "rows_kept" else value - broken
