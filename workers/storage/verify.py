"""Reads objects through and says what is wrong with them, in bounded memory and several at once."""

import hashlib
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from assay.schemas.store import StoredObject
from assay.workers.storage.objects import ObjectStore

_BLOCK = 8 * 2**20
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def what_is_wrong(store: ObjectStore, stored: StoredObject) -> str:
    """Why the object isn't what the record says ("it is missing", ...), or "" if every byte and row is there.

    Raises StorageError where the storage fails, which says nothing about the object.
    """
    if not store.exists(stored.key):
        return "it is missing"
    digest, size = hashlib.sha256(), 0
    with store.open_input(stored.key) as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
            size += len(block)
    if size != stored.size:
        return f"it has {size} bytes instead of {stored.size}"
    if digest.hexdigest() != stored.sha256:
        return f"its SHA-256 is {digest.hexdigest()[:12]}... instead of {stored.sha256[:12]}..."
    with store.open_input(stored.key) as handle:
        rows = _rows(stored.key, handle)
    if rows is not None and rows != stored.rows:
        return f"it has {rows} rows, the record says {stored.rows}"
    return ""


def _rows(key: str, handle: BinaryIO) -> int | None:
    """Rows of a table or lines of JSONL; None for what has neither."""
    if key.endswith(".parquet"):
        try:
            return int(pq.read_metadata(handle).num_rows)
        except pa.ArrowException:
            return -1
    if key.endswith(".jsonl"):
        return sum(block.count(b"\n") for block in iter(lambda: handle.read(_BLOCK), b""))
    if key.endswith(".jsonl.zst"):
        with pa.CompressedInputStream(pa.PythonFile(handle, "r"), "zstd") as lines:
            return sum(block.count(b"\n") for block in iter(lambda: _read(lines), b""))
    return None


def _read(stream: Any) -> bytes:
    return bytes(stream.read(_BLOCK))
