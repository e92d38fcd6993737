"""Collects the training text into two files, train and held out, with every source counted.

Nothing is executed: packages are downloaded with `apt-get download` and unpacked with `dpkg-deb -x`,
which runs no maintainer script.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from .common import Document, graded_article, is_test, is_train, log, read_json, write_documents, write_json
from .extract import documents_of
from .sources import FALLBACK, LABELLED, LABELLED_LICENCES, LOCAL, PACKAGES, Source

HELD_OUT_SHARE = {"labelled": 0.2}
OTHER_HELD_OUT_SHARE = 0.05
_UNWANTED = re.compile(r"changelog|genindex|/search|/_sources/|/test/|/tests/|/idlelib/|/lib2to3/|site-packages")


def gather(work: Path, labelled: Path | None, quick: bool) -> dict[str, dict[str, object]]:
    """Leaves `text/train.jsonl.gz`, `text/heldout.jsonl.gz` and `text/sources.json` in `work`.

    Returns the sources table: per source its kind, licence, documents and characters on both sides.
    A source that can't be had is named in the log and left out. Skips when the table exists.
    """
    table_path = work / "text" / "sources.json"
    if table_path.exists():
        return read_json(table_path)
    shrink = 0.05 if quick else 1.0
    train: list[Document] = []
    heldout: list[Document] = []
    table: dict[str, dict[str, object]] = {}
    packages = [] if quick else PACKAGES
    for source, documents, licence in _all_sources(work, labelled, packages):
        kept, held = _within_caps(documents, source.cap * shrink, HELD_OUT_SHARE.get(source.kind, OTHER_HELD_OUT_SHARE))
        if not kept:
            log("gather: %s gave no text, left out", source.name)
            continue
        train += kept
        heldout += held
        table[source.name] = {
            "kind": source.kind,
            "licence": licence,
            "weight": source.weight,
            "train_documents": len(kept),
            "train_chars": sum(len(d["text"]) for d in kept),
            "heldout_documents": len(held),
            "heldout_chars": sum(len(d["text"]) for d in held),
        }
        log(
            "gather: %-26s %9d characters to train on, %8d held out",
            source.name,
            table[source.name]["train_chars"],
            table[source.name]["heldout_chars"],
        )
    if not train:
        raise RuntimeError("no text found: give --labelled, or run where apt or Python's sources are available")
    write_documents(work / "text" / "train.jsonl.gz", train)
    write_documents(work / "text" / "heldout.jsonl.gz", heldout)
    write_json(table_path, table)
    return table


def _all_sources(
    work: Path, labelled: Path | None, packages: list[Source]
) -> Iterator[tuple[Source, Iterable[Document], str]]:
    missing = False
    for source in LABELLED:
        path = labelled / f"{source.name}.jsonl.gz" if labelled else None
        if path is None or not path.is_file():
            log("gather: labelled set %s is not there, going on without it", source.name)
            missing = True
            continue
        yield source, _labelled_documents(path, source), LABELLED_LICENCES[source.name]
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    roots = {"python-stdlib": stdlib, "common-licenses": Path("/usr/share/common-licenses")}
    licences = {"python-stdlib": "PSF-2.0", "common-licenses": "verbatim copying permitted by each licence"}
    for source in LOCAL:
        yield source, _folder_documents(roots[source.name], source), licences[source.name]
    for source in packages:
        root = _unpacked(work, source.name)
        missing |= root is None
        if root is not None:
            yield source, _folder_documents(root, source), _package_licence(root, source.name)
    if missing or not packages:
        for source in FALLBACK:
            root = Path("/usr/share/doc" if source.name == "usr-share-doc" else "/usr/share/dict")
            yield source, _folder_documents(root, source), "see each package's copyright file"


def _unpacked(work: Path, package: str) -> Path | None:
    """Gives the unpacked files of a Debian package, downloading it if needed, or None if it can't be had."""
    target, debs = work / "packages" / package, work / "debs"
    if target.exists():
        return target
    apt_get, dpkg_deb = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if not apt_get or not dpkg_deb:
        log("gather: %s needs apt-get and dpkg-deb, which this machine lacks", package)
        return None
    debs.mkdir(parents=True, exist_ok=True)
    if not list(debs.glob(f"{package}_*.deb")):
        command = [apt_get, "download", "-q", package]
        if subprocess.run(command, cwd=debs, capture_output=True, check=False).returncode:  # noqa: S603
            log("gather: apt-get could not download %s", package)
            return None
    partial = target.with_name(package + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    unpack = [dpkg_deb, "-x", str(next(debs.glob(f"{package}_*.deb"))), str(partial)]
    subprocess.run(unpack, check=True)  # noqa: S603 - names come from this package's own list
    partial.rename(target)
    return target


def _package_licence(root: Path, package: str) -> str:
    """Names the licences that the package's copyright file declares in machine-readable form, if it does."""
    path = root / "usr/share/doc" / package / "copyright"
    if path.is_file():
        names = re.findall(r"^License:[ \t]*(\S.*)$", path.read_text(encoding="utf-8", errors="replace"), re.M)
        unique = list(dict.fromkeys(name.strip() for name in names if len(name) < 60 and " is " not in name))
        if unique:
            return ", ".join(unique[:4]) + (", … (see package copyright)" if len(unique) > 4 else "")
    return "see package copyright"


def _folder_documents(root: Path, source: Source) -> Iterator[Document]:
    """Yields documents of matching files in an order that a hash of the path fixes."""
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    wanted = [name for name in paths if re.search(source.match, "/" + root.name + "/" + name)]
    wanted = [name for name in wanted if not _UNWANTED.search("/" + name)]
    for name in sorted(wanted, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        try:
            texts = list(documents_of(paths[name], source.kind))
        except (OSError, EOFError) as error:
            log("gather: %s/%s can't be read (%s)", source.name, name, error)
            continue
        # A large dictionary or fortune file is many documents, so each gets its own side of the split.
        several = source.kind in {"dict", "fortune"}
        for number, text in enumerate(texts):
            key = f"{source.name}:{name}:{number}" if several else f"{source.name}:{name}"
            yield {"source": source.name, "key": key, "text": text, "topic": None}


def _labelled_documents(path: Path, source: Source) -> Iterator[Document]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            key = row["article"] if source.name == "onestop" else row["id"]
            if source.name == "onestop" and not _whole_article_on_one_side(key):
                continue
            yield {"source": source.name, "key": key, "text": row["text"], "topic": row.get("topic")}


def _whole_article_on_one_side(key: str) -> bool:
    """Keeps a graded article only if all its reading levels fall on the same side of the split."""
    stem = graded_article(key)
    keys = [key, stem, *(stem.replace(".txt", f"-{level}.txt") for level in ("adv", "ele", "int"))]
    return all(is_train(k) for k in keys) or all(is_test(k) for k in keys)


def _within_caps(
    documents: Iterable[Document], cap: float, heldout_share: float
) -> tuple[list[Document], list[Document]]:
    """Splits documents by the project's rule and stops at the caps; bucket 7 is left to validation."""
    train: list[Document] = []
    heldout: list[Document] = []
    train_room, heldout_room = cap, max(cap * heldout_share, 20_000.0)
    for document in documents:
        if is_train(document["key"]) and train_room > 0:
            train.append(document)
            train_room -= len(document["text"])
        elif is_test(document["key"]) and heldout_room > 0:
            heldout.append(document)
            heldout_room -= len(document["text"])
        elif train_room <= 0 and heldout_room <= 0:
            break
    return train, heldout
