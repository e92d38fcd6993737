"""Finds the objects of a corpus: a file, a folder, a glob, any fsspec URI or a Hugging Face dataset."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem

from assay.schemas.corpus import Format, SourceObject
from assay.schemas.errors import AssayError, printable
from assay.workers.corpora.sources import etag_of
from assay.workers.storage.filesystem import filesystem, is_local, public, storage_errors

SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl.gz",
    ".ndjson.gz": "jsonl.gz",
    ".json.gz": "jsonl.gz",
    ".jsonl.zst": "jsonl.zst",
    ".ndjson.zst": "jsonl.zst",
    ".json.zst": "jsonl.zst",
    ".arrow": "arrow",
}
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BESIDE_DATA = {"state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "README.md"}
_CACHE_OF_DATASETS = re.compile(r"cache-.*\.arrow")
_MAGIC = re.compile(r"[*?[]")


class _File(NamedTuple):
    """A file of the corpus; `inside` is its path below what the user named, empty for a file named itself."""

    path: str
    inside: str
    info: dict[str, Any]


def list_corpus(corpus: str, progress: Callable[[str], None] | None = None) -> list[SourceObject]:
    """The readable objects of `corpus`, sorted by URI, each with its size and etag at this moment.

    Files in hidden places (a name that starts with "." or "_") are left out; `progress` hears what else is.
    Raises AssayError when nothing readable is found.
    """
    say = progress or (lambda line: None)
    fs, path, hub = _locate(corpus)
    sources: list[SourceObject] = []
    unknown: list[str] = []
    links: list[str] = []
    files = _local_files(Path(path), links) if is_local(fs) else _remote_files(fs, path, corpus, hub)
    named_json = corpus.lower().endswith(".json")
    for file in files:
        if _hidden(file.inside):
            continue
        kind = _format(Path(file.path).name, named_json)
        if kind is None:
            if Path(file.path).name not in _BESIDE_DATA:
                unknown.append(file.path)
            continue
        with storage_errors(corpus):
            info = file.info or fs.info(file.path)
            uri = file.path if is_local(fs) else fs.unstrip_protocol(file.path)
            etag = etag_of(fs, file.path, info)
        sources.append(SourceObject(uri=uri, size=int(info.get("size") or 0), etag=etag, format=kind))
    skipped = [
        _skipped(links, "symbolic links to folders or to outside the corpus"),
        _skipped(unknown, f"files that end in none of {', '.join(SUFFIXES)}"),
    ]
    for line in filter(None, skipped):
        say(line)
    if not sources:
        raise AssayError(
            "no readable file was found",
            where=public(corpus),
            hint="; ".join([f"looked for names that end in {', '.join(SUFFIXES)}", *filter(None, skipped)]),
        )
    return sorted(sources, key=lambda source: source.uri)


def _locate(corpus: str) -> tuple[AbstractFileSystem, str, bool]:
    fs, path = filesystem(corpus)
    if is_local(fs):
        if Path(path).exists() or _MAGIC.search(path):
            return fs, path, False
        if not _REPO_ID.fullmatch(corpus):
            hint = "check the path; globs use *, ? and **"
            raise AssayError("no such file or folder", where=corpus, hint=hint)
        fs, path = filesystem(f"hf://datasets/{corpus}")
        return fs, path, True
    return fs, path, corpus.startswith("hf://")


def _format(name: str, named_json: bool) -> Format | None:
    name = name.lower()
    if _CACHE_OF_DATASETS.fullmatch(name):
        return None
    if named_json and name.endswith(".json"):
        return "jsonl"
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def _hidden(inside: str) -> bool:
    return any(part[:1] in ("_", ".") for part in inside.split("/"))


def _skipped(paths: list[str], what: str) -> str:
    if not paths:
        return ""
    paths = sorted(set(paths))
    some = ", ".join(printable(Path(path).name, 60) for path in paths[:3])
    return f"skipped {len(paths)} {what}: {some}{', ...' if len(paths) > 3 else ''}"


def _fixed_root(pattern: str) -> str:
    """The part of a glob before the first name with a wildcard."""
    magic = _MAGIC.search(pattern)
    return pattern[: magic.start()].rpartition("/")[0] if magic else pattern


def _local_files(path: Path, links: list[str]) -> Iterator[_File]:
    if path.is_file():
        yield _File(str(path), "", {})
        return
    root, found = path, [path]
    if not path.exists():
        root = Path(_fixed_root(str(path)) or "/")
        try:
            found = list(root.glob(str(path.relative_to(root))))
        except ValueError as error:
            hint = "** must be a whole name"
            raise AssayError(f"not a glob: {error}", where=str(path), hint=hint) from error
    real_root, seen = root.resolve(), set()
    for start in found:
        for file in _walk(start, links) if start.is_dir() else [start]:
            if file in seen:
                continue
            seen.add(file)
            in_place = file.parent.resolve() == real_root / file.parent.relative_to(root)
            if not in_place or (file.is_symlink() and not file.resolve().is_relative_to(real_root)):
                links.append(str(file))
            elif file.is_file():
                yield _File(str(file), file.relative_to(root).as_posix(), {"size": file.stat().st_size})


def _walk(folder: Path, links: list[str]) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        links.extend(str(Path(here, name)) for name in folders if Path(here, name).is_symlink())
        yield from (Path(here, name) for name in names)


def _remote_files(fs: AbstractFileSystem, path: str, corpus: str, hub: bool) -> Iterator[_File]:
    try:
        with storage_errors(corpus):
            found = _remote_infos(fs, path)
    except Exception as error:
        if not hub:
            raise
        raise _no_dataset(corpus) from error
    root = _fixed_root(path).rstrip("/")
    for name, info in found.items():
        if info.get("type") == "file" and not name.endswith("/"):
            yield _File(name, "" if name == path else name.removeprefix(root).lstrip("/"), info)


def _remote_infos(fs: AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    fs.invalidate_cache()
    try:
        info = fs.info(path)
    except FileNotFoundError:
        if not _MAGIC.search(path):
            raise
        found: dict[str, dict[str, Any]] = {}
        for name, entry in fs.glob(path, detail=True).items():
            found.update({name: entry} if entry.get("type") == "file" else fs.find(name, detail=True))
        return found
    return {path: info} if info.get("type") == "file" else fs.find(path, detail=True)


def _no_dataset(corpus: str) -> AssayError:
    return AssayError(
        "there is no such local path, and no such dataset could be read from the Hugging Face hub"
        if "://" not in corpus
        else "the dataset could not be read from the Hugging Face hub",
        where=public(corpus),
        hint="check the spelling and the network; a private dataset needs HF_TOKEN",
    )
