"""A store that answers badly, is slow or full: an attempt fails in words or succeeds whole, to the same bytes."""

import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import s3fs

from assay.flows.fsck import fsck
from assay.flows.tag import seal_run, tag_job
from assay.schemas.errors import StorageError
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagging import ShardTagger
from tests.corpus_files import json_lines
from tests.faults.proxy import FAULTS, bad_server
from tests.faults.stores import begin, tag
from tests.flows.corpora import document, hashes

ATTEMPTS = ["/commits/"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for file in range(4):
        rows = [{"id": f"{file}/{row}", "text": document(10 * file + row)} for row in range(3)]
        (folder / f"{file}.jsonl").write_bytes(json_lines(rows))
    return folder


def test_a_store_that_answers_one_request_in_four_badly_comes_to_the_bytes_of_a_good_one(
    corpus: Path, tiny_scope: Path, s3_env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "good"
    tag(begin(corpus, good, tiny_scope))
    upstream = os.environ["AWS_ENDPOINT_URL"]
    with bad_server(upstream, seed=7, percent=25) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        plan = begin(corpus, s3_env, tiny_scope)
        tagger = ShardTagger(tag_job(plan))
        for number, shard in enumerate(plan.corpus.shards):
            for attempt in range(3):  # as the pool does
                try:
                    tagger.process(shard, f"{number}-{attempt}")
                    break
                except StorageError:
                    assert attempt < 2
        seal_run.fn(plan)
        met = server.met
    assert set(met) == {"", *FAULTS}
    monkeypatch.setenv("AWS_ENDPOINT_URL", upstream)
    s3fs.S3FileSystem.clear_instance_cache()
    store = ObjectStore(s3_env)
    written = {key: store.read(key) for key in store.list()}
    assert sorted(written) == sorted(hashes(good))
    for key, data in written.items():
        assert "/commits/" in key or data == (good / key).read_bytes()
    assert fsck(s3_env).problems == ()


FULL = """
import pickle, resource, sys
from assay.schemas.errors import StorageError
from assay.workers.tagging import ShardTagger

job, shard, limit = pickle.load(open(sys.argv[1], "rb"))
tagger = ShardTagger(job)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    tagger.process(shard, "full")
except StorageError as e:
    print(e)
else:
    sys.exit("there was room")
"""


def test_a_disk_that_takes_no_more_fails_the_attempt_in_words_and_leaves_nothing_half_written(
    corpus: Path, tiny_scope: Path, tmp_path: Path
) -> None:
    good, store = tmp_path / "good", tmp_path / "store"
    tag(begin(corpus, good, tiny_scope))
    plan = begin(corpus, store, tiny_scope)
    before = hashes(store)
    order = tmp_path / "order"
    order.write_bytes(pickle.dumps((tag_job(plan), plan.corpus.shards[0], 1000)))
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(order)], capture_output=True, encoding="utf-8", check=False, timeout=200
    )
    assert ran.returncode == 0, ran.stderr
    assert "the storage failed: File too large" in ran.stdout
    assert hashes(store) == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000
    tag(plan)
    assert hashes(store, without=ATTEMPTS) == hashes(good, without=ATTEMPTS)
