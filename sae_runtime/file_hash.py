"""The SHA-256 of a file, computed once and remembered on this machine for as long as the file stays as it is.

    $ASSAY_CACHE, else $XDG_CACHE_HOME/assay, else ~/.cache/assay
      hashes/{name}.json           the SHA-256 of a file that hasn't changed since

A file counts as unchanged while its path, size, inode and times are the same. The folder can be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from assay.schemas.errors import AssayError

_SETTLED_NS = 2 * 10**9

_hashes: dict[tuple[str, int], tuple[list[Any], str]] = {}


def cache_folder() -> Path:
    """$ASSAY_CACHE, $XDG_CACHE_HOME/assay or ~/.cache/assay, existing or not; OSError where there is no home either."""
    try:
        if own := os.environ.get("ASSAY_CACHE"):
            return Path(own).expanduser().absolute()
        if (base := Path(os.environ.get("XDG_CACHE_HOME", ""))).is_absolute():
            return base / "assay"
        return Path.home() / ".cache" / "assay"
    except RuntimeError as e:
        raise FileNotFoundError(f"no folder for a cache: {e}") from e


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes; computed once as long as its path, size, times and inode stay the same.

    Raises AssayError when the file can't be read. A cache that can't be written costs time, not correctness.
    """
    try:
        return sha256_from(path, 0)
    except OSError as e:
        raise AssayError(f"can't read the file: {e.strerror}", where=str(path)) from e


def sha256_from(path: Path, start: int) -> str:
    """SHA-256 of the bytes from `start` on, remembered as file_sha256 does; OSError when the file can't be read."""
    real = os.path.realpath(path)
    signature = _signature(real, start)
    ctime_ns = signature[-1]
    known = _hashes.get((real, start))
    if known and known[0] == signature:
        return known[1]
    digest = _remembered(signature) or digest_from(real, start)
    # A file can change twice within one tick of its clock, so one that has just changed isn't remembered.
    settled = time.time_ns() - ctime_ns > _SETTLED_NS
    if settled and _signature(real, start) == signature:
        _hashes[real, start] = signature, digest
        _remember(signature, digest)
    return digest


def digest_from(path: str, start: int) -> str:
    """SHA-256 of the bytes from `start` on, read anew: for a file that is still being written."""
    with Path(path).open("rb") as f:
        f.seek(start)
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_of(value: object) -> str:
    """SHA-256 of a JSON value, the same for equal values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def appearing_whole(path: Path) -> Iterator[BinaryIO]:
    """A new file, which is named `path` once it is complete and on the disk, and removed if it doesn't get there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _signature(real: str, start: int) -> list[Any]:
    stat = Path(real).stat()
    return [real, start, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _memo(signature: list[Any]) -> Path:
    return cache_folder() / "hashes" / f"{sha256_of(signature[:2])}.json"


def _remembered(signature: list[Any]) -> str | None:
    try:
        memo = json.loads(_memo(signature).read_bytes())
        digest = memo["sha256"]
        sound = memo["file"] == signature and re.fullmatch("[0-9a-f]{64}", digest)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return digest if sound else None


def _remember(signature: list[Any], digest: str) -> None:
    with contextlib.suppress(OSError):
        path = _memo(signature)
        if _remembered(signature) != digest:
            path.parent.mkdir(parents=True, exist_ok=True)
            with appearing_whole(path) as f:
                f.write(json.dumps({"file": signature, "sha256": digest}).encode())
