import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from assay.flows.demo_corpus import _PROSE_EDGE as PROSE_EDGE
from assay.flows.demo_corpus import BROKEN, DemoCorpus, split, write_demo_corpus, written_documents
from assay.schemas.errors import AssayError

FILES = ("code.parquet", "docs.jsonl.gz", "licences.jsonl", "written.jsonl")
KINDS = {
    "spam", "seo", "insult", "gibberish", "news", "sports", "recipe", "travel", "health", "finance", "religion",
    "history", "fiction", "blog", "school", "poetry",
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DemoCorpus:
    return write_demo_corpus(tmp_path_factory.mktemp("demo"), documents=400)


def records(folder: str) -> list[dict[str, str | None]]:
    root = Path(folder)
    found = pq.read_table(root / "code.parquet").to_pylist()
    lines = gzip.decompress((root / "docs.jsonl.gz").read_bytes()).splitlines()
    for name in ("licences.jsonl", "written.jsonl"):
        lines += (root / name).read_bytes().splitlines()
    return found + [json.loads(line) for line in lines if line.decode() != BROKEN[0]]


def good(folder: str) -> list[dict[str, str | None]]:
    return [record for record in records(folder) if record["source"] != "broken"]


def test_the_same_machine_writes_the_same_bytes(corpus: DemoCorpus, tmp_path: Path) -> None:
    write_demo_corpus(tmp_path, documents=400)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (Path(corpus.path) / name).read_bytes(), name


def test_the_counts_are_those_of_the_files(corpus: DemoCorpus) -> None:
    sources = Counter(str(record["source"]).split("/")[0] for record in good(corpus.path))
    assert dict(sources) == corpus.counts
    assert sum(corpus.counts.values()) == 400
    assert all(corpus.counts.values())


def test_ids_are_unique_and_name_no_folder_of_the_machine(corpus: DemoCorpus) -> None:
    ids = [str(record["id"]) for record in records(corpus.path)]
    assert len(set(ids)) == len(ids)
    assert not [name for name in ids if name.startswith("/") or str(Path.home()) in name]


def test_drawn_documents_have_a_readable_length(corpus: DemoCorpus) -> None:
    drawn = [len(str(r["text"])) for r in good(corpus.path) if not str(r["source"]).startswith("written")]
    assert min(drawn) >= 200
    assert max(drawn) <= 4000


def test_three_broken_records_are_planted(corpus: DemoCorpus) -> None:
    lines = (Path(corpus.path) / "written.jsonl").read_text("utf-8").splitlines()
    with pytest.raises(json.JSONDecodeError):
        json.loads(next(line for line in lines if "broken-line" in line))
    broken = [record["text"] for record in records(corpus.path) if record["source"] == "broken"]
    assert sorted(broken, key=str) == ["", None]
    assert corpus.broken == 3


def test_every_kind_and_many_languages_were_written() -> None:
    documents = list(written_documents())
    assert {document.source.removeprefix("written/") for document in documents} == KINDS
    languages = Counter(document.id.split("-")[1] for document in documents)
    assert len(languages) >= 15
    assert min(languages.values()) >= 4


def test_written_documents_are_short_and_differ() -> None:
    texts = [document.text for document in written_documents()]
    assert len(set(texts)) == len(texts)
    assert all(120 <= len(text) <= 900 for text in texts)


def test_fewer_documents_than_were_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="at least"):
        write_demo_corpus(tmp_path, documents=10)


def test_a_text_is_cut_at_paragraphs_and_else_at_lines() -> None:
    paragraphs = "\n\n".join("word " * 60 for _ in range(10))
    pieces = list(split(paragraphs, PROSE_EDGE, 700))
    assert all(200 <= len(piece) <= 700 for piece in pieces)
    assert all(piece.startswith("word") for piece in pieces)
    assert max(map(len, split("x" * 2000, PROSE_EDGE, 500))) == 500
