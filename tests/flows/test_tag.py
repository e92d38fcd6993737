"""Tagging from files to a sealed run: every row accounted for, the same bytes whoever did the work and whoever died."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from assay.flows.engine import run_flow
from assay.flows.tag import tag_corpus
from assay.schemas.errors import AssayError, inert
from assay.schemas.tagger import dump_tagger, load_tagger, load_taggers
from tests.flows.conftest import SHARD_MB, Tagged, tag_parameters
from tests.flows.corpora import (
    ASSAY,
    QUARANTINED,
    TRUNCATED,
    assay,
    assay_environment,
    commits,
    hashes,
    write_corpus,
)

ATTEMPTS = ("/commits/", ".tmp-")


def command(tagged: Tagged, store: Path) -> list[object]:
    return ["tag", tagged.corpus.path, "--store", store, "--scope", tagged.scope, "--id-column", "id",
            "--shard-mb", SHARD_MB, "--workers", 1, "--device", "cpu"]  # fmt: skip


def test_every_row_is_kept_or_quarantined_under_its_reason(tagged: Tagged) -> None:
    manifest = tagged.report.manifest
    assert manifest is not None
    assert manifest.quarantine_reasons == dict(sorted(QUARANTINED.items()))
    assert manifest.rows_quarantined == sum(QUARANTINED.values())
    assert manifest.rows_kept == len(tagged.corpus.documents)
    assert manifest.rows_in == manifest.rows_kept + manifest.rows_quarantined
    for entry in manifest.shards:
        assert entry.rows_in == entry.rows_kept + entry.rows_dropped + entry.rows_quarantined
    readable = [entry for entry in manifest.shards if not entry.unreadable]
    tags = pl.concat([pl.read_parquet(tagged.store / entry.objects["tags"].key) for entry in readable])
    assert sorted(tags["doc_id"]) == sorted(tagged.corpus.documents)
    assert tags["n_tokens"].sum() == manifest.tokens
    sizes = dict(zip(tags["doc_id"], tags["n_bytes"], strict=True))
    assert sizes == {name: len(text.encode()) for name, text in tagged.corpus.documents.items()}
    lines = [
        json.loads(line)
        for entry in readable
        if "quarantine" in entry.objects
        for line in (tagged.store / entry.objects["quarantine"].key).read_text("ascii").splitlines()
    ]
    assert Counter(line["reason"] for line in lines) == QUARANTINED


def test_a_truncated_file_is_an_unreadable_shard_and_the_others_are_done(tagged: Tagged) -> None:
    manifest = tagged.report.manifest
    assert manifest is not None
    broken = [entry for entry in manifest.shards if entry.unreadable]
    assert manifest.unreadable_shards == len(broken) == 1
    assert broken[0].source is not None
    assert Path(broken[0].source.uri).name == TRUNCATED
    assert (broken[0].rows_in, broken[0].objects) == (0, {})
    assert {Path(e.source.uri).name for e in manifest.shards if e.source} == {
        path.name for path in tagged.corpus.path.iterdir()
    }


def test_a_second_run_does_nothing_and_the_command_exits_with_1_for_the_unreadable_shard(
    tagged: Tagged, tmp_path: Path
) -> None:
    before = hashes(tagged.store)
    again = run_flow(tag_corpus, tagged.parameters())
    assert (again.skipped, again.tokens, again.manifest) == (again.shards, 0, tagged.report.manifest)
    done = assay(tmp_path, *command(tagged, tagged.store))
    assert done.returncode == 1, done.stderr
    assert f"shards: {again.shards} ({again.shards} done before)" in done.stdout
    assert inert(TRUNCATED) in done.stdout
    assert all(c.isprintable() or c == "\n" for c in done.stdout + done.stderr)
    assert hashes(tagged.store) == before


def test_two_workers_write_the_same_bytes_as_one(tagged: Tagged, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run_flow(tag_corpus, tagged.parameters(store=str(store), workers=2))
    assert hashes(store, without=ATTEMPTS) == hashes(tagged.store, without=ATTEMPTS)
    assert commits(store) == commits(tagged.store)


def test_a_killed_driver_continues_to_the_bytes_of_an_undisturbed_run(tagged: Tagged, tmp_path: Path) -> None:
    store = tmp_path / "store"
    environment = assay_environment(tmp_path / "home")
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(
            [ASSAY, *map(str, command(tagged, store))], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 120
            while len(list(store.glob("tags/*/commits/*.json"))) < 2:
                assert driver.poll() is None, (tmp_path / "log").read_text("utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
    done = len(list(store.glob("tags/*/commits/*.json")))
    assert 2 <= done < tagged.report.shards
    assert not list(store.glob("runs/*/manifest.json"))
    status = assay(tmp_path / "home", "status", store, "--json")
    assert status.returncode == 1
    assert [(r["finished"], r["shards"]) for r in json.loads(status.stdout)] == [(False, tagged.report.shards)]
    finished = assay(tmp_path / "home", *command(tagged, store))
    assert finished.returncode == 1, finished.stderr
    assert hashes(store, without=ATTEMPTS) == hashes(tagged.store, without=ATTEMPTS)
    assert commits(store) == commits(tagged.store)
    for path in store.glob("runs/*/*.json"):
        assert str(tmp_path) not in path.read_text("utf-8")


def test_a_new_file_in_the_corpus_is_all_that_is_done(tiny_scope: Path, ray_cluster: None, tmp_path: Path) -> None:
    corpus, store = write_corpus(tmp_path / "corpus", documents=24).path, tmp_path / "store"
    shutil.move(corpus / "d.jsonl.zst", tmp_path / "later")
    first = run_flow(tag_corpus, tag_parameters(corpus, store, tiny_scope))
    before = hashes(store)
    shutil.move(tmp_path / "later", corpus / "d.jsonl.zst")
    second = run_flow(tag_corpus, tag_parameters(corpus, store, tiny_scope))
    assert second.skipped == first.shards
    new = [e for e in second.manifest.shards if Path(e.source.uri).name == "d.jsonl.zst"]
    assert second.shards == first.shards + len(new)
    assert second.manifest.rows_kept == first.manifest.rows_kept + 6
    assert second.tokens == sum(entry.tokens for entry in new)
    assert before.items() <= hashes(store).items()
    assert second.run != first.run


def test_other_taggers_reuse_the_features_and_leave_undecided_what_they_cannot_know(
    tagged: Tagged, tmp_path: Path
) -> None:
    default = load_tagger(tagged.scope.parent / "taggers" / "quality.json")
    watched = {
        (f.layer, f.feature) for tagger in load_taggers(tagged.scope.parent / "taggers") for f in tagger.features
    }
    unwatched = (n for n in range(1024) if (1, n) not in watched)
    features = tuple(f.model_copy(update={"layer": 1, "feature": next(unwatched)}) for f in default.features)
    (tmp_path / "other.json").write_text(
        dump_tagger(default.model_copy(update={"name": "other", "features": features}))
    )
    store = tmp_path / "store"
    shutil.copytree(tagged.store, store)
    before = hashes(store)
    report = run_flow(tag_corpus, tagged.parameters(store=str(store), taggers=str(tmp_path / "other.json")))
    after = hashes(store)
    assert before.items() <= after.items()
    assert not [name for name in after.keys() - before.keys() if name.startswith("features/")]
    tables = [pl.read_parquet(store / e.objects["tags"].key) for e in report.manifest.shards if not e.unreadable]
    undecided = sum(table["other"].null_count() for table in tables)
    assert 0 < undecided <= report.manifest.rows_kept
    assert report.manifest.undecided == {"other": undecided}


def test_taggers_of_another_encoder_are_refused_before_anything_is_written(tagged: Tagged, tmp_path: Path) -> None:
    tagger = load_tagger(tagged.scope.parent / "taggers" / "quality.json")
    (tmp_path / "alien.json").write_text(dump_tagger(tagger.model_copy(update={"encoder": "0" * 16})))
    store = tmp_path / "store"
    with pytest.raises(AssayError, match="was fitted on encoder 0000000000000000"):
        run_flow(tag_corpus, tagged.parameters(store=str(store), taggers=str(tmp_path / "alien.json")))
    assert not store.exists()
