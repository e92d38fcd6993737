"""curate: decides over tags which documents stay, writes the dataset, and seals it with card and manifest."""

import os
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.tasks import exponential_backoff

from assay.flows.card import dataset_card
from assay.flows.engine import assay_version, in_flow_run, markdown_list, step
from assay.flows.progress import duration, shard_progress
from assay.flows.stores import load_manifest
from assay.schemas.base import canonical_json, record_json
from assay.schemas.curation import (
    CurationManifest,
    OutputShard,
    RuleTally,
    SourceLineage,
    Tally,
    curation_fingerprint,
)
from assay.schemas.errors import AssayError
from assay.schemas.parameters import CurateParameters
from assay.schemas.recipe import Recipe
from assay.schemas.statistics import merge
from assay.schemas.store import ShardCommit, StoredObject, TagManifest
from assay.schemas.yaml_file import load_yaml
from assay.workers.corpora.columns import unify_columns
from assay.workers.curating import (
    CONTROL,
    CurateJob,
    OutputPlanner,
    ShardCurator,
    Survey,
    Surveyor,
    TaggedShard,
    output_schema,
)
from assay.workers.feature_table import parquet_bytes
from assay.workers.pool import PoolOptions, WorkPool
from assay.workers.rules import check_rules
from assay.workers.session import ray_session
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore

_MERGE_EVERY = 64


class Preview(NamedTuple):
    """What a recipe does, before anything is written."""

    job: CurateJob
    manifests: tuple[TagManifest, ...]
    lineage: tuple[SourceLineage, ...]
    rows_in: int
    rows_quarantined: int
    kept: Tally
    dropped: Tally
    rules: tuple[RuleTally, ...]
    kept_statistics: pa.Table
    dropped_statistics: pa.Table
    shards: tuple[OutputShard, ...]


class CurateReport(NamedTuple):
    """What a curation did."""

    manifest: CurationManifest
    path: str
    written: int
    """output shards written by this run"""
    seconds: float


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file; its relative paths are taken from where the command runs."""
    return load_yaml(path, Recipe)


def prepare(parameters: CurateParameters) -> tuple[CurateJob, tuple[TagManifest, ...], tuple[SourceLineage, ...]]:
    """Reads the sources' manifests and checks the recipe against them; AssayError before anything is written."""
    recipe = parameters.recipe
    manifests = tuple(load_manifest(ObjectStore(source.store), source.run) for source in recipe.sources)
    first = manifests[0]
    for source, manifest in zip(recipe.sources, manifests, strict=True):
        if manifest.tagset != first.tagset:
            raise AssayError(
                f"sources are tagged differently: {first.tagset} and {manifest.tagset}",
                where=f"{parameters.where}: {source.store}",
                hint="tags of different models or taggers can't be mixed: tag both corpora with one scope",
            )
    check_rules(recipe.rules, first.taggers, where=parameters.where)
    lineage = tuple(
        SourceLineage(
            store=source.store,
            run=m.run,
            corpus=m.corpus,
            encoder=m.encoder,
            tagset=m.tagset,
            shards=len(m.shards),
            unreadable_shards=m.unreadable_shards,
        )
        for source, m in zip(recipe.sources, manifests, strict=True)
    )
    job = CurateJob(
        recipe=recipe,
        fingerprint=curation_fingerprint(recipe, lineage),
        options=tuple(m.options for m in manifests),
        tag_columns=first.taggers,
        columns=unify_columns(m.columns for m in manifests),
    )
    output_schema(job)
    return job, manifests, lineage


