"""Benchmark text is found in a document by its runs of words, and what can't be found is counted."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.schemas.dedup import Decontaminate
from assay.schemas.errors import AssayError
from assay.workers.dedup.contamination import Found, Reference, read_reference
from assay.workers.dedup.words import WordHasher, normalise
from tests.corpus_files import write

QUESTION = "A farmer has seventeen sheep and all but nine of them run away; how many sheep does the farmer still have?"
SHORT = "Name the largest planet of our solar system."
TINY = "True or false?"


def reference(path: Path, **settings: object) -> Reference:
    return read_reference(Decontaminate.model_validate({"reference": [str(path)], **settings}))[0]


def found(reference: Reference, text: str) -> Found | None:
    return reference.find(WordHasher()(normalise(text)))


def lines(path: Path, *rows: dict[str, object]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def test_a_document_that_holds_13_words_of_an_item_is_found_with_the_item_and_the_share(tmp_path: Path) -> None:
    bench = reference(lines(tmp_path / "b.jsonl", {"question": "x " * 20, "n": 3}, {"question": QUESTION, "n": 4}))
    assert found(bench, f"Some riddles: {QUESTION.upper()} Answer below.") == Found("b.jsonl#1:question", 1.0)
    part = " ".join(QUESTION.split()[:14])
    hit = found(bench, f"Before {part} after")
    assert hit is not None
    assert hit.share == pytest.approx(2 / 9)
    assert found(bench, " ".join(QUESTION.split()[:12])) is None
    assert found(bench, "A text about something else entirely, at some length, with no part of any benchmark") is None


def test_an_item_shorter_than_a_run_is_matched_whole_and_one_of_fewer_words_is_counted(tmp_path: Path) -> None:
    path = lines(tmp_path / "b.jsonl", {"q": SHORT, "a": TINY})
    bench, (file,) = read_reference(Decontaminate(reference=(str(path),)))
    assert (file.items, file.too_short, file.name) == (1, 1, "b.jsonl")
    assert found(bench, f"Quiz night. {SHORT} Jupiter.") == Found("b.jsonl#0:q", 1.0)
    assert found(bench, "Name the largest planet of our system.") is None


def test_overlap_asks_for_more_of_an_item_than_one_run(tmp_path: Path) -> None:
    path = lines(tmp_path / "b.jsonl", {"q": QUESTION})
    part = " ".join(QUESTION.split()[:14])
    assert found(reference(path, overlap=0.5), part) is None
    assert found(reference(path, overlap=0.2), part) is not None


def test_files_of_every_kind_give_the_same_items(tmp_path: Path) -> None:
    row = {"q": QUESTION, "id": "abc", "n": 1}
    paths = [
        lines(tmp_path / "a.jsonl", row),
        write(tmp_path / "a.jsonl.zst", json.dumps(row).encode()),
        write(tmp_path / "a.txt", QUESTION.encode()),
    ]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    for path in [*paths, tmp_path / "a.parquet"]:
        hit = found(reference(path), QUESTION)
        assert hit is not None
        assert hit.share == 1.0
    assert found(reference(paths[0], columns=["q"]), QUESTION) == Found("a.jsonl#0:q", 1.0)


@pytest.mark.parametrize(
    ("name", "data", "settings", "message"),
    [
        ("b.jsonl", b'{"q": "too short"}\n', {}, "no text of 8 words"),
        ("b.jsonl", b'{"q": \n', {}, "can't be read"),
        ("b.jsonl", b"[1]\n", {}, "no object with columns"),
        ("b.jsonl", b'{"q": "x"}\n', {"columns": ["question"]}, "no column 'question'"),
        ("b.parquet", b"PAR1", {}, "can't be read"),
        ("b.csv", b"q\n", {}, "unknown kind"),
        ("b.jsonl.gz", b"not gzip", {}, "can't be read"),
    ],
)
def test_a_file_that_gives_no_items_says_why(
    tmp_path: Path, name: str, data: bytes, settings: dict[str, object], message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(AssayError, match=message) as caught:
        reference(path, **settings)
    assert caught.value.where == str(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssayError) as caught:
        reference(tmp_path / "none.jsonl")
    assert "none.jsonl" in caught.value.where
