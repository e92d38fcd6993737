"""What every stage shares: the split rule, the log line, documents on disk, atomic writes."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import torch

TRAIN_BUCKETS = range(0, 7)
TEST_BUCKETS = range(8, 10)
EOS = "<|endoftext|>"

_logger = logging.getLogger("assay.training")


class Document(TypedDict):
    """One text and where it came from; `key` decides its side of the split."""

    source: str
    key: str
    text: str
    topic: str | None


def log(message: str, *args: object) -> None:
    """Writes one plain progress line through `logging`."""
    _logger.info(message, *args)


def bucket(key: str) -> int:
    """Gives the project's split bucket of a key: 0-6 train, 7 validation, 8-9 test."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 10


def is_train(key: str) -> bool:
    """Tells whether text under this key may be used to train anything."""
    return bucket(key) in TRAIN_BUCKETS


def is_test(key: str) -> bool:
    """Tells whether text under this key is held out for the final numbers."""
    return bucket(key) in TEST_BUCKETS


def graded_article(name: str) -> str:
    """Gives the name of a graded article without its reading level, which its levels share."""
    return re.sub(r"-(adv|ele|int)(?=\.txt$)", "", name)


def write_atomically(path: Path, data: str | bytes) -> None:
    """Leaves either the old file or the whole new one at `path`, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data.encode() if isinstance(data, str) else data)
    temporary.replace(path)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Leaves the old checkpoint or the whole new one at `path`; written to disk piece by piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as readable JSON in one atomic step."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads one JSON file as UTF-8."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Writes documents as gzip JSON lines in one atomic step and returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    count = 0
    with gzip.open(temporary, "wt", encoding="utf-8", compresslevel=3) as file:
        for document in documents:
            file.write(json.dumps(document, ensure_ascii=False) + "\n")
            count += 1
    temporary.replace(path)
    return count


def read_documents(path: Path) -> Iterator[Document]:
    """Yields the documents of one gzip JSON-lines file in file order."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