@task(name="survey", persist_result=False)
def survey(parameters: CurateParameters) -> Preview:
    """Applies the rules to every tagged shard, reading tags only; lays out the output shards."""
    job, manifests, lineage = prepare(parameters)
    units = [
        TaggedShard(s, i, entry)
        for s, manifest in enumerate(manifests)
        for i, entry in enumerate(manifest.shards)
        if not entry.unreadable
    ]
    rules = job.recipe.rules
    dropped_by = [Tally() for _ in rules]
    alone = [0] * len(rules)
    kept = Tally()
    statistics: tuple[list[pa.Table], list[pa.Table]] = ([], [])
    planner = OutputPlanner(job.recipe)
    surveyor = Surveyor(job)
    for unit in units:
        found: Survey = surveyor.process(unit, "survey")
        planner.add(unit, found)
        kept += found.kept
        dropped_by = [a + b for a, b in zip(dropped_by, found.dropped, strict=True)]
        alone = [a + b for a, b in zip(alone, found.alone, strict=True)]
        statistics[0].append(found.kept_statistics)
        statistics[1].append(found.dropped_statistics)
        if len(statistics[0]) >= _MERGE_EVERY:
            statistics = ([merge(statistics[0])], [merge(statistics[1])])
    quarantined = sum(m.rows_quarantined for m in manifests)
    dropped = sum(dropped_by, Tally())
    rows_in = sum(m.rows_in for m in manifests)
    if rows_in != kept.documents + dropped.documents + quarantined:
        raise AssayError(
            f"{rows_in} rows in, but kept {kept.documents} + dropped {dropped.documents} + quarantined {quarantined}",
            where=parameters.where,
            hint="a tags shard doesn't match its manifest; this is a defect, nothing was written",
        )
    return Preview(
        job=job,
        manifests=manifests,
        lineage=lineage,
        rows_in=rows_in,
        rows_quarantined=quarantined,
        kept=kept,
        dropped=dropped,
        rules=tuple(
            RuleTally(name=rule.name, reason=rule.reason, dropped=d, alone=a)
            for rule, d, a in zip(rules, dropped_by, alone, strict=True)
        ),
        kept_statistics=merge(statistics[0]),
        dropped_statistics=merge(statistics[1]),
        shards=tuple(planner.finish()),
    )


@task(name="claim output", persist_result=False)
def claim_output(preview: Preview) -> None:
    """Marks the output folder as this recipe's; AssayError, which no retry mends, if it's another's."""
    job = preview.job
    output = ObjectStore(job.recipe.output.path)
    record = {"fingerprint": job.fingerprint, "recipe": job.recipe.model_dump(mode="json")}
    key, data = f"{CONTROL}/recipe.json", canonical_json(record).encode()
    if not output.exists(key):
        there = next((key for key in output.list() if not key.startswith(f"{CONTROL}/")), None)
        if there is not None:
            raise AssayError(
                f"the output folder isn't empty (it holds {there!r})",
                where=job.recipe.output.path,
                hint="a curated dataset is never written over other files: choose an empty folder",
            )
        output.require_atomic()
        output.create(key, data, attempt=uuid.uuid4().hex[:12])
    if f'"fingerprint":"{job.fingerprint}"'.encode() not in output.read(key):
        raise AssayError(
            "the output folder holds a dataset of another recipe or of other sources",
            where=job.recipe.output.path,
            hint="datasets are never overwritten: set output.path to a new folder, such as .../v2",
        )


@task(
    name="write dataset",
    persist_result=False,
    retries=2,
    retry_delay_seconds=exponential_backoff(10),
    retry_jitter_factor=0.5,
)
def write_dataset(parameters: CurateParameters, preview: Preview) -> int:
    """Writes the output shards without a commit; returns how many this run wrote."""
    output = ObjectStore(preview.job.recipe.output.path)
    committed = CommitLog(output, CONTROL).committed()
    todo = [shard for shard in preview.shards if shard.id not in committed]
    if not todo:
        return 0
    workers = min(parameters.workers or os.cpu_count() or 1, len(todo))
    entries = tuple(m.shards for m in preview.manifests)
    failed = []
    with (
        ray_session(parameters.ray_address, cpus=workers),
        shard_progress(
            "writing",
            shards=len(preview.shards),
            done=len(preview.shards) - len(todo),
            total_bytes=len(preview.shards),
            done_bytes=len(preview.shards) - len(todo),
        ) as progress,
    ):
        pool = WorkPool(partial(ShardCurator, preview.job, entries), PoolOptions(workers=workers))
        for outcome in pool.run(todo):
            if outcome.error:
                failed.append(outcome.error)
                progress.advance(size=1, documents=0, tokens=0, failed=True)
                continue
            commit: ShardCommit = outcome.receipt
            progress.advance(size=1, documents=commit.rows_kept, tokens=commit.tokens)
    if failed:
        raise AssayError(
            f"{len(failed)} of {len(preview.shards)} output shards failed: " + "; ".join(failed[:5]),
            where=preview.job.recipe.output.path,
            hint="the others are committed; mend the cause and run the same command again",
        )
    return len(todo)


