"""dedup: finds copies and contaminated documents in tagged corpora, and writes a list of them beside nothing else."""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import pyarrow.parquet as pq
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.tasks import exponential_backoff

from assay.flows.engine import assay_version, in_flow_run, markdown_list, step
from assay.flows.progress import duration, shard_progress
from assay.schemas.base import canonical_json, fingerprint, record_json
from assay.schemas.dedup import (
    Decontaminate,
    Dedup,
    DedupManifest,
    DedupSource,
    ReferenceFile,
    dedup_fingerprint,
)
from assay.schemas.errors import AssayError, unknown_name
from assay.schemas.parameters import DedupParameters
from assay.schemas.recipe import TaggedSource
from assay.schemas.store import ShardCommit, TagManifest
from assay.workers.curate_job import CurateJob, TaggedShard
from assay.workers.curating import CONTROL
from assay.workers.dedup import near
from assay.workers.dedup.clusters import Cluster, gather
from assay.workers.dedup.contamination import read_reference
from assay.workers.dedup.features import feature_bands, feature_weights
from assay.workers.dedup.job import MATCHED, SIGNED, WORK, DedupJob, SearchUnit, Select, read_object
from assay.workers.dedup.lists import write_lists
from assay.workers.dedup.partitions import PartitionMatcher, PartitionUnit, read_matches
from assay.workers.dedup.resolving import resolve
from assay.workers.dedup.selection import KeptByRules
from assay.workers.dedup.signing import ShardSigner
from assay.workers.pool import PoolOptions, Unit, Worker, WorkPool
from assay.workers.session import ray_session
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.filesystem import join
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import load_manifest

_VERSION = 1
_RECORDS_A_PARTITION = 1 << 20
_MOST_PARTITIONS = 4096
_SAMPLED_SHARDS = 64


class SearchPlan(NamedTuple):
    """A search, checked against its sources before anything is written."""

    job: DedupJob
    decontaminate: Decontaminate | None
    selection: str
    units: tuple[SearchUnit, ...]
    sources: tuple[DedupSource, ...]
    reference: tuple[ReferenceFile, ...]
    rows: int
    """documents of the sources, chosen or not"""


class SearchReport(NamedTuple):
    """What a search found."""

    manifest: DedupManifest
    path: str
    signed: int
    """shards that were read by this run"""
    seconds: float


def plan_search(
    sources: Sequence[TaggedSource],
    manifests: Sequence[TagManifest],
    dedup: Dedup | None,
    decontaminate: Decontaminate | None,
    output: str,
    *,
    select: Select | None = None,
    selection: str = "",
    shards: Sequence[TaggedShard] | None = None,
    where: str = "",
) -> SearchPlan:
    """Checks what is asked against the sources and reads the benchmarks. AssayError before anything is written.

    `shards` are those to search, by default all; `select` chooses among their documents, and `selection` names both.
    """
    if dedup is None and decontaminate is None:
        raise AssayError("nothing to look for", where=where, hint="give dedup, decontaminate or both")
    if dedup is not None:
        _check(dedup, manifests, where)
    if shards is None:
        shards = [TaggedShard(s, i, e) for s, manifest in enumerate(manifests) for i, e in enumerate(manifest.shards)]
    readable = (shard for shard in shards if not shard.entry.unreadable)
    units = tuple(SearchUnit(number, shard.source, shard.entry) for number, shard in enumerate(readable))
    reference, files = read_reference(decontaminate) if decontaminate else (None, ())
    lineage = tuple(
        DedupSource(run=m.run, corpus=m.corpus, features=m.features, tagset=m.tagset, shards=len(m.shards))
        for m in manifests
    )
    stores = tuple(source.store for source in sources)
    rows = sum(unit.entry.rows_kept for unit in units)
    methods = {"search": _VERSION, "minhash": near.METHOD}
    job = DedupJob(
        stores=stores,
        options=tuple(m.options for m in manifests),
        dedup=dedup,
        reference=reference,
        weights=None,
        select=select,
        partitions=_partitions(dedup, rows),
        output=output,
        fingerprint=dedup_fingerprint(dedup, decontaminate, selection, lineage, files, methods),
    )
    if dedup is not None and dedup.features is not None:
        _check_layer(units[:1], stores, dedup.features.layer, where)
    return SearchPlan(job, decontaminate, selection, units, lineage, files, rows)


