"""gc removes what nothing names and nothing can come to name, and only when it is old."""

import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from assay.flows.cli import OK, USAGE
from assay.flows.fsck import fsck
from assay.flows.gc import gc
from assay.flows.tag import TagPlan, tag_job
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagging import ShardTagger
from tests.corpus_files import json_lines
from tests.faults.stores import begin, make_dataset, tag
from tests.flows.conftest import Cli
from tests.flows.corpora import document, hashes

DAY = 86400


class Run(NamedTuple):
    """A run whose first shard is tagged and whose second isn't."""

    store: Path
    plan: TagPlan
    tagger: ShardTagger


@pytest.fixture
def half_done(tmp_path: Path, tiny_scope: Path) -> Run:
    (tmp_path / "corpus").mkdir()
    for file in range(2):
        rows = [{"id": f"{file}/{row}", "text": document(100 * file + row)} for row in range(4)]
        (tmp_path / "corpus" / f"{file}.jsonl").write_bytes(json_lines(rows))
    plan = begin(tmp_path / "corpus", tmp_path / "store", tiny_scope)
    tagger = ShardTagger(tag_job(plan))
    tagger.process(plan.corpus.shards[0], "one")
    return Run(tmp_path / "store", plan, tagger)


def leave(path: Path, days: float, data: bytes = b"garbage") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def features_folder(store: Path) -> Path:
    return next(store.glob("features/*/data"))


def test_an_old_orphan_of_a_committed_shard_goes_and_a_young_one_stays(half_done: Run, cli: Cli) -> None:
    committed = half_done.plan.corpus.shards[0].id
    old = leave(features_folder(half_done.store) / f"{committed}-aaaaaaaaaaaa.parquet", days=8)
    young = leave(features_folder(half_done.store) / f"{committed}-bbbbbbbbbbbb.parquet", days=1)
    shown = cli("gc", half_done.store)
    assert shown.code == OK
    assert f"would remove {old.relative_to(half_done.store)}" in shown.out
    assert "1 more aren't old enough" in shown.out
    assert old.exists()
    done = cli("gc", half_done.store, "--delete")
    assert "removed 1 objects" in done.out
    assert not old.exists() and young.exists()
    cli("gc", half_done.store, "--older-than", "12h", "--delete")
    assert not young.exists()
    assert fsck(str(half_done.store)).problems == ()


def test_what_an_unfinished_shard_may_still_take_over_stays_however_old_it_is(half_done: Run) -> None:
    store, (_, unfinished) = half_done.store, half_done.plan.corpus.shards
    dead = leave(features_folder(store) / f"{unfinished.id}-aaaaaaaaaaaa.parquet", days=900)
    found = gc(str(store), older_than_s=0, delete=True)
    assert (found.removable, found.claimable) == ((), 1)
    assert dead.exists()
    tag(half_done.plan, half_done.tagger)
    assert gc(str(store), older_than_s=DAY, delete=True).removable == (str(dead.relative_to(store)),)
    assert fsck(str(store)).problems == ()


def test_an_object_that_an_attempt_takes_over_while_garbage_is_collected_is_not_removed(half_done: Run) -> None:
    """The attempt finds the bytes of a dead one, and commits them after the collector has read the commits."""
    quiet, store = half_done.store.with_name("quiet"), half_done.store
    shutil.copytree(store, quiet)
    shard = half_done.plan.corpus.shards[1]
    other = ShardTagger(tag_job(half_done.plan)._replace(store=str(quiet)))
    commit = other.process(shard, "dead")
    for role in ("features", "tags", "statistics"):
        key = commit.objects[role].key
        leave(store / key, days=900, data=(quiet / key).read_bytes())
    gc(str(store), older_than_s=0, delete=True)
    assert half_done.tagger.process(shard, "heir").objects == commit.objects
    assert [problem.kind for problem in fsck(str(store)).problems] == ["unsealed"]


def test_an_object_of_a_shard_that_no_run_has_goes(half_done: Run) -> None:
    stray = leave(next(half_done.store.glob("tags/*/data")) / "feedfeedfeedfeed-aaaaaaaaaaaa.parquet", days=8)
    assert gc(str(half_done.store), older_than_s=7 * DAY, delete=True).removable == (
        str(stray.relative_to(half_done.store)),
    )


def test_nothing_that_a_finished_run_or_a_dataset_names_is_ever_removed(half_done: Run, tmp_path: Path) -> None:
    tag(half_done.plan, half_done.tagger)
    make_dataset(half_done.store, tmp_path / "dataset")
    for root in (half_done.store, tmp_path / "dataset"):
        for path in root.rglob("*"):
            os.utime(path, (0, 0))
        before = hashes(root)
        assert gc(str(root), older_than_s=0, delete=True).removable == ()
        assert hashes(root) == before


def test_temporary_files_and_probes_of_killed_processes_go_and_other_files_are_left_alone(half_done: Run) -> None:
    store = half_done.store
    temporary = leave(features_folder(store) / ".tmp-0123", days=8)
    probe = leave(store / "_probe-0123", days=8)
    mine = leave(store / "notes.txt", days=8)
    fresh = leave(store / ".tmp-4567", days=0)
    gc(str(store), older_than_s=7 * DAY, delete=True)
    assert [path.exists() for path in (temporary, probe, mine, fresh)] == [False, False, True, True]


def test_a_part_of_a_dataset_that_no_record_names_goes_once_the_dataset_is_finished(
    half_done: Run, tmp_path: Path
) -> None:
    tag(half_done.plan, half_done.tagger)
    dataset = tmp_path / "dataset"
    make_dataset(half_done.store, dataset)
    orphan = leave(dataset / "_assay/statistics/kept-aaaaaaaaaaaa.parquet", days=8)
    manifest = (dataset / "manifest.json").read_bytes()
    (dataset / "manifest.json").unlink()
    assert gc(str(dataset), older_than_s=0, delete=True).removable == ()
    (dataset / "manifest.json").write_bytes(manifest)
    assert gc(str(dataset), older_than_s=DAY, delete=True).removable == (str(orphan.relative_to(dataset)),)


def test_on_s3_ages_are_told_by_the_store_and_unfinished_uploads_go(s3_env: str) -> None:
    store = ObjectStore(s3_env)
    store.create("assay-store.json", b'{"format": "assay.store/1"}\n', attempt="marker")
    store.create("features/f/data/feedfeedfeedfeed-aaaaaaaaaaaa.parquet", b"garbage", attempt="dead")
    fs, base = store.opened()
    bucket, _, prefix = base.partition("/")
    fs.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{prefix}/features/f/data/big")
    assert gc(s3_env, older_than_s=3600, delete=True).removable == ()
    time.sleep(1.1)
    removed = gc(s3_env, older_than_s=1, delete=True).removable
    assert removed[0] == "features/f/data/feedfeedfeedfeed-aaaaaaaaaaaa.parquet"
    assert [name for name in removed[1:] if "unfinished upload" in name]
    assert list(store.list()) == ["assay-store.json"]
    assert not fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix).get("Uploads")


@pytest.mark.parametrize("age", ["week", "7", "-1d", "d"])
def test_an_age_that_is_none_is_refused(age: str, cli: Cli, tmp_path: Path) -> None:
    refused = cli("gc", tmp_path, f"--older-than={age}")
    assert refused.code == USAGE
    assert "is no age" in refused.err