@task(name="seal dataset", persist_result=False)
def seal_dataset(preview: Preview) -> CurationManifest:
    """Writes statistics, card and, last, the manifest."""
    job, attempt = preview.job, uuid.uuid4().hex[:12]
    output = ObjectStore(job.recipe.output.path)
    commits = list(CommitLog(output, CONTROL).read_many(shard.id for shard in preview.shards))
    kept_rows = sum(commit.rows_kept for commit in commits)
    if kept_rows != preview.kept.documents:
        raise AssayError(
            f"{kept_rows} documents were written, {preview.kept.documents} were to be",
            where=job.recipe.output.path,
            hint="this is a defect; the dataset has no manifest and should not be used",
        )
    statistics = {
        name: output.create_named(
            f"{CONTROL}/statistics", name, ".parquet", parquet_bytes(table), table.num_rows, attempt=attempt
        )
        for name, table in (("kept", preview.kept_statistics), ("dropped", preview.dropped_statistics))
    }
    schema = output_schema(job)
    manifest = CurationManifest(
        fingerprint=job.fingerprint,
        assay_version=assay_version(),
        recipe=job.recipe,
        sources=preview.lineage,
        columns={field.name: str(field.type) for field in schema},
        rows_in=preview.rows_in,
        kept=preview.kept,
        dropped=preview.dropped,
        rows_quarantined=preview.rows_quarantined,
        rules=preview.rules,
        statistics=statistics,
        shards=tuple(commit.objects["data"] for commit in commits),
        dropped_shards=tuple(_dropped(commits)),
    )
    output.create("README.md", dataset_card(manifest, preview.kept_statistics).encode(), attempt=attempt)
    output.create("manifest.json", record_json(manifest), attempt=attempt)
    return CurationManifest.model_validate_json(output.read("manifest.json"))


@flow(name="curate", flow_run_name="curate {parameters.recipe.name}", validate_parameters=True, persist_result=False)
def curate(parameters: CurateParameters) -> CurateReport:
    """Makes a curated dataset from tagged corpora; run again, it does only what is missing."""
    started = time.monotonic()
    preview: Preview = step(survey)(parameters)
    step(claim_output)(preview)
    written = step(write_dataset)(parameters, preview)
    manifest = step(seal_dataset)(preview)
    report = CurateReport(manifest, parameters.recipe.output.path, written, time.monotonic() - started)
    if in_flow_run():
        create_markdown_artifact(markdown_list(curation_lines(report)), key="curation-summary")
    return report


def curation_lines(report: CurateReport) -> list[str]:
    """What was done, in plain lines that reconcile."""
    m = report.manifest
    lines = [
        f"dataset {m.recipe.name} · {report.path} · {len(m.shards)} shards "
        f"({report.written} written now, in {duration(report.seconds)})",
        f"rows in {m.rows_in:,} = kept {m.kept.documents:,} + dropped {m.dropped.documents:,} "
        f"+ quarantined {m.rows_quarantined:,}",
        f"tokens kept {m.kept.tokens:,} of {m.kept.tokens + m.dropped.tokens:,}",
    ]
    if unreadable := unreadable_shards(m):
        lines.append(f"{unreadable:,} input shards could not be read when they were tagged: nothing of them is in it")
    if not m.kept.documents:
        lines.append("the rules kept nothing")
    lines += [f"  {rule.name}: dropped {rule.dropped.documents:,} ({rule.alone:,} alone)" for rule in m.rules]
    return lines


def unreadable_shards(manifest: CurationManifest) -> int:
    """Input shards whose rows are not known and not counted anywhere."""
    return sum(source.unreadable_shards for source in manifest.sources)


def _dropped(commits: list[ShardCommit]) -> Iterator[StoredObject]:
    for commit in commits:
        if "dropped" in commit.objects:
            yield commit.objects["dropped"]