def _check(dedup: Dedup, manifests: Sequence[TagManifest], where: str) -> None:
    scores = {column.name for column in manifests[0].taggers if column.kind == "score"}
    if dedup.score and dedup.score not in scores:
        raise unknown_name("score", dedup.score, scores, where=f"{where}: dedup.keep" if where else "keep")
    if dedup.features and len({manifest.features for manifest in manifests}) > 1:
        raise AssayError(
            "the sources' features are of different encoders or settings, so that they can't be compared",
            where=where,
            hint="tag them with one scope, or leave dedup.features out",
        )


def _check_layer(units: Sequence[SearchUnit], stores: Sequence[str], layer: int, where: str) -> None:
    for unit in units:
        with ObjectStore(stores[unit.source]).open_input(unit.entry.objects["features"]) as handle:
            names = pq.read_schema(handle).names
        layers = {name[1:-4] for name in names if name.endswith("_ids")}
        if str(layer) not in layers:
            raise unknown_name("layer", str(layer), layers, where=f"{where}: dedup.features" if where else "features")


def _partitions(dedup: Dedup | None, rows: int) -> int:
    """As many that one holds about a million records of the stage that has most of them."""
    records = 1
    if dedup is not None and dedup.near is not None:
        records = near.near_bands(dedup.near).number
    if dedup is not None and dedup.features is not None:
        records = max(records, feature_bands(dedup.features).number)
    return min(_MOST_PARTITIONS, -(-rows * records // _RECORDS_A_PARTITION) or 1)


def search(plan: SearchPlan, workers: int | None, ray_address: str | None) -> tuple[DedupManifest, int]:
    """Runs what is missing of a search; the manifest, and the shards that were read for it now."""
    if (done := finished(plan)) is not None:
        return done, 0
    step(claim_search)(plan)
    plan = plan._replace(job=with_weights(plan.job, plan.units))
    with ray_session(ray_address, cpus=workers or os.cpu_count() or 1):
        signed = step(sign_shards)(plan, workers)
        step(match_partitions)(plan, workers)
    return step(seal_search)(plan), signed


def with_weights(job: DedupJob, units: Sequence[SearchUnit]) -> DedupJob:
    """The job with the weights of features, counted in 64 shards at most that are spread over the corpus."""
    if job.dedup is None or job.dedup.features is None:
        return job
    layer = job.dedup.features.layer
    sample = units[:: -(-len(units) // _SAMPLED_SHARDS) or 1]
    tables = (
        read_object(ObjectStore(job.stores[u.source]), u.entry.objects["features"], [f"l{layer}_ids"]) for u in sample
    )
    return job._replace(weights=feature_weights(tables, layer))


def recipe_search(
    job: CurateJob, manifests: Sequence[TagManifest], shards: Sequence[TaggedShard], takedown: str | None
) -> SearchPlan | None:
    """The search that a recipe asks for, over the documents that its rules keep; its result is part of the dataset.

    `takedown` is the hash of a takedown list; what it names is to be left out by the `select` of the job that runs.
    """
    recipe = job.recipe
    if not recipe.copy_stages:
        return None
    kept = KeptByRules(job)
    return plan_search(
        recipe.sources,
        manifests,
        recipe.dedup,
        recipe.decontaminate,
        join(recipe.output.path, CONTROL, "dedup"),
        select=kept,
        selection=kept.fingerprint if takedown is None else fingerprint([kept.fingerprint, takedown]),
        shards=shards,
        where=recipe.name,
    )


def finished(plan: SearchPlan) -> DedupManifest | None:
    """The manifest of this search, if it was finished before; that of another one is not looked at."""
    store = ObjectStore(plan.job.output)
    if not store.exists("manifest.json"):
        return None
    manifest = DedupManifest.model_validate_json(store.read("manifest.json"))
    return manifest if manifest.fingerprint == plan.job.fingerprint else None


@task(name="claim search", persist_result=False)
def claim_search(plan: SearchPlan) -> None:
    """Marks the output folder as this search's; AssayError if it holds anything else."""
    output, key = ObjectStore(plan.job.output), "search.json"
    if not output.exists(key):
        there = next(iter(output.list()), None)
        if there is not None:
            raise AssayError(
                f"the output folder isn't empty (it holds {there!r})",
                where=plan.job.output,
                hint="a result is never written over other files: choose an empty folder",
            )
        output.require_atomic()
        record = {"fingerprint": plan.job.fingerprint, "partitions": plan.job.partitions}
        output.create(key, canonical_json(record).encode(), attempt=uuid.uuid4().hex[:12])
    if f'"fingerprint":"{plan.job.fingerprint}"'.encode() not in output.read(key):
        raise _taken(plan)


@task(
    name="sign shards",
    persist_result=False,
    retries=2,
    retry_delay_seconds=exponential_backoff(10),
    retry_jitter_factor=0.5,
)
def sign_shards(plan: SearchPlan, workers: int | None) -> int:
    """Signs the shards without a commit; returns how many this run signed."""
    return _run(plan, partial(ShardSigner, plan.job), plan.units, SIGNED, "signing", workers)


@task(
    name="match partitions",
    persist_result=False,
    retries=2,
    retry_delay_seconds=exponential_backoff(10),
    retry_jitter_factor=0.5,
)
def match_partitions(plan: SearchPlan, workers: int | None) -> int:
    """Matches the partitions without a commit; returns how many this run matched."""
    commits = list(CommitLog(ObjectStore(plan.job.output), SIGNED).read_many(unit.id for unit in plan.units))
    signed = {kind: tuple(commit.objects[kind] for commit in commits) for kind in plan.job.kinds}
    units = [PartitionUnit(kind, n) for kind in plan.job.kinds for n in range(plan.job.partitions)] if commits else []
    return _run(plan, partial(PartitionMatcher, plan.job, signed), units, MATCHED, "matching", workers)


@task(name="seal search", persist_result=False)
def seal_search(plan: SearchPlan) -> DedupManifest:
    """Chooses who stays, writes the lists and, last, the manifest; then the shuffled records go."""
    job, attempt = plan.job, uuid.uuid4().hex[:12]
    output = ObjectStore(job.output)
    commits = list(CommitLog(output, SIGNED).read_many(unit.id for unit in plan.units))
    listed = write_lists(job, plan.units, resolve(job, plan.units, _clusters(plan)), commits, attempt)
    manifest = DedupManifest(
        fingerprint=job.fingerprint,
        assay_version=assay_version(),
        dedup=job.dedup,
        decontaminate=plan.decontaminate,
        selection=plan.selection,
        sources=plan.sources,
        reference=plan.reference,
        documents=sum(shard.documents for shard in listed.shards),
        tokens=sum(commit.tokens for commit in commits),
        stages=listed.stages,
        clusters=listed.clusters,
        shards=listed.shards,
    )
    output.create("manifest.json", record_json(manifest), attempt=attempt)
    for key in list(output.list(WORK)):
        output.delete(key)
    return DedupManifest.model_validate_json(output.read("manifest.json"))


@flow(name="dedup", flow_run_name="dedup {parameters.output}", validate_parameters=True, persist_result=False)
def find_copies(parameters: DedupParameters) -> SearchReport:
    """Finds the copies in tagged corpora; run again, it does only what is missing."""
    started = time.monotonic()
    manifests = [load_manifest(ObjectStore(source.store), source.run) for source in parameters.sources]
    plan = plan_search(parameters.sources, manifests, parameters.dedup, parameters.decontaminate, parameters.output)
    manifest, signed = search(plan, parameters.workers, parameters.ray_address)
    report = SearchReport(manifest, parameters.output, signed, time.monotonic() - started)
    if in_flow_run():
        create_markdown_artifact(markdown_list(search_lines(report)), key="dedup-summary")
    return report


def search_lines(report: SearchReport) -> list[str]:
    """What was found, in plain lines that reconcile."""
    m = report.manifest
    stages = [stage for stage in m.stages if stage.documents or stage.stage in _asked(m)]
    gone, tokens = (sum(getattr(stage, name) for stage in stages) for name in ("documents", "tokens"))
    lines = [
        f"{m.documents:,} documents compared, {m.tokens:,} tokens · {report.signed} shards read now, "
        f"in {duration(report.seconds)}",
        *(
            f"  {stage.stage:12} {stage.documents:>12,} documents {stage.tokens:>16,} tokens "
            f"({_share(stage.tokens, m.tokens)})"
            for stage in stages
        ),
        f"  {'stay':12} {m.documents - gone:>12,} documents {m.tokens - tokens:>16,} tokens "
        f"({_share(m.tokens - tokens, m.tokens)})",
    ]
    lines += [
        f"benchmark {file.name}: {file.items:,} texts looked for"
        + (f", {file.too_short:,} too short to be looked for" if file.too_short else "")
        for file in m.reference
    ]
    if m.clusters:
        lines.append("largest clusters:")
        lines += [
            f"  {cluster.copies:,} of {cluster.kept}: {', '.join(cluster.examples)}"
            f"{', ...' if cluster.copies > len(cluster.examples) else ''}"
            for cluster in m.clusters
        ]
    return lines


def _asked(manifest: DedupManifest) -> set[str]:
    dedup = manifest.dedup
    asked = {"exact": dedup, "near": dedup and dedup.near, "features": dedup and dedup.features}
    return {*(kind for kind, spec in asked.items() if spec), *(["contaminated"] if manifest.decontaminate else [])}


def _clusters(plan: SearchPlan) -> Iterator[tuple[str, Cluster | None]]:
    output = ObjectStore(plan.job.output)
    log = CommitLog(output, MATCHED)
    for kind in plan.job.kinds if plan.units else ():
        ids = [PartitionUnit(kind, n).id for n in range(plan.job.partitions)]
        yield kind, gather(read_matches(output, commit.objects["matches"]) for commit in log.read_many(ids))


def _run(
    plan: SearchPlan,
    make_worker: Callable[[], Worker],
    units: Sequence[Unit],
    prefix: str,
    label: str,
    workers: int | None,
) -> int:
    """Runs the units without a commit; AssayError if one was given up."""
    committed = CommitLog(ObjectStore(plan.job.output), prefix).committed()
    todo = [unit for unit in units if unit.id not in committed]
    if not todo:
        return 0
    failed = []
    done = len(units) - len(todo)
    with shard_progress(label, shards=len(units), done=done, total_bytes=len(units), done_bytes=done) as progress:
        pool = WorkPool(make_worker, PoolOptions(workers=min(workers or os.cpu_count() or 1, len(todo))))
        for outcome in pool.run(todo):
            commit: ShardCommit | None = outcome.receipt
            if commit is None:
                failed.append(outcome.error)
            documents, tokens = (commit.rows_kept, commit.tokens) if commit else (0, 0)
            progress.advance(size=1, documents=documents, tokens=tokens, failed=commit is None)
    if failed:
        raise AssayError(
            f"{len(failed)} of {len(units)} failed in {label}: " + "; ".join(failed[:5]),
            where=plan.job.output,
            hint="the others are committed; mend the cause and run the same command again",
        )
    return len(todo)


def _taken(plan: SearchPlan) -> AssayError:
    return AssayError(
        "the output folder holds the result of another search",
        where=plan.job.output,
        hint="results are never overwritten: choose an empty folder",
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "–"
