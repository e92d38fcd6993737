"""The small scope, the Ray cluster and the command of the flows' tests, for runs that are disturbed."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.corpus_files import json_lines
from tests.flows.conftest import cli, ray_cluster, tiny_scope  # noqa: F401 - fixtures
from tests.flows.corpora import document


class Lines(NamedTuple):
    """A corpus of JSONL files; each line is one document."""

    path: Path
    texts: dict[str, str]
    """id -> text"""


MakeCorpus = Callable[..., Lines]


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """Writes `files` files of `rows` documents; `planted` puts texts at (file, row)."""

    def make(files: int = 3, rows: int = 12, planted: dict[tuple[int, int], str] | None = None) -> Lines:
        folder, texts = tmp_path / "corpus", {}
        folder.mkdir()
        draw = random.Random(5)
        for file in range(files):
            lines = []
            for row in range(rows):
                text = (planted or {}).get((file, row), document(draw.randrange(10**6)))
                texts[f"{file}/{row}"] = text
                lines.append({"id": f"{file}/{row}", "text": text})
            (folder / f"{file}.jsonl").write_bytes(json_lines(lines))
        return Lines(folder, texts)

    return make
