"""A shard is tagged once, to the same bytes, whoever else tags it and wherever a tagger dies."""

import fnmatch
import gzip
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.sae_runtime.runtime import Runtime
from assay.schemas.corpus import ReadOptions, Shard
from assay.schemas.errors import AssayError
from assay.schemas.scope import Scope
from assay.schemas.store import ShardCommit, features_prefix, tags_prefix
from assay.schemas.tagger import Tagger
from assay.workers.corpora.planning import plan_corpus
from assay.workers.corpora.records import BadRecord
from assay.workers.feature_table import ParquetBuffer, iter_parquet
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagging import ShardTagger, TagJob
from tests.corpus_files import json_lines, write

DOCUMENTS = [
    {"text": f"the {word} fox jumps over the lazy {word} " * (1 + i % 5)} for i, word in enumerate("abcdefgh" * 4)
]
MakeTagger = Callable[..., ShardTagger]


@pytest.fixture
def make_tagger(tiny_scope: Scope, tiny_taggers: tuple[Tagger, Tagger], tmp_path: Path) -> MakeTagger:
    """Makes a ShardTagger on a store, by default with both taggers; it also tells its job as `job`."""

    def make(store: str, taggers: tuple[Tagger, ...] = tiny_taggers, options: ReadOptions | None = None) -> ShardTagger:
        return ShardTagger(a_job(store, tiny_scope, taggers, options))

    return make


def a_job(store: str, scope: Scope, taggers: tuple[Tagger, ...], options: ReadOptions | None = None) -> TagJob:
    watched = tuple((f.layer, f.feature) for f in taggers[0].features) if taggers else ()
    return TagJob(store, options or ReadOptions(), scope, taggers, watched, device="cpu")


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return only_shard(write(tmp_path / "corpus.jsonl", json_lines(DOCUMENTS)))


def only_shard(path: Path, options: ReadOptions | None = None) -> Shard:
    [shard] = plan_corpus(str(path), options or ReadOptions(), 2**30).shards
    return shard


def contents(store: str) -> dict[str, Any]:
    """Every object of a store: its bytes, or what a commit says less what may differ between attempts."""
    found: dict[str, Any] = {}
    objects = ObjectStore(store)
    for key in objects.list():
        data = objects.read(key)
        if "/commits/" in key:
            commit = json.loads(data)
            found[key] = {k: v for k, v in commit.items() if k not in ("attempt", "seconds", "worker")}
        else:
            found[key] = data
    return found


def tags_of(store: str, commit: ShardCommit) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(ObjectStore(store).read_verified(commit.objects["tags"])))


@pytest.fixture
def undisturbed(make_tagger: MakeTagger, shard: Shard, tmp_path: Path) -> dict[str, Any]:
    """What a store holds after one tagger did its work in peace."""
    store = str(tmp_path / "undisturbed")
    make_tagger(store).process(shard, "peace")
    return contents(store)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, Callable[[], None]], None]]:
    """Has something done just before an attempt creates an object whose key matches a pattern, once."""
    original = ObjectStore.create

    def set_up(attempt: str, pattern: str, action: Callable[[], None]) -> None:
        waiting = [action]

        def create(self: ObjectStore, key: str, data: bytes, *, attempt: str) -> bool:
            if attempt == victim and fnmatch.fnmatch(key, pattern) and waiting:
                waiting.pop()()
            return original(self, key, data, attempt=attempt)

        victim = attempt
        monkeypatch.setattr(ObjectStore, "create", create)

    yield set_up


def test_every_document_is_tagged_in_order_and_accounted_for(make_tagger: MakeTagger, shard: Shard, root: str) -> None:
    commit = make_tagger(root).process(shard, "one")
    assert (commit.rows_in, commit.rows_kept, commit.rows_quarantined) == (len(DOCUMENTS), len(DOCUMENTS), 0)
    assert set(commit.objects) == {"features", "tags", "statistics"}
    assert commit.columns == {"text": "string"}
    tags = tags_of(root, commit)
    assert tags["row"].to_list() == list(range(len(DOCUMENTS)))
    assert tags["n_bytes"].to_list() == [len(d["text"].encode()) for d in DOCUMENTS]
    assert tags["n_tokens"].sum() == commit.tokens
    assert tags["quality"].null_count() == commit.undecided.get("quality", 0)
    statistics = pl.read_parquet(io.BytesIO(ObjectStore(root).read_verified(commit.objects["statistics"])))
    assert statistics.filter(metric="tokens")["docs"].sum() == len(DOCUMENTS)


