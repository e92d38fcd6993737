"""A search over planted copies: each is found by its stage, the right one stays, and nothing depends on the order."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assay.schemas.errors import AssayError
from assay.workers.dedup.job import WORK, SearchUnit
from assay.workers.storage.objects import ObjectStore
from benchmarks.planted import PLANTS, Page, planted, write_store
from tests.corpus_files import json_lines, write
from tests.flows.corpora import hashes
from tests.workers.dedup.searches import Source, copies, dropped, plan, run
from tests.workers.dedup.test_features import features_of, retold, vectors

NEAR = {"near": {"threshold": 0.8}}


def text(seed: int, words: int = 120) -> str:
    """Sentences of made-up words that no other seed gives."""
    draw = random.Random(seed)
    made = ["".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(3, 8))) for _ in range(words)]
    return ". ".join(" ".join(made[n : n + 9]).capitalize() for n in range(0, words, 9))


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    """Three hundred pages and ten copies of each kind."""
    return planted([Page(f"page-{n}", text(n)) for n in range(300)], 10, seed=3)


def store_of(folder: Path, documents: Sequence[tuple[str, str]], **options: object) -> Source:
    return write_store(folder, documents, **options)  # type: ignore[arg-type]


def test_planted_copies_are_found_by_the_stage_that_is_meant_for_them(tmp_path: Path, pages: list[Page]) -> None:
    source = store_of(tmp_path, [(page.id, page.text) for page in pages])
    manifest = run(plan([source], tmp_path / "out", NEAR))
    gone = dropped(manifest, tmp_path / "out")
    place = {page.id: n for n, page in enumerate(pages)}
    found: dict[str, int] = dict.fromkeys(PLANTS, 0)
    for page in pages:
        if not page.of:
            continue
        first, second = sorted([page.id, page.of], key=place.__getitem__)
        if second in gone:
            stage, kept = gone.pop(second)
            assert kept == first
            assert (stage == "exact") == (page.kind == "exact")
            found[page.kind] += 1
    assert not gone, "only planted copies go"
    assert found["exact"] == found["cut after 85-95 %"] == 10
    assert found["2 % of words edited"] >= 7
    assert found["20 % of words edited"] == 0
    assert manifest.documents == len(pages)
    assert {stage.stage: stage.documents for stage in manifest.stages} == {
        "contaminated": 0,
        "exact": 10,
        "near": sum(found.values()) - 10,
        "features": 0,
    }


def test_the_result_is_the_same_bytes_whatever_the_order_of_work_and_the_partitions(
    tmp_path: Path, pages: list[Page]
) -> None:
    source = store_of(tmp_path, [(page.id, page.text) for page in pages], files=5)
    for name, partitions, seed in (("a", 1, None), ("b", 1, 5), ("c", 6, 9)):
        run(plan([source], tmp_path / name, NEAR, partitions=partitions), seed=seed)
    results = [hashes(tmp_path / name, without=["search.json"]) for name in "abc"]
    assert results[0] == results[1] == results[2]
    assert "manifest.json" in results[0]
    assert not any(key.startswith(WORK) for key in results[0])


def test_a_finished_search_is_found_and_another_one_is_refused(tmp_path: Path) -> None:
    source = store_of(tmp_path, [("a", text(1)), ("b", text(2))])
    first = run(plan([source], tmp_path / "out", NEAR))
    assert run(plan([source], tmp_path / "out", NEAR)) == first
    with pytest.raises(AssayError, match="another search"):
        run(plan([source], tmp_path / "out", {}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(AssayError, match="isn't empty"):
        run(plan([source], tmp_path / "full", NEAR))


@pytest.mark.parametrize(("keep", "stays"), [("first", "short"), ("longest", "long"), ("best:quality", "good")])
def test_the_copy_that_stays_is_the_one_that_the_rule_names(tmp_path: Path, keep: str, stays: str) -> None:
    body = text(1, 300)
    documents = [("short", body), ("unknown", f"{body} end"), ("long", f"{body} the very end"), ("good", f"{body} oh")]
    scores = {"short": 0.1, "unknown": None, "long": 0.2, "good": 0.9}
    source = store_of(tmp_path, documents, scores=scores)
    gone = dropped(run(plan([source], tmp_path / "out", {**NEAR, "keep": keep})), tmp_path / "out")
    assert gone == {name: ("near", stays) for name in scores if name != stays}


def test_a_copy_of_a_copy_points_to_the_document_that_stays_in_the_end(tmp_path: Path) -> None:
    body = text(1, 300)
    documents = [("first", body), ("near", f"{body} more words"), ("same", f"{body}  MORE words")]
    source = store_of(tmp_path, documents, files=2)
    rows = copies(run(plan([source], tmp_path / "out", NEAR)), tmp_path / "out")
    assert [(row["doc_id"], row["stage"], row["kept_id"], row["kept_row"]) for row in rows] == [
        ("near", "near", "first", 0),
        ("same", "exact", "first", 0),
    ]
    assert rows[1]["similarity"] == 1.0
    assert 0.9 < rows[0]["similarity"] <= 1.0


def test_copies_are_found_across_sources_unless_each_is_searched_alone(tmp_path: Path) -> None:
    one = store_of(tmp_path, [("a", text(1)), ("b", text(2)), ("c", text(1))], name="one")
    two = store_of(tmp_path, [("d", text(2)), ("e", text(3))], name="two")
    everywhere = dropped(run(plan([one, two], tmp_path / "all", NEAR)), tmp_path / "all")
    assert everywhere == {"c": ("exact", "a"), "d": ("exact", "b")}
    alone = dropped(run(plan([one, two], tmp_path / "each", {**NEAR, "within": "source"})), tmp_path / "each")
    assert alone == {"c": ("exact", "a")}


def test_contaminated_documents_go_first_and_never_stand_for_a_copy(tmp_path: Path) -> None:
    question = text(50, 20)
    documents = [("leak", f"{text(1)} {question}"), ("b", text(1)), ("c", text(1)), ("leak-2", question)]
    source = store_of(tmp_path, documents)
    bench = write(tmp_path / "quiz.jsonl", json_lines([{"id": "q", "text": question}]))
    made = plan([source], tmp_path / "out", NEAR, {"reference": [str(bench)]})
    manifest = run(made)
    assert dropped(manifest, tmp_path / "out") == {
        "leak": ("contaminated", "quiz.jsonl#0:text"),
        "c": ("exact", "b"),
        "leak-2": ("contaminated", "quiz.jsonl#0:text"),
    }
    assert manifest.documents == 4
    only = run(plan([source], tmp_path / "only", None, {"reference": [str(bench)]}))
    assert set(dropped(only, tmp_path / "only")) == {"leak", "leak-2"}


def test_only_the_chosen_documents_are_compared_so_that_none_goes_for_one_that_is_not_there(tmp_path: Path) -> None:
    source = store_of(tmp_path, [("a", text(1)), ("b", text(1)), ("c", text(1))])

    def without_a(unit: SearchUnit) -> np.ndarray:
        return np.arange(unit.entry.rows_kept) + unit.number > 0

    manifest = run(plan([source], tmp_path / "out", {}, select=without_a, selection="without a"))
    assert dropped(manifest, tmp_path / "out") == {"c": ("exact", "b")}
    assert manifest.documents == 2


def test_the_same_content_in_other_words_is_found_by_features(tmp_path: Path) -> None:
    originals = vectors(60)
    by_id = {f"d{n}": v for n, v in enumerate(originals)}
    by_id |= {f"r{n}": retold(v, 0.05, n) for n, v in enumerate(originals[:20])}
    by_id |= {"thin": {1: 1.0}, "thin-2": {1: 1.0}}

    def table(ids: Sequence[str]) -> pa.Table:
        return features_of([by_id[i] for i in ids])

    source = store_of(tmp_path, [(i, text(n)) for n, i in enumerate(by_id)], features=table)
    manifest = run(plan([source], tmp_path / "out", {"features": {"layer": 3, "cosine": 0.9}}, partitions=3))
    gone = dropped(manifest, tmp_path / "out")
    assert set(gone) <= {f"r{n}" for n in range(20)}
    assert len(gone) >= 18
    assert all(value == ("features", name.replace("r", "d")) for name, value in gone.items())
    assert all(0.9 <= row["similarity"] <= 1 for row in copies(manifest, tmp_path / "out"))


def test_text_without_a_word_is_only_an_exact_copy(tmp_path: Path) -> None:
    source = store_of(tmp_path, [("a", "!!!"), ("b", "???"), ("c", "!!!"), ("d", "one"), ("e", "one two")])
    gone = dropped(run(plan([source], tmp_path / "out", {"near": {"threshold": 0.5}})), tmp_path / "out")
    assert gone == {"c": ("exact", "a")}


def test_boilerplate_that_everybody_copies_leaves_one(tmp_path: Path) -> None:
    body = text(1, 200)
    source = store_of(tmp_path, [(f"d{n}", f"{body} visitor {n}") for n in range(150)])
    manifest = run(plan([source], tmp_path / "out", NEAR, partitions=4))
    gone = dropped(manifest, tmp_path / "out")
    assert set(gone) == {f"d{n}" for n in range(1, 150)}
    assert {kept for _, kept in gone.values()} == {"d0"}
    (cluster,) = manifest.clusters
    assert (cluster.kept, cluster.copies, cluster.examples) == ("d0", 149, ("d1", "d2", "d3", "d4", "d5"))


def test_what_a_source_can_not_give_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    table = features_of([{1: 1.0}], layer=3)
    source = store_of(tmp_path, [("a", text(1))], files=1, features=lambda ids: table)
    with pytest.raises(AssayError, match="unknown score 'quality'"):
        plan([source], tmp_path / "out", {"keep": "best:quality"})
    with pytest.raises(AssayError, match="unknown layer '7'") as caught:
        plan([source], tmp_path / "out", {"features": {"layer": 7}})
    assert "known: 3" in caught.value.hint
    with pytest.raises(AssayError, match="nothing to look for"):
        plan([source], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_that_changed_since_it_was_tagged_is_refused(tmp_path: Path) -> None:
    source = store_of(tmp_path, [("a", text(1)), ("b", text(2))], files=1)
    path = tmp_path / "corpus" / "00000.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "c", "text": "new"}\n')
    with pytest.raises(AssayError, match="changed"):
        run(plan([source], tmp_path / "out", NEAR))
    assert not ObjectStore(str(tmp_path / "out")).exists("manifest.json")


def test_a_result_on_s3_is_the_one_on_a_disk(tmp_path: Path, pages: list[Page], root: str) -> None:
    source = store_of(tmp_path, [(page.id, page.text) for page in pages[:120]])
    there = run(plan([source], root, NEAR, partitions=2))
    here = run(plan([source], tmp_path / "here", NEAR, partitions=2))
    assert there == here
    assert list(ObjectStore(root).list()) == list(ObjectStore(str(tmp_path / "here")).list())
