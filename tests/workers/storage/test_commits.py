"""The commit log: one commit per shard, whatever the number of attempts and wherever they die."""

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from assay.schemas.base import canonical_json
from assay.schemas.errors import AssayError
from assay.schemas.store import ShardCommit
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore


def a_commit(shard: str = "s1", attempt: str = "one", **changes: Any) -> ShardCommit:
    fields = {"fingerprint": "f", "rows_in": 10, "rows_kept": 8, "rows_dropped": 1, "rows_quarantined": 1}
    return ShardCommit(shard=shard, attempt=attempt, objects={}, **{**fields, **changes})


@pytest.fixture
def log(root: str) -> CommitLog:
    return CommitLog(ObjectStore(root), "runs/r1")


def test_a_commit_is_read_back_as_it_was_written(log: CommitLog) -> None:
    record = a_commit(columns={"text": "large_string"}, quarantine_reasons={"too_long": 1}, seconds=0.25)
    assert log.committed() == set()
    assert not log.has("s1")
    assert log.commit(record)
    assert log.read("s1") == record
    assert log.committed() == {"s1"}
    assert log.has("s1")


def test_of_eight_attempts_at_a_shard_one_is_committed(log: CommitLog) -> None:
    start = threading.Barrier(8)

    def attempt(number: int) -> bool:
        start.wait()
        return log.commit(a_commit(attempt=f"attempt-{number}", worker=f"host-{number}"))

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    assert sum(won) == 1
    assert log.read("s1").attempt == f"attempt-{won.index(True)}"


def test_committing_the_same_attempt_again_is_still_a_success(log: CommitLog) -> None:
    assert log.commit(a_commit())
    assert log.commit(a_commit())


def test_a_later_attempt_with_the_same_results_loses_quietly(log: CommitLog) -> None:
    assert log.commit(a_commit(seconds=1.0))
    assert not log.commit(a_commit(attempt="two", seconds=9.0))
    assert log.read("s1").attempt == "one"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rows_in": 11, "rows_kept": 9}, "rows_in is 10 in the commit, 11 in the new attempt"),
        ({"rows_kept": 7, "rows_quarantined": 2}, "rows_quarantined is 1 in the commit, 2 in the new attempt"),
        ({"fingerprint": "g"}, "fingerprint is f in the commit, g in the new attempt"),
    ],
)
def test_two_attempts_that_disagree_are_an_error(log: CommitLog, changes: dict[str, Any], named: str) -> None:
    assert log.commit(a_commit())
    with pytest.raises(AssayError, match="two attempts of shard s1 disagree") as caught:
        log.commit(a_commit(attempt="two", **changes))
    assert named in caught.value.what
    assert log.read("s1") == a_commit()


def test_rows_that_broke_another_machines_worker_are_no_disagreement(log: CommitLog) -> None:
    assert log.commit(a_commit(quarantine_reasons={"too_long": 1}))
    poisoned = {"rows_kept": 6, "rows_quarantined": 3, "quarantine_reasons": {"too_long": 1, "kills_worker": 2}}
    assert not log.commit(a_commit(attempt="two", **poisoned))
    assert log.read("s1").attempt == "one"
    read_otherwise = {"rows_kept": 6, "rows_quarantined": 3, "quarantine_reasons": {"too_long": 2, "kills_worker": 1}}
    with pytest.raises(AssayError, match="disagree"):
        log.commit(a_commit(attempt="three", **read_otherwise))


def test_a_commit_that_loses_rows_is_refused(log: CommitLog) -> None:
    with pytest.raises(AssayError, match="read 10 rows but accounts for 9"):
        log.commit(a_commit(rows_kept=7))
    assert log.committed() == set()


def test_an_attempt_killed_before_its_commit_is_done_again_once(log: CommitLog) -> None:
    code = (
        "import os, signal\n"
        "from assay.workers.storage.objects import ObjectStore\n"
        f"store = ObjectStore({log.store.root!r})\n"
        "store.create_named('runs/r1/data', 's1', '.bin', b'killed', 1, 'killed')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert log.committed() == set()
    stored = log.store.create_named("runs/r1/data", "s1", ".bin", b"second", rows=1, attempt="two")
    assert log.commit(a_commit(attempt="two").model_copy(update={"objects": {"data": stored}}))
    [record] = log.read_many(sorted(log.committed()))
    assert log.store.read_verified(record.objects["data"]) == b"second"
    [orphan] = log.orphans("data")
    assert log.store.read(orphan) == b"killed"


def test_many_commits_are_read_in_the_order_asked_for(log: CommitLog) -> None:
    shards = [f"s{number}" for number in range(40)]
    for shard in reversed(shards):
        assert log.commit(a_commit(shard))
    assert log.committed() == set(shards)
    assert [record.shard for record in log.read_many(shards, threads=4)] == shards


def test_reading_many_commits_looks_only_a_little_ahead(log: CommitLog) -> None:
    log.commit(a_commit())
    asked = 0

    def shards() -> Iterator[str]:
        nonlocal asked
        for _ in range(100):
            asked += 1
            yield "s1"

    reading = log.read_many(shards(), threads=2)
    assert next(reading).shard == "s1"
    assert asked <= 4
    started = time.monotonic()
    reading.close()
    assert time.monotonic() - started < 5


def test_a_missing_commit_stops_the_reading_and_is_named(log: CommitLog) -> None:
    log.commit(a_commit())
    with pytest.raises(AssayError, match="nothing here") as caught:
        list(log.read_many(["s1", "s2"]))
    assert caught.value.where.endswith("runs/r1/commits/s2.json")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "JSON"),
        (b'{"shard": "s1", "colour": 1}', "isn't a commit"),
        (canonical_json(a_commit("s2")).encode(), "it names shard s2"),
    ],
)
def test_what_is_no_commit_of_the_shard_is_refused(log: CommitLog, data: bytes, words: str) -> None:
    log.store.create("runs/r1/commits/s1.json", data, attempt="one")
    with pytest.raises(AssayError, match=words):
        log.read("s1")


def test_a_log_pickles_with_its_store(log: CommitLog) -> None:
    log.commit(a_commit())
    assert pickle.loads(pickle.dumps(log)).committed() == {"s1"}


def test_an_unsafe_shard_or_prefix_is_refused(log: CommitLog) -> None:
    with pytest.raises(AssayError, match="isn't allowed"):
        CommitLog(log.store, "../r1")
    with pytest.raises(AssayError, match="isn't allowed"):
        log.commit(a_commit("../s1"))
