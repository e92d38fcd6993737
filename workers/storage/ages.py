"""How old a store's objects are, by the store's own clock, and what killed processes left beside them."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem

from assay.schemas.errors import AssayError
from assay.workers.storage.create_once import TEMPORARY
from assay.workers.storage.filesystem import is_local, is_s3, storage_errors
from assay.workers.storage.objects import ObjectStore

_PROBE = "_probe-"


class Aged(NamedTuple):
    """An object, a temporary file or an unfinished upload."""

    key: str
    size: int
    """bytes; 0 for an upload"""
    age_s: float
    remove: Callable[[], None]


def aged(store: ObjectStore, folders: Sequence[str]) -> Iterator[Aged]:
    """The objects below `folders` with their ages. AssayError for a file system that doesn't tell them."""
    fs, base = store.opened()
    with storage_errors(store.root):
        now = _now(fs, base)
        for folder in folders:
            for key, size, changed in _pages(fs, base, folder) if is_s3(fs) else _files(store, fs, base, folder):
                yield Aged(key, size, now - changed, partial(store.delete, key))


def abandoned(store: ObjectStore) -> Iterator[Aged]:
    """Temporary files, probes and unfinished uploads below the store's root: no object of it is among them."""
    fs, base = store.opened()
    with storage_errors(store.root):
        now = _now(fs, base)
        if is_local(fs):
            for parent, _, names in os.walk(base):
                for name in names:
                    if name.startswith((TEMPORARY, _PROBE)):
                        path = Path(parent, name)
                        found = path.stat()
                        key = str(path.relative_to(base))
                        yield Aged(key, found.st_size, now - found.st_mtime, partial(path.unlink, missing_ok=True))
        elif is_s3(fs):
            yield from _uploads(fs, base, now)


def _files(store: ObjectStore, fs: AbstractFileSystem, base: str, folder: str) -> Iterator[tuple[str, int, float]]:
    for key in store.list(folder):
        info = fs.info(f"{base}/{key}")
        yield key, int(info.get("size") or 0), _changed(f"{base}/{key}", info)


def _pages(fs: AbstractFileSystem, base: str, folder: str) -> Iterator[tuple[str, int, float]]:
    """As _files, from the listing alone."""
    bucket, _, prefix = base.partition("/")
    inside = f"{prefix}/" if prefix else ""
    wanted: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{inside}{folder}/"}
    page = fs.call_s3("list_objects_v2", **wanted)
    while True:
        for item in page.get("Contents", ()):
            yield item["Key"].removeprefix(inside), int(item["Size"]), item["LastModified"].timestamp()
        if not page.get("IsTruncated"):
            return
        page = fs.call_s3("list_objects_v2", **wanted, ContinuationToken=page["NextContinuationToken"])


def _uploads(fs: AbstractFileSystem, base: str, now: float) -> Iterator[Aged]:
    bucket, _, prefix = base.partition("/")
    wanted: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
    page = fs.call_s3("list_multipart_uploads", **wanted)
    while True:
        for upload in page.get("Uploads", ()):
            key, number = upload["Key"], upload["UploadId"]
            drop = partial(fs.call_s3, "abort_multipart_upload", Bucket=bucket, Key=key, UploadId=number)
            name = f"{key.removeprefix(wanted['Prefix'])} (unfinished upload)"
            yield Aged(name, 0, now - upload["Initiated"].timestamp(), drop)
        if not page.get("IsTruncated"):
            return
        marks = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
        page = fs.call_s3("list_multipart_uploads", **wanted, **marks)


def _now(fs: AbstractFileSystem, base: str) -> float:
    """Seconds since 1970 by the clock that stamps the objects."""
    if is_s3(fs):
        bucket = base.partition("/")[0]
        reply = fs.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
        sent = reply["ResponseMetadata"]["HTTPHeaders"].get("date")
        if sent:
            return parsedate_to_datetime(sent).timestamp()
    return time.time()


def _changed(path: str, info: dict[str, Any]) -> float:
    found = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or info.get("created")
    if isinstance(found, datetime):
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    if not isinstance(found, int | float):
        what = "this file system doesn't tell when an object was written, so nothing here counts as old"
        raise AssayError(what, where=path, hint="remove garbage by hand while nothing runs")
    return float(found)
