"""Opens the objects of a corpus for reading only, and tells a broken object from a failing storage."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from fsspec import AbstractFileSystem

from assay.schemas.corpus import SourceObject
from assay.workers.corpora.records import BadShard, SourceChanged
from assay.workers.storage.filesystem import filesystem, is_local, public, storage_errors

READ_AHEAD = 8 * 2**20
DECODE_ERRORS = (pa.ArrowException, OSError, ValueError)
_TAG_KEYS = ("ETag", "etag", "versionId", "VersionId", "blob_id", "md5Hash", "checksum")
_TIME_KEYS = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
_PLAN_AGAIN = "run the same command again, which plans anew; don't write to a corpus while it is read"


def etag_of(fs: AbstractFileSystem, path: str, info: dict[str, Any]) -> str:
    """What changes when the object's content changes, the same from a listing and from one object's info."""
    if is_local(fs):
        stat = Path(path).stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}"
    for key in _TAG_KEYS:
        if info.get(key):
            return str(info[key]).strip('"')
    for key in _TIME_KEYS:
        if info.get(key):
            when = info[key].timestamp() if hasattr(info[key], "timestamp") else info[key]
            return f"{info.get('size')}-{when}"
    return str(info.get("size"))


def check_unchanged(source: SourceObject) -> None:
    """Raises SourceChanged unless the object is the one that was planned."""
    with storage_errors(source.uri):
        fs, path = filesystem(source.uri)
        fs.invalidate_cache()
        try:
            etag = etag_of(fs, path, fs.info(path))
        except FileNotFoundError as error:
            what = "the object is gone since the corpus was planned"
            raise SourceChanged(what, where=public(source.uri), hint=_PLAN_AGAIN) from error
    if etag != source.etag:
        raise SourceChanged(
            "the object changed since the corpus was planned", where=public(source.uri), hint=_PLAN_AGAIN
        )


class SourceFile(io.RawIOBase):
    """A read-only object that remembers a failure of the storage, so that no decoder can disguise it."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri
        self.failure: Exception | None = None
        with storage_errors(uri):
            fs, path = filesystem(uri)
            self._file = fs.open(path, "rb", cache_type="readahead", block_size=READ_AHEAD)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:
            self.failure = error
            raise

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()

    @contextmanager
    def decoding(self, what: str, hint: str = "") -> Iterator[None]:
        """Raises BadShard(`what`) when the bytes can't be decoded; the storage's error if that failed."""
        try:
            yield
        except DECODE_ERRORS as error:
            self.raise_failure()
            raise BadShard(f"{what} ({_first_line(error)})", where=public(self.uri), hint=hint) from error

    def ended(self, row: int, end: int) -> BadShard:
        """The error for an object with fewer rows than its plan counted."""
        return BadShard(f"the object ends at row {row}, before row {end}", where=public(self.uri))

    def raise_failure(self) -> None:
        """Raises what the storage raised, if it did."""
        if self.failure is None:
            return
        if type(self.failure).__name__ == "FileExpired":
            raise SourceChanged(
                "the object changed while it was read", where=public(self.uri), hint=_PLAN_AGAIN
            ) from self.failure
        with storage_errors(self.uri):
            raise self.failure


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
