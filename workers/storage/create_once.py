"""Creates an object whole or not at all, and never over another one.

* S3: one conditional PUT (`If-None-Match: *`) with the attempt's id in the object's metadata. Objects of
  200 MiB and more go up in parts, and completing them is conditional in the same way. Parts that a killed
  process left are invisible; a lifecycle rule (AbortIncompleteMultipartUpload) removes them.
* Local disk: a temporary file in the same directory, fsync, a hard link under the final name, fsync of the
  directory. A killed process may leave a `.tmp-*` file.
* Other fsspec filesystems: their own create mode, which may not be atomic.
"""

import errno
import os
import time
import uuid
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from fsspec import AbstractFileSystem

from assay.schemas.errors import AssayError
from assay.workers.storage.filesystem import error_code, is_local, is_s3

TEMPORARY = ".tmp-"
_PART_BYTES = 100 * 2**20  # s3fs sends what is twice as large in parts of this size
_PARTS_AT_ONCE = 2
_ATTEMPT = "attempt"
_CONFLICTS = ("409", "ConditionalRequestConflict", "OperationAborted", "412", "PreconditionFailed")
_CONFLICT_TRIES = 5
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def create_once(fs: AbstractFileSystem, path: str, data: bytes, attempt: str) -> bool:
    """Creates all of `path` if it is absent: True if this attempt's bytes are there, False if another's."""
    return _link_new(Path(path), data) if is_local(fs) else _put_new(fs, path, data, attempt)


def read_whole(fs: AbstractFileSystem, path: str) -> bytes:
    """All bytes of `path`, in one request on S3. Raises FileNotFoundError if it is absent."""
    # s3fs retries a reply that was cut short only in a read that isn't split
    return bytes(fs.cat_file(path, max_concurrency=1) if is_s3(fs) else fs.cat_file(path))


def s3_head(fs: AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """The HEAD reply for an S3 object, or None if it is absent."""
    bucket, _, key = path.partition("/")
    try:
        head: dict[str, Any] = fs.call_s3("head_object", Bucket=bucket, Key=key)
    except FileNotFoundError:
        return None
    return head


def _link_new(path: Path, data: bytes) -> bool:
    if path.exists():
        return False
    _make_folders(path.parent)
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return temporary.stat().st_nlink > 1  # NFS: the link was made, the reply was lost
        except OSError as error:
            if error.errno in _NO_HARD_LINKS:
                raise AssayError(
                    "this file system can't make hard links, which exactly-once writes need",
                    where=str(path.parent),
                    hint="keep the store on a local disk, on NFS or on S3",
                ) from error
            raise
        _sync_folder(path.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _make_folders(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put_new(fs: AbstractFileSystem, path: str, data: bytes, attempt: str) -> bool:
    options: dict[str, Any] = {}
    if is_s3(fs):
        options = {
            "Metadata": {_ATTEMPT: attempt},
            "chunksize": _PART_BYTES,
            "max_concurrency": _PARTS_AT_ONCE,
        }
    for number in range(_CONFLICT_TRIES):
        try:
            fs.pipe_file(path, data, mode="create", **options)
        except PermissionError:
            raise
        except (OSError, BotoCoreError, ClientError) as error:
            # Whatever failed, what is there now decides: a PUT that was applied and repeated by the client
            # reports a conflict with itself.
            ours = _is_ours(fs, path, data, attempt)
            if ours is not None:
                return ours
            conflict = isinstance(error, FileExistsError) or error_code(error) in _CONFLICTS
            if not conflict or number == _CONFLICT_TRIES - 1:
                raise
            time.sleep(0.2 * 2**number)
        else:
            return True
    raise AssertionError("unreachable")


def _is_ours(fs: AbstractFileSystem, path: str, data: bytes, attempt: str) -> bool | None:
    """Whether the object is this attempt's; None if it is absent or can't be asked for."""
    try:
        if is_s3(fs):
            head = s3_head(fs, path)
            if head is None:
                return None
            owner = head.get("Metadata", {}).get(_ATTEMPT)
            if owner is not None:
                return bool(owner == attempt)
            if head.get("ContentLength") != len(data):
                return False
        return read_whole(fs, path) == data
    except (OSError, BotoCoreError, ClientError):
        return None
