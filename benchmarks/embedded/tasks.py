"""The labelled tasks that the embedded model is judged by."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from assay.flows.definitions import load_definition
from assay.taggers.examples import Example
from assay.taggers.sources import read_definition


class Task(NamedTuple):
    """Texts with labels and splits."""

    name: str
    title: str
    rows: list[Example]
    positive: str | None
    """the label that counts as yes, or None where there are several"""


def tasks(folder: Path, limit: int) -> list[Task]:
    """The four tasks, at most `limit` texts each; AssayError where `folder` lacks a labelled set."""
    short = labelled("toxicity", folder)
    return [
        Task("topic", "topic of a web page, 24 classes", sample(labelled("domain", folder), limit), None),
        Task("tweets", "abusive tweets", sample((r for r in short if r.source == "tweets"), limit), "toxic"),
        Task(
            "sentences",
            "hateful sentences in German, Spanish, French, Italian, Portuguese",
            sample((r for r in short if r.source.startswith("sentences-")), limit),
            "toxic",
        ),
        Task(
            "reading level",
            "reading level of a news article, 3 classes",
            sample(labelled("reading_level", folder), limit),
            None,
        ),
    ]


def labelled(name: str, folder: Path) -> list[Example]:
    """The examples of a ready definition, with their splits."""
    return list(read_definition(load_definition(name), folder).examples)


def sample(rows: Iterable[Example], limit: int) -> list[Example]:
    """The `limit` rows of lowest hash, so that a larger sample holds a smaller one."""
    return sorted(rows, key=lambda row: hashlib.sha256(row.id.encode()).hexdigest())[:limit]
