"""A store's objects: each is created once, whole, and never changes.

A run's exactly-once guarantee rests on one operation, `ObjectStore.create`: of any number of attempts at a
key, one wins, and no reader ever sees part of an object (see create_once.py for how).
"""

import hashlib
import os
import re
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Literal, cast

from fsspec import AbstractFileSystem

from assay.schemas.errors import AssayError, printable
from assay.schemas.store import StoredObject
from assay.workers.storage.create_once import TEMPORARY, create_once, read_whole, s3_head
from assay.workers.storage.filesystem import absolute, filesystem, is_local, is_s3, join, storage_errors

_SEGMENT = re.compile(r"[A-Za-z0-9._=-]+")


class ObjectStore:
    """Immutable objects under one root; pickles as its root alone and opens its filesystem in each process."""

    def __init__(self, root_uri: str) -> None:
        self.root = absolute(root_uri)
        self._opened: tuple[int, AbstractFileSystem, str] | None = None

    def __repr__(self) -> str:
        return f"ObjectStore({self.root!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_opened": None}

    def uri(self, key: str) -> str:
        """Where `key` is, for messages and for readers outside Assay. Raises AssayError for an unsafe key."""
        return join(self.root, check_key(key))

    def create(self, key: str, data: bytes, *, attempt: str) -> bool:
        """Creates the whole object if there is none: True if this attempt's is there now, False if another's.

        A write that was applied but whose reply was lost counts as created. Where a store keeps no metadata,
        equal bytes are taken for one's own.
        """
        check_key(attempt, "attempt id")
        with storage_errors(self.uri(key)):
            fs, path = self._open(key)
            return create_once(fs, path, data, attempt)

    def create_named(self, prefix: str, stem: str, suffix: str, data: bytes, rows: int, attempt: str) -> StoredObject:
        """Stores `data` once as `{prefix}/{stem}-{first 12 digits of its SHA-256}{suffix}`.

        Raises AssayError if another size is there under that name.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"{prefix}/{stem}-{sha256[:12]}{suffix}"
        stored = StoredObject(key=key, size=len(data), sha256=sha256, rows=rows)
        if not self.create(key, data, attempt=attempt):
            self.open_input(stored).close()  # checks the size of what is there
        return stored

    def read(self, key: str) -> bytes:
        """The whole object. Raises AssayError if there is none."""
        with storage_errors(self.uri(key)):
            fs, path = self._open(key)
            return read_whole(fs, path)

    def read_verified(self, stored: StoredObject) -> bytes:
        """The whole object, or AssayError if a byte of it isn't what was written."""
        data = self.read(stored.key)
        if len(data) != stored.size or hashlib.sha256(data).hexdigest() != stored.sha256:
            raise self._damaged(stored, len(data))
        return data

    def open_input(self, source: StoredObject | str) -> BinaryIO:
        """A seekable handle that reads exact ranges; a StoredObject's size is checked, its content is not."""
        key = source if isinstance(source, str) else source.key
        with storage_errors(self.uri(key)):
            fs, path = self._open(key)
            handle = fs.open(path, "rb", cache_type="none")
        if isinstance(source, StoredObject) and handle.size != source.size:
            handle.close()
            raise self._damaged(source, handle.size)
        return cast(BinaryIO, handle)

    def exists(self, key: str) -> bool:
        """Whether the object is there now (nothing is cached). A prefix of other keys is no object."""
        with storage_errors(self.uri(key)):
            fs, path = self._open(key)
            try:
                return s3_head(fs, path) is not None if is_s3(fs) else fs.info(path)["type"] == "file"
            except (FileNotFoundError, NotADirectoryError):
                return False

    def list(self, prefix: str = "") -> Iterator[str]:
        """The keys below the folder `prefix`, sorted, as they are now; none if there is no such folder."""
        uri = self.uri(prefix) if prefix else self.root
        with storage_errors(uri):
            fs, base = self._open()
            folder = join(base, prefix) if prefix else base
            if is_local(fs):
                paths = iter(sorted(_walk(folder)))
            elif is_s3(fs):
                paths = _pages(fs, folder)
            else:
                paths = iter(fs.find(folder))
            for path in paths:
                name = path.rpartition("/")[2]
                if name and not name.startswith(TEMPORARY) and path.startswith(f"{folder}/"):
                    yield path[len(base) + 1 :]

    def delete(self, key: str) -> None:
        """Makes sure that the object isn't there."""
        with storage_errors(self.uri(key)):
            fs, path = self._open(key)
            try:
                fs.rm_file(path)
            except FileNotFoundError:
                return

    def probe(self, rounds: int = 2, threads: int = 8) -> Literal["atomic", "ignored", "racy"]:
        """Which of `threads` simultaneous creates win: always one (atomic), all (ignored) or some (racy)."""
        winners = [self._race(threads) for _ in range(rounds)]
        if all(count == 1 for count in winners):
            return "atomic"
        return "ignored" if all(count == threads for count in winners) else "racy"

    def require_atomic(self) -> None:
        """Raises AssayError unless this store lets exactly one of several simultaneous creates win."""
        found = self.probe()
        if found == "atomic":
            return
        how = "overwrites what exists (ignores If-None-Match)" if found == "ignored" else "lets several win a race"
        raise AssayError(
            f"this store can't keep shards exactly once: it {how}",
            where=self.root,
            hint="use a store with conditional writes (AWS S3, SeaweedFS 4.48) or a local disk",
        )

    def opened(self) -> tuple[AbstractFileSystem, str]:
        """The filesystem and the root's path in it, for what looks beneath the objects."""
        with storage_errors(self.root):
            return self._open()

    def _race(self, threads: int) -> int:
        key, start = f"_probe-{uuid.uuid4().hex}", threading.Barrier(threads)

        def contend(number: int) -> bool:
            start.wait()
            return self.create(key, b"%d" % number, attempt=f"probe-{number}")

        try:
            with ThreadPoolExecutor(threads) as pool:
                return sum(pool.map(contend, range(threads)))
        finally:
            self.delete(key)

    def _open(self, key: str = "") -> tuple[AbstractFileSystem, str]:
        if self._opened is None or self._opened[0] != os.getpid():  # s3fs refuses an instance from before a fork
            fs, base = filesystem(self.root)
            self._opened = (os.getpid(), fs, base.rstrip("/"))
        _, fs, base = self._opened
        return fs, join(base, key) if key else base

    def _damaged(self, stored: StoredObject, size: int) -> AssayError:
        return AssayError(
            f"the object isn't what was written: {size} bytes instead of {stored.size}"
            if size != stored.size
            else f"the object isn't what was written: its SHA-256 doesn't start with {stored.sha256[:12]}",
            where=self.uri(stored.key),
            hint="restore it from a copy, or delete it together with its shard's commit and run again",
        )


def check_key(key: str, kind: str = "key") -> str:
    """`key` itself. Raises AssayError unless every segment is safe on every store and file system."""
    for segment in key.split("/"):
        dots = segment in (".", "..") or segment.startswith(TEMPORARY)
        if dots or not _SEGMENT.fullmatch(segment):
            raise AssayError(
                f"{kind} {printable(key)!r} isn't allowed",
                hint="segments between single slashes, made of A-Z a-z 0-9 . _ = - and not . or ..",
            )
    return key


def _walk(folder: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error  # os.walk would leave out a folder that can't be read

    for parent, _, names in os.walk(folder, onerror=fail):
        yield from (f"{parent}/{name}" for name in names)


def _pages(fs: AbstractFileSystem, folder: str) -> Iterator[str]:
    bucket, _, prefix = folder.partition("/")
    wanted = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
    page = fs.call_s3("list_objects_v2", **wanted)
    while True:
        yield from (f"{bucket}/{item['Key']}" for item in page.get("Contents", ()))
        if not page.get("IsTruncated"):
            return
        page = fs.call_s3("list_objects_v2", **wanted, ContinuationToken=page["NextContinuationToken"])
