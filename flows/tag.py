"""tag_corpus: plans a corpus into shards, tags the missing ones on Ray actors, seals the run with a manifest."""

import os
import time
import uuid
from functools import partial
from typing import NamedTuple, cast

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.tasks import exponential_backoff

from assay.flows.engine import in_flow_run, markdown_list, step
from assay.flows.failures import FailureLog
from assay.flows.progress import duration, shard_progress, stderr
from assay.flows.scopes import ResolvedScope, resolve_scope
from assay.flows.status import undecided_lines
from assay.schemas.base import fingerprint
from assay.schemas.corpus import CorpusPlan, ReadOptions, Shard
from assay.schemas.errors import AssayError, Unfinished
from assay.schemas.parameters import TagParameters
from assay.schemas.store import (
    RunRecord,
    ShardCommit,
    TagManifest,
    features_prefix,
    tags_prefix,
)
from assay.workers.corpora.planning import plan_corpus
from assay.workers.corpora.records import WORKER_REASONS
from assay.workers.pool import PoolOptions, WorkPool
from assay.workers.session import cluster_address, cluster_gpus, ray_session
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.filesystem import absolute
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import begin_run, open_store, seal, write_identity
from assay.workers.tagger_set import TaggerSet, no_residuals
from assay.workers.tagging import ShardTagger, TagJob

_SMALL_MODEL_BYTES = 10**9


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
    retry_of: str | None = None
    """the run of which this one tries some shards again"""


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
    if not resolved.features.residuals and (dense := [t for t in resolved.taggers if t.dense]):
        raise no_residuals(dense[0])
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


@task(name="plan shards", persist_result=False)
def plan_shards(parameters: TagParameters) -> TagPlan:
    """Plans the run and leaves in the store what its names stand for."""
    plan = plan_tagging(parameters)
    record_plan(open_store(parameters.store), plan)
    return plan


def record_plan(store: ObjectStore, plan: TagPlan) -> None:
    """Leaves in the store what the plan's names stand for, where it isn't there yet."""
    attempt = uuid.uuid4().hex[:12]
    identity = {
        "encoder": plan.resolved.encoder.model_dump(mode="json"),
        "features": plan.resolved.features.model_dump(mode="json"),
        "scope": plan.resolved.scope.model_dump(mode="json"),
    }
    write_identity(store, f"{features_prefix(plan.features)}/identity.json", identity, attempt)
    begin_run(store, run_record(plan), plan.corpus, plan.resolved.taggers)


@task(
    name="tag shards",
    persist_result=False,
    retries=2,
    retry_delay_seconds=exponential_backoff(10),
    retry_jitter_factor=0.5,
)
def tag_shards(plan: TagPlan) -> tuple[int, list[str]]:
    """Tags the shards without a commit; returns the tokens done and the errors of shards that were given up."""
    store = ObjectStore(plan.parameters.store)
    committed = CommitLog(store, tags_prefix(plan.tagset)).committed()
    failures = FailureLog(store, plan.run)
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
                failures.add(cast(Shard, outcome.unit), outcome.error)
                progress.advance(size=sizes[outcome.unit.id], documents=0, tokens=0, failed=True)
                continue
            commit: ShardCommit = outcome.receipt
            tokens += commit.tokens
            progress.advance(size=sizes[commit.shard], documents=commit.rows_kept, tokens=commit.tokens)
    return tokens, failed


@task(name="seal run", persist_result=False)
def seal_run(plan: TagPlan) -> TagManifest:
    """Writes the manifest once every shard is committed; where a run was sealed before, that manifest stays."""
    columns = TaggerSet(plan.resolved.taggers, plan.resolved.features.encoder).columns
    return seal(ObjectStore(plan.parameters.store), run_record(plan), plan.corpus, columns)


@flow(name="tag-corpus", flow_run_name="tag {parameters.corpus}", validate_parameters=True, persist_result=False)
def tag_corpus(parameters: TagParameters) -> TagReport:
    """Tags every document of a corpus; run again, it does only what is missing."""
    started = time.monotonic()
    return finish(step(plan_shards)(parameters), started)


def finish(plan: TagPlan, started: float) -> TagReport:
    """Does what is missing of a plan that is in the store; Unfinished if shards were given up."""
    already = CommitLog(ObjectStore(plan.parameters.store), tags_prefix(plan.tagset)).committed()
    skipped = sum(shard.id in already for shard in plan.corpus.shards)
    tokens, failed = step(tag_shards)(plan)
    manifest = None if failed else step(seal_run)(plan)
    report = TagReport(
        manifest=manifest,
        store=plan.parameters.store,
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
        raise Unfinished(
            f"{len(failed)} of {len(plan.corpus.shards)} shards failed: " + "; ".join(failed[:5]),
            where=plan.parameters.store,
            hint="the others are committed; `assay status` lists these with their reasons: mend the cause, then run "
            "the same command again, or `assay retry`",
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
    if broke := sum(manifest.quarantine_reasons.get(reason, 0) for reason in WORKER_REASONS):
        lines.append(f"{broke:,} of these broke their workers: `assay status` lists them")
    if not manifest.rows_kept:
        lines.append("no row is a document: do --text-column and --id-column name the right columns?")
    lines += undecided_lines(manifest, report.store)
    if manifest.unreadable_shards:
        broken = [e.unreadable for e in manifest.shards if e.unreadable]
        lines.append(f"{manifest.unreadable_shards} shards could not be read, and none of their rows is counted:")
        lines += [f"  {line}" for line in broken[:10]]
    return lines


def run_record(plan: TagPlan) -> RunRecord:
    """What the run's id stands for."""
    return RunRecord(
        run=plan.run,
        corpus=plan.corpus.corpus,
        scope=plan.resolved.scope.name,
        plan=plan.corpus.id,
        encoder=plan.resolved.features.encoder,
        features=plan.features,
        tagset=plan.tagset,
        retry_of=plan.retry_of,
    )


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
    options = PoolOptions(workers=1, isolate=True, seconds_per_mb=plan.parameters.seconds_per_mb)
    if plan.resolved.device.startswith("cuda"):
        return options._replace(workers=wanted or max(1, gpus), gpus=1)
    workers = wanted or max(1, (os.cpu_count() or 1) // threads)
    return options._replace(workers=max(1, min(workers, shards)), cpus=threads)


def threads_per_worker(plan: TagPlan) -> int:
    """One where the backbone is small, so that each core has its own actor; all cores for a large one."""
    from assay.sae_runtime.scope_files import locate

    if plan.parameters.threads:
        return plan.parameters.threads
    folder = locate(plan.resolved.scope).backbone
    small = sum(f.stat().st_size for f in folder.glob("*.safetensors")) < _SMALL_MODEL_BYTES
    return 1 if small or plan.resolved.device.startswith("cuda") else (os.cpu_count() or 1)