def test_a_shard_processed_twice_is_one_commit_and_the_same_bytes(
    make_tagger: MakeTagger, shard: Shard, root: str
) -> None:
    first = make_tagger(root).process(shard, "one")
    before = contents(root)
    assert make_tagger(root).process(shard, "two") == first
    assert first.attempt == "one"
    assert contents(root) == before


def test_two_taggers_at_once_make_one_commit_with_every_row(
    make_tagger: MakeTagger, shard: Shard, root: str, undisturbed: dict[str, Any]
) -> None:
    taggers = [make_tagger(root) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda tagger, attempt: tagger.process(shard, attempt), taggers, ["one", "two"])
    assert first == second
    assert first.rows_kept == len(DOCUMENTS)
    assert contents(root) == undisturbed


STEPS = ["features/*/data/*", "features/*/commits/*", "tags/*/data/*", "tags/*/statistics/*", "tags/*/commits/*"]


@pytest.mark.parametrize("step", STEPS)
def test_a_tagger_that_is_overtaken_before_any_step_agrees_with_the_one_that_was_faster(
    make_tagger: MakeTagger,
    shard: Shard,
    tmp_path: Path,
    undisturbed: dict[str, Any],
    interrupt: Callable[..., None],
    step: str,
) -> None:
    store = str(tmp_path / "store")
    slow, fast = make_tagger(store), make_tagger(store)
    overtaken: list[ShardCommit] = []
    interrupt("slow", step, lambda: overtaken.append(fast.process(shard, "fast")))
    commit = slow.process(shard, "slow")
    assert overtaken == [commit]
    assert commit.attempt == "fast"
    assert contents(store) == undisturbed


