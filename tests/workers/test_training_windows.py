"""A corpus as a stream to train on: repeatable from any place, and held-out documents never in it."""

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from assay.sae_runtime.windows import Tokenizer, Window
from assay.schemas.corpus import ReadOptions
from assay.schemas.errors import AssayError
from assay.workers.corpora.planning import plan_corpus
from assay.workers.training_windows import HELD_OUT_ONE_IN, TrainingWindows, is_held_out
from tests.checkpoints import save_tokenizer

DOCUMENTS = {f"doc-{n}": f"the document number {n} jumps over the lazy dog " * (1 + n % 4) for n in range(120)}


@pytest.fixture
def windows(tmp_path: Path) -> TrainingWindows:
    return the_windows(tmp_path, DOCUMENTS)


def the_windows(folder: Path, documents: dict[str, str]) -> TrainingWindows:
    save_tokenizer(folder)
    (folder / "corpus").mkdir(exist_ok=True)
    lines = "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in documents.items())
    (folder / "corpus/a.jsonl").write_text(lines)
    plan = plan_corpus(str(folder / "corpus"), ReadOptions(id_column="id"), 2000)
    return TrainingWindows(plan, Tokenizer(folder), window=32, overlap=4, seed=1)


def texts(placed: Iterator[tuple[tuple[int, ...], Window]], windows: TrainingWindows) -> set[str]:
    """The beginnings of the documents."""
    return {windows._tokenizer.decode(w.ids)[:24] for _, w in placed if not w.start}


def test_held_out_documents_never_reach_training_and_all_others_do(windows: TrainingWindows) -> None:
    out = {text[:24] for name, text in DOCUMENTS.items() if is_held_out(name)}
    assert 0 < len(out) < len(DOCUMENTS) // 4
    three_passes = []
    for place, window in windows.training():
        if place[0] == 3:
            break
        three_passes.append((place, window))
    assert texts(iter(three_passes), windows) == {text[:24] for text in DOCUMENTS.values()} - out
    assert texts(windows.held_out(), windows) == out


def test_about_one_document_in_twenty_is_held_out() -> None:
    share = sum(is_held_out(f"id {n}") for n in range(20_000)) / 20_000
    assert share == pytest.approx(1 / HELD_OUT_ONE_IN, rel=0.1)


@pytest.mark.parametrize("behind", [1, 7, 100, 300])
def test_the_stream_continues_from_any_place_as_if_it_had_not_stopped(windows: TrainingWindows, behind: int) -> None:
    whole = list(islice(windows.training(), behind + 200))
    assert list(islice(windows.training(whole[behind - 1][0]), 200)) == whole[behind:]


def test_each_pass_has_the_same_windows_in_another_order(windows: TrainingWindows) -> None:
    passes: dict[int, list[tuple[int, ...]]] = {0: [], 1: []}
    for place, window in windows.training():
        if place[0] == 2:
            break
        passes[place[0]].append(tuple(window.ids))
    assert passes[0] != passes[1]
    assert sorted(passes[0]) == sorted(passes[1])


def test_a_second_pass_is_logged(windows: TrainingWindows, caplog: pytest.LogCaptureFixture) -> None:
    next(placed for placed in windows.training() if placed[0][0] == 1)
    assert "beginning another" in caplog.text


def test_a_corpus_without_a_document_to_train_on_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    held_out = next(name for name in DOCUMENTS if is_held_out(name))
    with pytest.raises(AssayError, match="no document to train on"):
        next(the_windows(tmp_path, {held_out: "the quick brown fox"}).training())


def test_a_damaged_object_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    the_windows(tmp_path, DOCUMENTS)
    (tmp_path / "corpus/cut.jsonl.gz").write_bytes(gzip.compress(b'{"id": "x", "text": "lost"}\n' * 99)[:-12])
    plan = plan_corpus(str(tmp_path / "corpus"), ReadOptions(id_column="id"), 2000)
    stream = TrainingWindows(plan, Tokenizer(tmp_path), window=32, overlap=4, seed=1).training()
    assert next(placed for placed in stream if placed[0][0] == 1)
    assert "cut.jsonl.gz" in caplog.text
