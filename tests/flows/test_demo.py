"""The demo on the embedded model: what a newcomer sees, and that the tags mean something."""

import json
from importlib.resources import files

import polars as pl
import pytest

from assay.flows.demo import Demo, run_demo
from assay.flows.status import store_status

DOCUMENTS = 260


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo"), DOCUMENTS, None)


@pytest.fixture(scope="module")
def tags(demo: Demo) -> pl.DataFrame:
    """Tags of the written documents, with the kind and language that their writer gave them."""
    manifest = demo.tagging.manifest
    assert manifest is not None
    tables = [pl.read_parquet(demo.folder / "store" / e.objects["tags"].key) for e in manifest.shards]
    lines = files("assay.flows").joinpath("demo_documents.jsonl").read_text("utf-8").splitlines()
    written = pl.DataFrame([json.loads(line) for line in lines]).select(
        "kind", "lang", doc_id="written/" + pl.col("id")
    )
    return pl.concat(tables).join(written, on="doc_id", how="left")


def test_every_record_is_kept_or_quarantined_with_its_reason(demo: Demo) -> None:
    manifest = demo.tagging.manifest
    assert manifest is not None
    assert manifest.rows_kept == DOCUMENTS
    assert manifest.quarantine_reasons == {"empty_text": 1, "not_json": 1, "null_text": 1}
    assert manifest.undecided == {}
    assert [run.finished for run in store_status(str(demo.folder / "store"))] == [True]


def test_insults_in_english_score_as_more_toxic_than_other_english_texts(tags: pl.DataFrame) -> None:
    english = tags.filter(pl.col("lang") == "en")
    insults = english.filter(pl.col("kind") == "insult")["toxicity"].to_list()
    others = english.filter(pl.col("kind") != "insult")["toxicity"].to_list()
    above = sum(insult > other for insult in insults for other in others)
    assert above / (len(insults) * len(others)) > 0.8


def test_gibberish_scores_as_lower_in_quality_than_prose(tags: pl.DataFrame) -> None:
    gibberish = tags.filter(pl.col("kind") == "gibberish")["quality"].mean()
    prose = tags.filter(pl.col("kind").is_in(["history", "school", "health", "fiction"]))["quality"].mean()
    assert gibberish < prose / 2


def test_most_written_documents_get_their_language(tags: pl.DataFrame) -> None:
    known = tags.filter(pl.col("lang").is_not_null() & (pl.col("lang") != "und"))
    assert (known["language"] == known["lang"]).mean() > 0.7


def test_the_dataset_and_the_reports_are_there_and_reconcile(demo: Demo) -> None:
    curated = demo.curation.manifest
    report = json.loads((demo.folder / "curated-report.json").read_text())
    assert curated.kept.documents + curated.dropped.documents == DOCUMENTS
    assert report["totals"]["rows_kept"] == curated.kept.documents
    assert 0 < curated.dropped.documents < DOCUMENTS / 2
    assert (demo.folder / "report.html").read_text().startswith("<!doctype html>")


def test_run_again_it_does_nothing(demo: Demo) -> None:
    again = run_demo(demo.folder, DOCUMENTS, None)
    assert again.tagging.skipped == again.tagging.shards
    assert again.curation.written == 0
    assert again.curation.manifest == demo.curation.manifest