def test_a_tagger_that_lost_the_features_commit_tags_the_features_that_won(
    make_tagger: MakeTagger, shard: Shard, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    store = ObjectStore(str(tmp_path / "store"))
    tagger = make_tagger(store.root)
    log = CommitLog(store, features_prefix(tagger.features_fingerprint))

    def win_with_other_features() -> None:
        [key] = store.list(f"{log.prefix}/data")
        [table] = iter_parquet(pa.BufferReader(store.read(key)))
        tokens = pa.array([number + 1 for number in table["n_tokens"].to_pylist()], pa.int32())
        buffer = ParquetBuffer(table.schema)
        buffer.write(table.set_column(3, table.schema.field("n_tokens"), tokens))
        rows = table.num_rows
        stored = store.create_named(f"{log.prefix}/data", "other", ".parquet", buffer.finish(), rows, "other")
        record = ShardCommit(
            shard=shard.id,
            fingerprint=tagger.features_fingerprint,
            rows_in=rows,
            rows_kept=rows,
            objects={"features": stored},
            attempt="other",
        )
        assert log.commit(record)

    interrupt("one", "features/*/commits/*", win_with_other_features)
    commit = tagger.process(shard, "one")
    won = pl.read_parquet(io.BytesIO(store.read_verified(commit.objects["features"])))
    assert commit.objects["features"].key.startswith(f"{log.prefix}/data/other-")
    assert tags_of(store.root, commit)["n_tokens"].equals(won["n_tokens"])


@pytest.mark.parametrize("step", STEPS)
def test_a_tagger_that_fails_before_any_step_is_made_good_by_another(
    make_tagger: MakeTagger,
    shard: Shard,
    root: str,
    undisturbed: dict[str, Any],
    interrupt: Callable[..., None],
    step: str,
) -> None:
    def fail() -> None:
        raise OSError("the network is gone")

    interrupt("one", step, fail)
    tagger = make_tagger(root)
    with pytest.raises(OSError, match="the network is gone"):
        tagger.process(shard, "one")
    assert CommitLog(ObjectStore(root), tags_prefix(tagger.tagset)).committed() == set()
    assert make_tagger(root).process(shard, "two").attempt == "two"
    assert contents(root) == undisturbed


KILLED = """
import fnmatch, os, pickle, signal, sys
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagging import ShardTagger

step, job, shard = pickle.load(open(sys.argv[1], "rb"))
when, _, pattern = step.partition(" ")
original = ObjectStore.create

def create(self, key, data, *, attempt):
    hit = fnmatch.fnmatch(key, pattern)
    if hit and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    created = original(self, key, data, attempt=attempt)
    if hit and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return created

ObjectStore.create = create
ShardTagger(job).process(shard, "killed")
"""


@pytest.mark.parametrize(
    "step",
    ["before features/*/commits/*", "after features/*/commits/*", "before tags/*/commits/*", "after tags/*/commits/*"],
)
def test_a_process_killed_at_any_step_is_made_good_to_the_same_bytes(
    make_tagger: MakeTagger,
    tiny_scope: Scope,
    tiny_taggers: tuple[Tagger, Tagger],
    shard: Shard,
    tmp_path: Path,
    undisturbed: dict[str, Any],
    step: str,
) -> None:
    store, order = str(tmp_path / "store"), tmp_path / "order"
    order.write_bytes(pickle.dumps((step, a_job(store, tiny_scope, tiny_taggers), shard)))
    assert subprocess.run([sys.executable, "-c", KILLED, str(order)], check=False).returncode == -9
    tagger = make_tagger(store)
    done = {
        name: CommitLog(ObjectStore(store), prefix).has(shard.id)
        for name, prefix in (
            ("features", features_prefix(tagger.features_fingerprint)),
            ("tags", tags_prefix(tagger.tagset)),
        )
    }
    assert done == {"features": step != "before features/*/commits/*", "tags": step == "after tags/*/commits/*"}
    commit = tagger.process(shard, "again")
    assert commit.attempt == ("killed" if done["tags"] else "again")
    assert contents(store) == undisturbed


def test_a_shard_of_several_chunks_gives_the_same_bytes_from_its_stored_features(
    make_tagger: MakeTagger, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    rows = [{"text": f"fox {i}"} for i in range(2100)]
    shard = only_shard(write(tmp_path / "corpus.jsonl", json_lines(rows)))
    peaceful, store = str(tmp_path / "peaceful"), str(tmp_path / "store")
    commit = make_tagger(peaceful).process(shard, "peace")
    assert tags_of(peaceful, commit)["row"].to_list() == list(range(2100))

    def fail() -> None:
        raise OSError("the network is gone")

    interrupt("one", "tags/*/data/*", fail)
    tagger = make_tagger(store)
    with pytest.raises(OSError, match="gone"):
        tagger.process(shard, "one")
    tagger.process(shard, "two")
    assert contents(store) == contents(peaceful)


def test_bad_records_lie_in_quarantine_with_their_reasons_and_the_rows_reconcile(
    make_tagger: MakeTagger, root: str, tmp_path: Path
) -> None:
    data = json_lines(DOCUMENTS[:5]) + b'{"text": null}\n{"text": \n\n{"text": "x"}\n{"text": " "}\n"\xff"\n'
    path = write(tmp_path / "corpus.jsonl", data)
    commit = make_tagger(root).process(only_shard(path), "one")
    assert (commit.rows_in, commit.rows_kept, commit.rows_quarantined) == (10, 6, 4)
    assert commit.quarantine_reasons == {"empty_text": 1, "not_json": 1, "not_utf8": 1, "null_text": 1}
    stored = commit.objects["quarantine"]
    assert stored.rows == 4
    lines = [json.loads(line) for line in ObjectStore(root).read_verified(stored).splitlines()]
    assert [(line["row"], line["reason"]) for line in lines] == [
        (5, "null_text"),
        (6, "not_json"),
        (9, "empty_text"),
        (10, "not_utf8"),
    ]
    assert tags_of(root, commit)["row"].to_list() == [0, 1, 2, 3, 4, 8]


def test_a_shard_of_bad_records_only_is_committed_with_empty_tables(make_tagger: MakeTagger, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    path = write(tmp_path / "corpus.jsonl", b'{"text": null}\n{"text": ""}\n')
    commit = make_tagger(store).process(only_shard(path), "one")
    assert (commit.rows_in, commit.rows_kept, commit.rows_quarantined) == (2, 0, 2)
    tags = tags_of(store, commit)
    assert len(tags) == 0
    assert {"quality", "domain", "domain_p"} < set(tags.columns)


def test_a_shard_that_cannot_be_read_is_committed_as_such_without_rows(
    make_tagger: MakeTagger, root: str, tmp_path: Path
) -> None:
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress(json_lines(DOCUMENTS))[:-20])
    tagger, shard = make_tagger(root), only_shard(path)
    commit = tagger.process(shard, "one")
    assert "cut short or damaged" in commit.unreadable
    assert (commit.rows_in, commit.rows_kept, commit.rows_quarantined, commit.tokens) == (0, 0, 0, 0)
    assert commit.objects == {}
    assert tagger.process(shard, "two") == commit
    assert all("/commits/" in key for key in contents(root))


def test_rows_that_broke_a_worker_are_quarantined_unseen_and_all_others_are_tagged(
    make_tagger: MakeTagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*DOCUMENTS[:5], {"text": None}, {"text": "POISON"}, *DOCUMENTS[5:9]]
    shard = only_shard(write(tmp_path / "corpus.jsonl", json_lines(rows)))
    skip = (BadRecord(6, "kills_worker", ""),)
    seen: list[str] = []
    stream = Runtime.stream

    def listen(self: Runtime, chunks: Iterator[list[str]]) -> Iterator[Any]:
        return stream(self, (seen.extend(chunk) or chunk for chunk in chunks))

    monkeypatch.setattr(Runtime, "stream", listen)
    stores = [str(tmp_path / name) for name in ("one", "two")]
    commits = [make_tagger(store).process(shard, "one", skip) for store in stores]
    assert (commits[0].rows_in, commits[0].rows_kept, commits[0].rows_quarantined) == (11, 9, 2)
    assert commits[0].quarantine_reasons == {"kills_worker": 1, "null_text": 1}
    lines = ObjectStore(stores[0]).read_verified(commits[0].objects["quarantine"]).splitlines()
    assert [json.loads(line)["row"] for line in lines] == [5, 6]
    assert tags_of(stores[0], commits[0])["row"].to_list() == [0, 1, 2, 3, 4, 7, 8, 9, 10]
    assert len(seen) == 18 and "POISON" not in seen
    assert contents(stores[0]) == contents(stores[1])


def test_a_probe_shows_the_model_only_the_documents_of_its_rows_and_writes_nothing(
    make_tagger: MakeTagger, shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tagger, seen = make_tagger(str(tmp_path / "store")), []
    stream = Runtime.stream

    def listen(self: Runtime, chunks: Iterator[list[str]]) -> Iterator[Any]:
        return stream(self, (seen.extend(chunk) or chunk for chunk in chunks))

    monkeypatch.setattr(Runtime, "stream", listen)
    tagger.probe(shard, 10, 13)
    assert seen == [document["text"] for document in DOCUMENTS[10:13]]
    assert contents(str(tmp_path / "store")) == {}


def test_the_rows_of_a_shard_are_those_from_its_first_document_to_its_last(
    make_tagger: MakeTagger, tmp_path: Path
) -> None:
    data = b'{"text": null}\n' + json_lines(DOCUMENTS[:3]) + b"\n" + json_lines(DOCUMENTS[3:4]) + b"7\n\n"
    tagger = make_tagger(str(tmp_path / "store"))
    assert tagger.rows(only_shard(write(tmp_path / "a.jsonl", data))) == (1, 6)
    assert tagger.rows(only_shard(write(tmp_path / "b.jsonl", b"7\n"))) == (0, 0)


def test_a_shard_whose_damage_shows_only_when_its_rows_are_counted_is_committed_as_unreadable(
    make_tagger: MakeTagger, tmp_path: Path
) -> None:
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress(json_lines(DOCUMENTS))[:-20])
    tagger, shard = make_tagger(str(tmp_path / "store")), only_shard(path)
    assert tagger.rows(shard) == (0, 0)
    commit = tagger.process(shard, "one")
    assert "cut short or damaged" in commit.unreadable
    assert commit.attempt == "one"


def test_a_new_tagger_is_applied_to_the_stored_features_without_the_model(
    make_tagger: MakeTagger,
    tiny_taggers: tuple[Tagger, Tagger],
    shard: Shard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = (*tiny_taggers, tiny_taggers[0].model_copy(update={"name": "extra", "bias": (0.5,)}))
    fresh, store = str(tmp_path / "fresh"), str(tmp_path / "store")
    wanted = make_tagger(fresh, more).process(shard, "one")
    first = make_tagger(store).process(shard, "one")
    later = make_tagger(store, more)

    def stream(*_: object) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(Runtime, "stream", stream)
    commit = later.process(shard, "two")
    assert commit.objects["features"] == first.objects["features"]
    assert commit.objects == wanted.objects
    columns = ["row", "quality", "quality_why", "domain", "domain_p"]
    tags = tags_of(store, commit)
    assert tags.select(columns).equals(tags_of(store, first).select(columns))
    assert tags["extra"].to_list() != tags["quality"].to_list()
    assert commit.rows_kept == first.rows_kept


def test_a_missing_text_column_is_the_users_mistake_and_commits_nothing(
    make_tagger: MakeTagger, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"]}), path)
    shard = only_shard(path)
    tagger = make_tagger(str(tmp_path / "store"), options=ReadOptions(text_column="body"))
    with pytest.raises(AssayError, match="unknown column 'body'"):
        tagger.process(shard, "one")
    assert contents(str(tmp_path / "store")) == {}


def test_without_taggers_features_are_stored_and_documents_counted(
    make_tagger: MakeTagger, shard: Shard, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    commit = make_tagger(store, ()).process(shard, "one")
    assert tags_of(store, commit).columns == ["row", "doc_id", "n_bytes", "n_tokens", "tokens_seen"]
    assert commit.rows_kept == len(DOCUMENTS)
