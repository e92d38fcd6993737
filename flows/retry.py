"""retry_run: tries what a run gave up again, from the store alone: its plan, its scope and its taggers.

Nothing is overwritten. A shard without a commit is simply done. One that was committed as unreadable, or with
documents that broke their workers, gets another id, under which nothing is committed; so the run that does it again
is another run, which names the first one and takes over all of its other commits.
"""

import time
from collections.abc import Iterator

from prefect import flow

from assay.flows.scopes import restore_scope
from assay.flows.status import store_status
from assay.flows.tag import TagPlan, TagReport, finish, record_plan
from assay.schemas.base import fingerprint
from assay.schemas.corpus import CorpusPlan, Shard
from assay.schemas.errors import AssayError
from assay.schemas.parameters import RetryParameters, TagParameters
from assay.schemas.store import ShardCommit, tags_prefix
from assay.workers.corpora.records import WORKER_REASONS
from assay.workers.session import cluster_address
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import StoredRun, load_run, read_identity, require_store


@flow(name="retry-run", flow_run_name="retry {parameters.store}", validate_parameters=True, persist_result=False)
def retry_run(parameters: RetryParameters) -> TagReport:
    """Tries again what a run gave up; Unfinished if shards fail again."""
    started = time.monotonic()
    plan = plan_retry(parameters)
    record_plan(ObjectStore(parameters.store), plan)
    return finish(plan, started)


def plan_retry(parameters: RetryParameters) -> TagPlan:
    """The run to continue, or the one that repeats it with some shards renamed; AssayError if nothing is to be done."""
    store = ObjectStore(parameters.store)
    require_store(store)
    run = load_run(store, parameters.run or _the_run_to_retry(parameters))
    if run.recomputed_from:
        raise AssayError(
            f"run {run.record.run} was recomputed from another",
            where=parameters.store,
            hint=f"try that one again: --run {run.recomputed_from}",
        )
    corpus, renamed = _renamed(store, run, parameters.quarantined)
    if not renamed and not _missing(store, run):
        raise AssayError(
            f"run {run.record.run} has nothing to try again",
            where=parameters.store,
            hint="`assay status` shows what was given up; --quarantined takes in documents that broke their workers",
        )
    return _plan(store, run, corpus if renamed else run.corpus, parameters)


def _plan(store: ObjectStore, run: StoredRun, corpus: CorpusPlan, parameters: RetryParameters) -> TagPlan:
    record = run.record
    identity = read_identity(store, record.features)
    resolved = restore_scope(
        identity.scope,
        identity.features.watched,
        run.taggers,
        device=parameters.device,
        elsewhere=cluster_address(parameters.ray_address) is not None,
    )
    if fingerprint(resolved.features) != record.features:
        raise AssayError(
            f"on this machine the scope of run {record.run} gives other features than it did there",
            where=parameters.store,
            hint="the weights changed, or it ran on another kind of device: give --device, or tag the corpus again",
        )
    tag_parameters = TagParameters(
        corpus=corpus.corpus,
        scope=record.scope,
        text_column=corpus.options.text_column,
        id_column=corpus.options.id_column,
        max_document_mb=corpus.options.max_document_bytes / 2**20,
        **parameters.model_dump(exclude={"run", "quarantined"}),
    )
    again = fingerprint([corpus.id, record.tagset])
    retry_of = record.run if again != record.run else record.retry_of
    return TagPlan(tag_parameters, resolved, corpus, record.features, record.tagset, again, retry_of)


def _the_run_to_retry(parameters: RetryParameters) -> str:
    """The store's only run with something to try again."""
    wanted = ("failed", "unreadable", "quarantined") if parameters.quarantined else ("failed", "unreadable")
    found = [
        status.run
        for status in store_status(parameters.store)
        if not status.retried_by
        and (not status.finished or any(t.kind in wanted for t in status.troubles))
        and load_run(ObjectStore(parameters.store), status.run).recomputed_from is None
    ]
    if len(found) == 1:
        return found[0]
    what = "several runs have" if found else "no run has"
    listed = f"name one with --run: {', '.join(found)}" if found else "`assay status` shows what each run gave up"
    raise AssayError(f"{what} something to try again", where=parameters.store, hint=listed)


def _missing(store: ObjectStore, run: StoredRun) -> bool:
    committed = CommitLog(store, tags_prefix(run.record.tagset)).committed()
    return any(shard.id not in committed for shard in run.corpus.shards)


def _renamed(store: ObjectStore, run: StoredRun, quarantined: bool) -> tuple[CorpusPlan, bool]:
    """The run's plan in which each shard whose commit isn't taken for final has another id; whether there is any."""
    log = CommitLog(store, tags_prefix(run.record.tagset))
    committed = log.committed()
    commits = log.read_many(shard.id for shard in run.corpus.shards if shard.id in committed)

    def shards() -> Iterator[Shard]:
        for shard in run.corpus.shards:
            commit = next(commits) if shard.id in committed else None
            yield shard.renamed() if commit and _try_again(commit, quarantined) else shard

    renamed = run.corpus.model_copy(update={"shards": tuple(shards())})
    return renamed, renamed.id != run.corpus.id


def _try_again(commit: ShardCommit, quarantined: bool) -> bool:
    broke = any(reason in commit.quarantine_reasons for reason in WORKER_REASONS)
    return bool(commit.unreadable) or (quarantined and broke)
