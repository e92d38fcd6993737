"""The labelled tasks that the embedded model is judged by."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from assay.flows.labelled import Labelled, domain, reading_level, toxicity

SHORT_TEXTS_KEPT = 85
"""Of 256 hash values: how many of the tweets and sentences are used, a third."""


class Task(NamedTuple):
    """Texts with labels and splits."""

    name: str
    title: str
    rows: list[Labelled]
    positive: str | None
    """the label that counts as yes, or None where there are several"""


def tasks(folder: Path) -> list[Task]:
    """The four tasks on the labelled sets in `folder`; AssayError where one is missing."""
    short = list(toxicity(folder))
    return [
        Task("topic", "topic of a web page, 24 classes", list(domain(folder)), None),
        Task("tweets", "abusive tweets", _third(r for r in short if r.source == "tweets"), "toxic"),
        Task(
            "sentences",
            "hateful sentences in German, Spanish, French, Italian, Portuguese",
            _third(r for r in short if r.source.startswith("sentences-")),
            "toxic",
        ),
        Task("reading level", "reading level of a news article, 3 classes", list(reading_level(folder)), None),
    ]


def _third(rows: Iterable[Labelled]) -> list[Labelled]:
    return [row for row in rows if hashlib.sha256(row.id.encode()).digest()[-1] < SHORT_TEXTS_KEPT]
