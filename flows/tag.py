"""tag_corpus: plans a corpus into shards, tags the missing ones on Ray actors, seals the run with a manifest."""

import os
import time
import uuid
from collections import Counter
from functools import partial
from typing import NamedTuple

import pyarrow as pa
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.tasks import exponential_backoff

from assay.flows.engine import in_flow_run, markdown_list, step
from assay.flows.progress import duration, shard_progress, stderr
from assay.flows.scopes import ResolvedScope, resolve_scope
from assay.schemas.base import fingerprint, record_json
from assay.schemas.corpus import CorpusPlan, ReadOptions, Shard
from assay.schemas.errors import AssayError
from assay.schemas.parameters import TagParameters
from assay.schemas.statistics import merge
from assay.schemas.store import (
    RunRecord,
    ShardCommit,
    ShardEntry,
    StoredObject,
    TagManifest,
    features_prefix,
    run_prefix,
    tags_prefix,
)
from assay.workers.corpora.columns import unify_columns
from assay.workers.corpora.planning import plan_corpus
from assay.workers.feature_table import iter_parquet, parquet_bytes
from assay.workers.pool import PoolOptions, WorkPool
from assay.workers.runs import STORE_MARKER as STORE_MARKER
from assay.workers.runs import list_runs as list_runs
from assay.workers.runs import load_manifest as load_manifest
from assay.workers.runs import require_store as require_store
from assay.workers.session import cluster_address, cluster_gpus, ray_session
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.filesystem import absolute
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagger_set import TaggerSet
from assay.workers.tagging import ShardTagger, TagJob, write_identity

_SMALL_MODEL_BYTES = 10**9
_MERGE_EVERY = 64


class TagReport(NamedTuple):
    """What a tagging run did."""

    manifest: TagManifest | None
    """None while shards are missing"""
    store: str
    run: str
    shards: int
    skipped: int
    """shards that were tagged before this run"""
    failed: list[str]
    tokens: int
    """tokens tagged by this run"""
    seconds: float


class TagPlan(NamedTuple):
    """Everything that is decided before a shard is tagged."""

    parameters: TagParameters
    resolved: ResolvedScope
    corpus: CorpusPlan
    features: str
    tagset: str
    run: str


def plan_tagging(parameters: TagParameters) -> TagPlan:
    """Lists and cuts the corpus, and names the run: the same corpus, scope and taggers give the same run."""
    resolved = resolve_scope(
        parameters.scope,
        taggers=parameters.taggers,
        device=parameters.device,
        elsewhere=cluster_address(parameters.ray_address) is not None,
    )
    options = ReadOptions(
        text_column=parameters.text_column,
        id_column=parameters.id_column,
        max_document_bytes=int(parameters.max_document_mb * 2**20),
    )
    refuse_output_in_corpus(parameters.corpus, parameters.store, "store")
    shard_bytes = int((parameters.shard_mb or resolved.scope.shard_mb) * 2**20)
    corpus = plan_corpus(parameters.corpus, options, shard_bytes, progress=lambda line: stderr().print(line))
    features = fingerprint(resolved.features)
    encoder = resolved.features.encoder
    tagset = TaggerSet(resolved.taggers, encoder, resolved.watched).fingerprint(features)
    return TagPlan(parameters, resolved, corpus, features, tagset, fingerprint([corpus.id, tagset]))


def refuse_output_in_corpus(corpus: str, output: str, what: str) -> None:
    """AssayError if the folder to write to lies in the corpus."""
    read, written = absolute(corpus).rstrip("/"), absolute(output).rstrip("/")
    folder = read.partition("*")[0].rpartition("/")[0] if "**" in read else read
    if written == folder or written.startswith(f"{folder}/"):
        raise AssayError(
            f"the {what} lies in the corpus, whose next reading would take the {what}'s files for documents",
            where=output,
            hint="choose a folder beside the corpus",
        )


def open_store(uri: str) -> ObjectStore:
    """The store at `uri`, made if absent; AssayError if it can't promise that a commit is made once."""
    store = ObjectStore(uri)
    if not store.exists(STORE_MARKER):
        store.require_atomic()
        store.create(STORE_MARKER, b'{"format": "assay.store/1"}\n', attempt="marker")
    return store


