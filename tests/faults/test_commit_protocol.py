"""The commit protocol as a state machine: attempts at shards interleave, fail, die and come back at every operation."""

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import assay.workers.tagging
from assay.flows.gc import gc
from assay.flows.tag import TagPlan, record_plan, run_record, tag_job
from assay.sae_runtime.runtime import ChunkFeatures, Runtime
from assay.schemas.errors import StorageError
from assay.schemas.store import ShardCommit, TagManifest
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import seal
from assay.workers.tagger_set import TaggerSet
from assay.workers.tagging import ShardTagger
from tests.corpus_files import json_lines
from tests.faults.stepped import Attempt, Died, Order, SteppedStore
from tests.faults.stores import begin
from tests.flows.corpora import document

FAULTS: list[Order] = ["lose the reply", "refuse", "die before", "die after"]
PER_ATTEMPT = ("attempt", "seconds", "worker")


class Remembering:
    """A runtime that encodes each chunk of texts once: the protocol is tested here, not the model."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._known: dict[tuple[str, ...], ChunkFeatures] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def stream(self, chunks: Iterable[Sequence[str]]) -> Iterator[ChunkFeatures]:
        for chunk in chunks:
            if tuple(chunk) not in self._known:
                self._known[tuple(chunk)] = self._runtime.features(chunk)
            yield self._known[tuple(chunk)]


class Bench:
    """A plan of two shards, what an undisturbed run of it leaves, and how to make an attempt."""

    def __init__(self, plan: TagPlan, patch: pytest.MonkeyPatch) -> None:
        self.plan = plan
        self._job = tag_job(plan)
        runtime = Remembering(Runtime(self._job.scope, device="cpu", watched=self._job.watched, threads=1))
        self._patch = patch
        patch.setattr(assay.workers.tagging, "Runtime", lambda *_, **__: runtime)
        root = self.fresh()
        for shard in plan.corpus.shards:
            self.tagger(ObjectStore(root)).process(shard, "peace")
        self.seal(root)
        self.undisturbed = contents(root)

    def fresh(self) -> str:
        """The root of a new store with the plan's records."""
        root = f"memory://{uuid.uuid4().hex}"
        store = ObjectStore(root)
        store.create("assay-store.json", b'{"format": "assay.store/1"}\n', attempt="marker")
        record_plan(store, self.plan)
        return root

    def tagger(self, store: ObjectStore) -> ShardTagger:
        """A ShardTagger on `store`."""
        with self._patch.context() as patch:
            patch.setattr(assay.workers.tagging, "ObjectStore", lambda _: store)
            return ShardTagger(self._job._replace(store=store.root))

    def attempt(self, root: str, shard: int) -> Attempt:
        """An attempt at a shard, which waits before its first operation."""

        def work(store: SteppedStore) -> ShardCommit:
            return self.tagger(store).process(self.plan.corpus.shards[shard], uuid.uuid4().hex[:12])

        return Attempt(work, root)

    def seal(self, root: str) -> TagManifest:
        resolved = self.plan.resolved
        columns = TaggerSet(resolved.taggers, resolved.features.encoder).columns
        return seal(ObjectStore(root), run_record(self.plan), self.plan.corpus, columns)


def contents(root: str) -> dict[str, bytes]:
    """Every object of a store; a commit without what may differ between attempts."""
    store, found = ObjectStore(root), {}
    for key in store.list():
        found[key] = store.read(key)
        if "/commits/" in key:
            record = json.loads(found[key])
            found[key] = json.dumps({k: v for k, v in record.items() if k not in PER_ATTEMPT}).encode()
    return found


@pytest.fixture(scope="module")
def bench(tiny_scope: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("protocol")
    (folder / "corpus").mkdir()
    for file in range(2):
        rows = [{"id": f"{file}/{row}", "text": document(10 * file + row)} for row in range(3)]
        (folder / "corpus" / f"{file}.jsonl").write_bytes(json_lines([*rows, {"id": "none", "text": None}]))
    with pytest.MonkeyPatch.context() as patch:
        yield Bench(begin(folder / "corpus", folder / "store", tiny_scope), patch)
    MemoryFileSystem.store.clear()


class Protocol(RuleBasedStateMachine):
    """At most three attempts at once, at two shards, on one store."""

    bench: Bench

    @initialize()
    def open(self) -> None:
        self.root = self.bench.fresh()
        self.attempts: list[Attempt] = []
        self.seen: dict[str, bytes] = {}

    @precondition(lambda self: len(self.attempts) < 3)
    @rule(shard=st.integers(0, 1))
    def begin(self, shard: int) -> None:
        self.attempts.append(self.bench.attempt(self.root, shard))

    @precondition(lambda self: self.attempts)
    @rule(which=st.integers(0, 2), steps=st.integers(1, 12))
    def go_on(self, which: int, steps: int) -> None:
        attempt = self.attempts[which % len(self.attempts)]
        for _ in range(steps):
            if not attempt.ended:
                attempt.step("go on")
        self.check(attempt)

    @precondition(lambda self: self.attempts)
    @rule(which=st.integers(0, 2), fault=st.sampled_from(FAULTS))
    def go_wrong(self, which: int, fault: Order) -> None:
        attempt = self.attempts[which % len(self.attempts)]
        if not attempt.ended:
            attempt.step(fault)
        self.check(attempt)

    @rule()
    def collect_garbage(self) -> None:
        gc(self.root, older_than_s=-1, delete=True)

    def check(self, attempt: Attempt) -> None:
        if attempt.ended:
            self.attempts.remove(attempt)
            if attempt.error is not None:
                assert isinstance(attempt.error, Died | StorageError), attempt.error
            else:
                key = f"tags/{self.bench.plan.tagset}/commits/{attempt.result.shard}.json"
                assert ShardCommit.model_validate_json(ObjectStore(self.root).read(key)) == attempt.result

    @invariant()
    def what_is_committed_is_whole_and_never_changes(self) -> None:
        store = ObjectStore(self.root)
        for key in store.list():
            if "/commits/" not in key:
                continue
            data = store.read(key)
            assert self.seen.setdefault(key, data) == data
            for stored in ShardCommit.model_validate_json(data).objects.values():
                store.read_verified(stored)

    def teardown(self) -> None:
        """One undisturbed driver ends the run; then those that were held up come back."""
        if not hasattr(self, "root"):
            return
        for shard in range(2):
            self.bench.attempt(self.root, shard).finish()
        self.bench.seal(self.root)
        for attempt in list(self.attempts):
            attempt.finish()
            self.check(attempt)
        assert contents(self.root) == self.bench.undisturbed
        MemoryFileSystem.store.clear()


def test_whatever_goes_wrong_at_any_operation_the_run_ends_with_the_bytes_of_an_undisturbed_one(bench: Bench) -> None:
    Protocol.bench = bench
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("seen", range(1, 12))
def test_an_object_that_an_attempt_took_over_from_a_dead_one_is_never_collected(bench: Bench, seen: int) -> None:
    root = bench.fresh()
    dead, store = bench.attempt(root, 0), ObjectStore(root)
    while not any("/data/" in key for key in store.list("features")):
        dead.step("go on")
    dead.step("die before")
    heir = bench.attempt(root, 0)
    for _ in range(seen):
        if not heir.ended:
            heir.step("go on")
    gc(root, older_than_s=-1, delete=True)
    heir.finish()
    assert heir.error is None
    for stored in heir.result.objects.values():
        store.read_verified(stored)
