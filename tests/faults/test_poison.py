"""A document that breaks its worker costs itself and nothing else, and all of it can be seen and tried again."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

import assay.flows.tag
from assay.flows.cli import FINDINGS, OK
from assay.flows.engine import run_flow
from assay.flows.status import store_status
from assay.flows.tag import tag_corpus
from assay.schemas.store import TagManifest
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import load_manifest
from tests.faults.conftest import MakeCorpus
from tests.faults.poison import FAILS, KILLS, PoisonedTagger
from tests.flows.conftest import Cli, tag_parameters
from tests.flows.corpora import commits, hashes

pytestmark = pytest.mark.usefixtures("ray_cluster")
QUICK = {"shard_mb": 1}


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Until it is undone, workers are broken by poison."""
    monkeypatch.setattr(assay.flows.tag, "ShardTagger", PoisonedTagger)
    return monkeypatch


def ids(store: Path, manifest: TagManifest) -> list[str]:
    tables = [pl.read_parquet(store / entry.objects["tags"].key) for entry in manifest.shards if entry.rows_kept]
    return sorted(pl.concat(tables)["doc_id"])


def test_documents_that_break_their_workers_are_quarantined_with_their_place_and_all_others_are_tagged(
    poisoned: pytest.MonkeyPatch, make_corpus: MakeCorpus, tiny_scope: Path, cli: Cli, tmp_path: Path
) -> None:
    planted = {(0, 1): KILLS, (1, 2): FAILS}
    corpus, store = make_corpus(files=3, rows=4, planted=planted), tmp_path / "store"
    command = ["tag", corpus.path, "--store", store, "--scope", tiny_scope, "--id-column", "id", "--shard-mb", 1,
               "--workers", 2, "--device", "cpu"]  # fmt: skip
    tagged = cli(*command)
    assert tagged.code == FINDINGS, tagged.err
    assert "2 of these broke their workers: `assay status` lists them" in tagged.out
    manifest = load_manifest(ObjectStore(str(store)))
    assert manifest.quarantine_reasons == {"fails_worker": 1, "kills_worker": 1}
    assert manifest.rows_in == 12 == manifest.rows_kept + 2
    assert ids(store, manifest) == sorted(set(corpus.texts) - {"0/1", "1/2"})
    [status] = store_status(str(store))
    assert [(Path(t.uri).name, t.row, t.what) for t in status.troubles] == [
        ("0.jsonl", 1, "kills_worker"),
        ("1.jsonl", 2, "fails_worker IndexError"),
    ]
    shown = cli("status", store)
    assert shown.code == FINDINGS
    assert "0.jsonl, row 1: kills_worker" in shown.out
    assert f"assay retry {store} --run {status.run} --quarantined" in shown.out
    assert cli(*command).code == FINDINGS  # run again, it does nothing and says the same
    before = hashes(store)

    poisoned.undo()
    retried = cli("retry", store, "--quarantined", "--workers", 1, "--device", "cpu")
    assert retried.code == OK, retried.err
    assert "shards: 3 (1 done before)" in retried.out
    assert before.items() <= hashes(store).items()
    [current] = [status for status in store_status(str(store)) if not status.retried_by]
    assert (current.rows_kept, current.rows_quarantined, current.troubles) == (12, 0, ())
    assert cli("status", store).code == OK
    assert load_manifest(ObjectStore(str(store))).run == current.run  # the one that isn't retried counts


def test_a_shard_that_was_unreadable_is_done_by_a_retry_once_its_file_is_back(
    make_corpus: MakeCorpus, tiny_scope: Path, cli: Cli, tmp_path: Path
) -> None:
    corpus, store = make_corpus(), tmp_path / "store"
    broken = corpus.path / "3.parquet"
    pl.DataFrame({"id": ["p/0", "p/1"], "text": ["a good text", "another"]}).write_parquet(broken)
    good, stamp = broken.read_bytes(), broken.stat()
    broken.write_bytes(good[:-100] + b"\xff" * 96 + b"PAR1")
    os.utime(broken, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    run_flow(tag_corpus, tag_parameters(corpus.path, store, tiny_scope, **QUICK))
    before = hashes(store)
    [status] = store_status(str(store))
    assert [(Path(t.uri).name, t.kind) for t in status.troubles] == [("3.parquet", "unreadable")]
    broken.write_bytes(good)
    os.utime(broken, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    retried = cli("retry", store, "--workers", 1, "--device", "cpu")
    assert retried.code == OK, retried.err
    assert "shards: 4 (3 done before)" in retried.out
    assert before.items() <= hashes(store).items()  # nothing was changed or taken away
    [current] = [s for s in store_status(str(store)) if not s.retried_by]
    assert (current.rows_kept, current.unreadable_shards) == (38, 0)
    nothing = cli("retry", store)
    assert nothing.code == 2
    assert "no run has something to try again" in nothing.err


def test_a_shard_that_was_given_up_ends_the_run_with_1_is_listed_with_its_reason_and_is_done_by_a_retry(
    make_corpus: MakeCorpus, tiny_scope: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, store, quiet = make_corpus(), tmp_path / "store", tmp_path / "quiet"
    run_flow(tag_corpus, tag_parameters(corpus.path, quiet, tiny_scope, **QUICK))
    victim = corpus.path / "1.jsonl"
    good, stamp = victim.read_bytes(), victim.stat()
    plan = assay.flows.tag.plan_tagging

    def plan_then_replace(*given: object) -> object:
        planned = plan(*given)
        victim.write_bytes(b"another file\n")
        return planned

    monkeypatch.setattr(assay.flows.tag, "plan_tagging", plan_then_replace)
    command = ["tag", corpus.path, "--store", store, "--scope", tiny_scope, "--id-column", "id", "--shard-mb", 1,
               "--workers", 1, "--device", "cpu"]  # fmt: skip
    failed = cli(*command)
    assert failed.code == FINDINGS
    assert "1 of 3 shards failed" in failed.err
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "160")
    [status] = store_status(str(store))
    assert (status.finished, status.shards_done) == (False, 2)
    [trouble] = status.troubles
    assert (trouble.kind, Path(trouble.uri).name, trouble.row) == ("failed", "1.jsonl", 0)
    assert "since the corpus was planned" in trouble.what
    shown = cli("status", store)
    assert shown.code == FINDINGS
    assert "failed: " in shown.out and "1.jsonl, row 0" in shown.out
    assert cli("retry", store, "--device", "cpu", "--workers", 1).code == FINDINGS
    victim.write_bytes(good)
    os.utime(victim, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert cli("retry", store, "--device", "cpu", "--workers", 1).code == OK
    assert cli("status", store).code == OK
    left_out = ["/commits/", "/failures/"]
    assert hashes(store, without=left_out) == hashes(quiet, without=left_out)
    assert commits(store) == commits(quiet)
    failures = [json.loads(ObjectStore(str(store)).read(key)) for key in ObjectStore(str(store)).list("runs")
                if "/failures/" in key]  # fmt: skip
    assert [f["uri"] for f in failures] == [str(victim)] * 2