@task(name="plan shards", persist_result=False)
def plan_shards(parameters: TagParameters) -> TagPlan:
    """Plans the run and leaves in the store what its names stand for."""
    plan = plan_tagging(parameters)
    store, attempt = open_store(parameters.store), uuid.uuid4().hex[:12]
    identity = {
        "encoder": plan.resolved.encoder.model_dump(mode="json"),
        "features": plan.resolved.features.model_dump(mode="json"),
        "scope": plan.resolved.scope.model_dump(mode="json"),
    }
    write_identity(store, f"{features_prefix(plan.features)}/identity.json", identity, attempt)
    taggers = [t.model_dump(mode="json") for t in plan.resolved.taggers]
    write_identity(store, f"{tags_prefix(plan.tagset)}/taggers.json", taggers, attempt)
    record = RunRecord(
        run=plan.run,
        corpus=plan.corpus.corpus,
        scope=plan.resolved.scope.name,
        plan=plan.corpus.id,
        encoder=plan.resolved.features.encoder,
        features=plan.features,
        tagset=plan.tagset,
    )
    store.create(f"{run_prefix(plan.run)}/run.json", record_json(record), attempt=attempt)
    store.create(f"{run_prefix(plan.run)}/plan.json", record_json(plan.corpus), attempt=attempt)
    return plan


@task(
    name="tag shards",
    persist_result=False,
    retries=2,
    retry_delay_seconds=exponential_backoff(10),
    retry_jitter_factor=0.5,
)
def tag_shards(plan: TagPlan) -> tuple[int, list[str]]:
    """Tags the shards without a commit; returns the tokens done and the errors of shards that were given up."""
    committed = CommitLog(ObjectStore(plan.parameters.store), tags_prefix(plan.tagset)).committed()
    shards = plan.corpus.shards
    todo = [shard for shard in shards if shard.id not in committed]
    if not todo:
        return 0, []
    job = tag_job(plan)
    tokens, failed = 0, []
    sizes = {shard.id: shard.bytes for shard in todo}
    total = sum(shard.bytes for shard in shards)
    with (
        ray_session(plan.parameters.ray_address, cpus=(plan.parameters.workers or 1) * job.threads),
        shard_progress(
            "tagging",
            shards=len(shards),
            done=len(shards) - len(todo),
            total_bytes=total,
            done_bytes=total - sum(sizes.values()),
        ) as progress,
    ):
        options = pool_options(plan, len(todo), cluster_gpus())
        for outcome in WorkPool(partial(ShardTagger, job), options).run(todo):
            if outcome.error:
                failed.append(outcome.error)
                progress.advance(size=sizes[outcome.unit.id], documents=0, tokens=0, failed=True)
                continue
            commit: ShardCommit = outcome.receipt
            tokens += commit.tokens
            progress.advance(size=sizes[commit.shard], documents=commit.rows_kept, tokens=commit.tokens)
    return tokens, failed


@task(name="seal run", persist_result=False)
def seal_run(plan: TagPlan) -> TagManifest:
    """Writes the manifest once every shard is committed; where a run was sealed before, that manifest stays."""
    store = ObjectStore(plan.parameters.store)
    key = f"{run_prefix(plan.run)}/manifest.json"
    log = CommitLog(store, tags_prefix(plan.tagset))
    shards = plan.corpus.shards
    reasons: Counter[str] = Counter()
    undecided: Counter[str] = Counter()
    entries, columns, unreadable = [], [], 0
    statistics = _Merged()
    for shard, commit in zip(shards, log.read_many(s.id for s in shards), strict=True):
        entries.append(_entry(shard, commit))
        columns.append(commit.columns)
        reasons.update(commit.quarantine_reasons)
        undecided.update(commit.undecided)
        if commit.unreadable:
            unreadable += 1
        else:
            statistics.add(store, commit.objects["statistics"])
    attempt = uuid.uuid4().hex[:12]
    merged = statistics.parquet()
    manifest = TagManifest(
        run=plan.run,
        corpus=plan.corpus.corpus,
        options=plan.corpus.options,
        plan=plan.corpus.id,
        encoder=plan.resolved.features.encoder,
        features=plan.features,
        tagset=plan.tagset,
        taggers=TaggerSet(plan.resolved.taggers, plan.resolved.features.encoder).columns,
        columns=unify_columns(columns),
        rows_in=sum(e.rows_in for e in entries),
        rows_kept=sum(e.rows_kept for e in entries),
        rows_quarantined=sum(e.rows_quarantined for e in entries),
        tokens=sum(e.tokens for e in entries),
        quarantine_reasons=dict(sorted(reasons.items())),
        undecided=dict(sorted(undecided.items())),
        unreadable_shards=unreadable,
        statistics=store.create_named(run_prefix(plan.run), "statistics", ".parquet", *merged, attempt=attempt),
        shards=tuple(entries),
    )
    store.create(key, record_json(manifest), attempt=attempt)
    return TagManifest.model_validate_json(store.read(key))


@flow(name="tag-corpus", flow_run_name="tag {parameters.corpus}", validate_parameters=True, persist_result=False)
def tag_corpus(parameters: TagParameters) -> TagReport:
    """Tags every document of a corpus; run again, it does only what is missing."""
    started = time.monotonic()
    plan: TagPlan = step(plan_shards)(parameters)
    already = CommitLog(ObjectStore(parameters.store), tags_prefix(plan.tagset)).committed()
    skipped = sum(shard.id in already for shard in plan.corpus.shards)
    tokens, failed = step(tag_shards)(plan)
    manifest = None if failed else step(seal_run)(plan)
    report = TagReport(
        manifest=manifest,
        store=parameters.store,
        run=plan.run,
        shards=len(plan.corpus.shards),
        skipped=skipped,
        failed=failed,
        tokens=tokens,
        seconds=time.monotonic() - started,
    )
    if in_flow_run():
        create_markdown_artifact(markdown_list(summary_lines(report)), key="tag-summary")
    if failed:
        raise AssayError(
            f"{len(failed)} of {len(plan.corpus.shards)} shards failed: " + "; ".join(failed[:5]),
            where=parameters.store,
            hint="the others are committed; mend the cause and run the same command again",
        )
    return report


def summary_lines(report: TagReport) -> list[str]:
    """What was done, in plain lines that reconcile."""
    manifest = report.manifest
    rate = report.tokens / report.seconds if report.seconds else 0.0
    lines = [
        f"run {report.run} · store {report.store}",
        f"shards: {report.shards:,} ({report.skipped:,} done before) · "
        f"{report.tokens:,} tokens in {duration(report.seconds)} ({rate:,.0f} tokens/s, start-up included)",
    ]
    if manifest is None:
        return [*lines, f"{len(report.failed)} shards failed"]
    lines.append(
        f"rows in {manifest.rows_in:,} = kept {manifest.rows_kept:,} + dropped 0 "
        f"+ quarantined {manifest.rows_quarantined:,}"
    )
    if manifest.quarantine_reasons:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in manifest.quarantine_reasons.items())
        lines.append(f"quarantined: {reasons}")
    if not manifest.rows_kept:
        lines.append("no row is a document: do --text-column and --id-column name the right columns?")
    if manifest.undecided:
        lines.append("undecided: " + ", ".join(f"{name} {n:,}" for name, n in manifest.undecided.items()))
    if manifest.unreadable_shards:
        broken = [e.unreadable for e in manifest.shards if e.unreadable]
        lines.append(f"{manifest.unreadable_shards} shards could not be read, and none of their rows is counted:")
        lines += [f"  {line}" for line in broken[:10]]
    return lines


def tag_job(plan: TagPlan) -> TagJob:
    """The workers' part of a plan."""
    resolved, parameters = plan.resolved, plan.parameters
    return TagJob(
        store=parameters.store,
        options=plan.corpus.options,
        scope=resolved.scope,
        taggers=resolved.taggers,
        watched=resolved.watched,
        device=resolved.device,
        threads=threads_per_worker(plan),
    )


def pool_options(plan: TagPlan, shards: int, gpus: int) -> PoolOptions:
    """One actor for each of the `gpus`; on CPUs as many as this machine's cores and the shards allow."""
    threads, wanted = threads_per_worker(plan), plan.parameters.workers
    if plan.resolved.device.startswith("cuda"):
        return PoolOptions(workers=wanted or max(1, gpus), gpus=1)
    workers = wanted or max(1, (os.cpu_count() or 1) // threads)
    return PoolOptions(workers=max(1, min(workers, shards)), cpus=threads)


def threads_per_worker(plan: TagPlan) -> int:
    """One where the backbone is small, so that each core has its own actor; all cores for a large one."""
    from assay.sae_runtime.scope_files import locate

    if plan.parameters.threads:
        return plan.parameters.threads
    folder = locate(plan.resolved.scope).backbone
    small = sum(f.stat().st_size for f in folder.glob("*.safetensors")) < _SMALL_MODEL_BYTES
    return 1 if small or plan.resolved.device.startswith("cuda") else (os.cpu_count() or 1)


def _entry(shard: Shard, commit: ShardCommit) -> ShardEntry:
    return ShardEntry(
        shard=shard.id,
        source=shard.source,
        first_row=shard.first_row,
        source_rows=shard.rows,
        first_byte=shard.first_byte,
        rows_in=commit.rows_in,
        rows_kept=commit.rows_kept,
        rows_quarantined=commit.rows_quarantined,
        tokens=commit.tokens,
        unreadable=commit.unreadable,
        objects=commit.objects,
    )


class _Merged:
    """Statistics tables added up, a few at a time in memory."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def add(self, store: ObjectStore, stored: StoredObject) -> None:
        self._tables += iter_parquet(pa.BufferReader(store.read_verified(stored)))
        if len(self._tables) >= _MERGE_EVERY:
            self._tables = [merge(self._tables)]

    def parquet(self) -> tuple[bytes, int]:
        table = merge(self._tables)
        return parquet_bytes(table), table.num_rows
