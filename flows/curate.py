"""curate: decides over tags which documents stay, writes the dataset, and seals it with card and manifest."""

import os
import time
import uuid
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pyarrow as pa
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.tasks import exponential_backoff

from assay.flows.card import dataset_card
from assay.flows.dedup import SearchReport, finished, search
from assay.flows.engine import assay_version, in_flow_run, markdown_list, step
from assay.flows.preparation import Prepared, prepare
from assay.flows.progress import duration, shard_progress
from assay.flows.versions import seal_version
from assay.schemas.base import canonical_json, record_json
from assay.schemas.curation import CurationManifest, OutputShard, RuleTally, StageTally, Tally
from assay.schemas.dedup import DedupManifest
from assay.schemas.errors import AssayError
from assay.schemas.parameters import CurateParameters
from assay.schemas.statistics import merge
from assay.schemas.store import ShardCommit, StoredObject
from assay.workers.curate_job import CurateJob
from assay.workers.curating import CONTROL, ShardCurator, output_schema
from assay.workers.dedup.copies import CopyLists
from assay.workers.dedup.selection import KeptByRules
from assay.workers.feature_table import parquet_bytes
from assay.workers.in_order import in_order
from assay.workers.pool import PoolOptions, WorkPool
from assay.workers.ranking import HashCache
from assay.workers.session import ray_session
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore
from assay.workers.survey_total import SurveyTotal
from assay.workers.surveying import OutputPlanner, Surveyor, find_stages
from assay.workers.takedown import listed_ids


class Preview(NamedTuple):
    """What a recipe does, before anything is written."""

    job: CurateJob
    prepared: Prepared
    rows_in: int
    rows_quarantined: int
    kept: Tally
    written: Tally
    dropped: Tally
    undecided: int
    by_stage: dict[str, Tally]
    """what takedown, sample and mixture drop"""
    rules: tuple[RuleTally, ...]
    search: str
    """fingerprint of the search that `copies` come from"""
    copies: tuple[StageTally, ...]
    """what the search for copies drops; empty if it wasn't done yet"""
    statistics: dict[str, pa.Table]
    """kept, dropped, and repeated where documents are"""
    shards: tuple[OutputShard, ...]


class CurateReport(NamedTuple):
    """What a curation did."""

    manifest: CurationManifest
    path: str
    written: int
    """output shards written by this run"""
    seconds: float


@task(name="survey", persist_result=False)
def survey(parameters: CurateParameters, statistics: bool = True) -> Preview:
    """Applies the recipe to every tagged shard, reading tags only; lays out the output shards.

    Of copies it knows what an earlier search found; while there is none, nothing is dropped as a copy.
    """
    prepared = prepare(parameters)
    job, shards = with_takedown(prepared), prepared.shards
    if prepared.search is not None and (result := finished(prepared.search)) is not None:
        job = job._replace(copies=CopyLists.of(prepared.search.job.output, result))
    units = [unit for unit in shards if not unit.entry.unreadable]
    hashes = HashCache()
    job = find_stages(job, units, hashes)
    surveyor, planner, total = Surveyor(job, hashes, statistics=statistics), OutputPlanner(job.recipe), SurveyTotal(job)
    for unit, found in zip(units, in_order(partial(surveyor.process, attempt="survey"), units), strict=True):
        planner.add(unit, found)
        total.add(found)
    quarantined = sum(unit.entry.rows_quarantined for unit in shards)
    rows_in = sum(unit.entry.rows_in for unit in shards)
    dropped = sum(total.dropped, Tally())
    if rows_in != total.kept.documents + dropped.documents + quarantined:
        raise AssayError(
            f"{rows_in} rows in, but kept {total.kept.documents} + dropped {dropped.documents} "
            f"+ quarantined {quarantined}",
            where=parameters.where,
            hint="a tags shard doesn't match its manifest; this is a defect, nothing was written",
        )
    return Preview(
        job=job._replace(stages=total.stages()),
        prepared=prepared,
        rows_in=rows_in,
        rows_quarantined=quarantined,
        kept=total.kept,
        written=total.written,
        dropped=dropped,
        undecided=total.undecided,
        by_stage=total.by_stage(),
        rules=total.rules(),
        search=prepared.search.job.fingerprint if prepared.search is not None and job.copies is not None else "",
        copies=total.copies(),
        statistics=total.statistics(),
        shards=tuple(planner.finish()),
    )


@task(name="claim output", persist_result=False)
def claim_output(prepared: Prepared) -> None:
    """Marks the output folder as this recipe's; AssayError, which no retry mends, if it's another's."""
    job = prepared.job
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
            hint="datasets are never overwritten: set output.path to a new folder"
            if prepared.chain is None
            else "its writing was broken off and the sources have changed since: delete this folder, which has no "
            "manifest, and run again",
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
    entries = tuple(m.shards for m in preview.prepared.manifests)
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
    written = sum(commit.rows_kept + commit.rows_repeated for commit in commits)
    if written != preview.written.documents:
        raise AssayError(
            f"{written} documents were written, {preview.written.documents} were to be",
            where=job.recipe.output.path,
            hint="this is a defect; the dataset has no manifest and should not be used",
        )
    statistics = {
        name: output.create_named(
            f"{CONTROL}/statistics", name, ".parquet", parquet_bytes(table), table.num_rows, attempt=attempt
        )
        for name, table in preview.statistics.items()
    }
    parts = tuple(commit.objects["data"] for commit in commits)
    takedown, version = seal_version(preview.prepared, parts, preview.by_stage["takedown"], preview.written, attempt)
    manifest = CurationManifest(
        fingerprint=job.fingerprint,
        assay_version=assay_version(),
        recipe=job.recipe,
        sources=preview.prepared.lineage,
        columns={field.name: str(field.type) for field in output_schema(job)},
        rows_in=preview.rows_in,
        kept=preview.kept,
        dropped=preview.dropped,
        rows_quarantined=preview.rows_quarantined,
        repeated=preview.written - preview.kept,
        undecided=preview.undecided,
        rules=preview.rules,
        search=preview.search,
        copies=preview.copies,
        stages=job.stages,
        thresholds=job.thresholds,
        statistics=statistics,
        shards=parts,
        dropped_shards=tuple(_dropped(commits)),
        takedown=takedown,
        version=version,
    )
    output.create("README.md", dataset_card(manifest, written_statistics(preview)).encode(), attempt=attempt)
    output.create("manifest.json", record_json(manifest), attempt=attempt)
    return CurationManifest.model_validate_json(output.read("manifest.json"))


@flow(name="curate", flow_run_name="curate {parameters.recipe.name}", validate_parameters=True, persist_result=False)
def curate(parameters: CurateParameters) -> CurateReport:
    """Makes a curated dataset from tagged corpora; run again, it does only what is missing."""
    started = time.monotonic()
    prepared = prepare(parameters)
    if prepared.chain is not None and prepared.nothing_new:
        last = prepared.chain.versions[-1].manifest
        return CurateReport(last, last.recipe.output.path, 0, time.monotonic() - started)
    step(claim_output)(prepared)
    if prepared.search is not None:
        _search(prepared, parameters)
    preview: Preview = step(survey)(parameters)
    written = step(write_dataset)(parameters, preview)
    manifest = step(seal_dataset)(preview)
    report = CurateReport(manifest, manifest.recipe.output.path, written, time.monotonic() - started)
    if in_flow_run():
        create_markdown_artifact(markdown_list(curation_lines(report)), key="curation-summary")
    return report


@flow(name="search", flow_run_name="search {parameters.recipe.name}", validate_parameters=True, persist_result=False)
def search_copies(parameters: CurateParameters) -> SearchReport:
    """Finds the copies that a recipe asks for, where its curation looks for them; AssayError if it asks for none."""
    started = time.monotonic()
    prepared = prepare(parameters)
    if prepared.search is None:
        raise AssayError(
            "the recipe asks for no search", where=parameters.where, hint="add dedup: or decontaminate: to it"
        )
    step(claim_output)(prepared)
    manifest, signed = _search(prepared, parameters)
    return SearchReport(manifest, prepared.search.job.output, signed, time.monotonic() - started)


def with_takedown(prepared: Prepared) -> CurateJob:
    """The job with the ids that are taken down; texts are read where the list has hashes."""
    job, units = prepared.job, [unit for unit in prepared.shards if not unit.entry.unreadable]
    return job._replace(taken_down=listed_ids(job, units, prepared.listed)) if prepared.listed else job


def _search(prepared: Prepared, parameters: CurateParameters) -> tuple[DedupManifest, int]:
    """Runs what is missing of the search: what is taken down is not compared, so that nothing goes for it."""
    assert prepared.search is not None  # noqa: S101 - the callers asked
    job = prepared.search.job._replace(select=KeptByRules(with_takedown(prepared)))
    return search(prepared.search._replace(job=job), parameters.workers, parameters.ray_address)


def written_statistics(preview: Preview) -> pa.Table:
    """Of what is in the dataset, copies counted."""
    return merge([table for name, table in preview.statistics.items() if name != "dropped"])


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
    if m.version:
        lines.append(
            f"version {m.version.number}: {m.version.rows:,} rows and {m.version.tokens:,} tokens in all, "
            f"in {len(m.version.parts):,} parts"
        )
    if m.takedown:
        lines.append(
            f"takedown: {m.takedown.entries:,} entries kept out {m.takedown.new_documents:,} new documents and took "
            f"{m.takedown.removed_rows:,} rows out of {m.takedown.rewritten_parts:,} earlier parts"
        )
    if unreadable := unreadable_shards(m):
        lines.append(f"{unreadable:,} input shards could not be read when they were tagged: nothing of them is in it")
    if not m.kept.documents:
        lines.append("the recipe kept nothing")
    if m.repeated.documents:
        lines.append(
            f"written {m.kept.documents + m.repeated.documents:,} = kept + {m.repeated.documents:,} repeats, "
            f"{m.kept.tokens + m.repeated.tokens:,} tokens"
        )
    lines += [f"  {rule.name}: dropped {rule.dropped.documents:,} ({rule.alone:,} alone)" for rule in m.rules]
    lines += [f"  {stage.name}: dropped {stage.dropped.documents:,}" for stage in (*m.copies, *m.stages)]
    if m.undecided:
        lines.append(f"{m.undecided:,} kept documents have a rule that could not be decided")
    return lines


def unreadable_shards(manifest: CurationManifest) -> int:
    """Input shards whose rows are not known and not counted anywhere."""
    return sum(source.unreadable_shards for source in manifest.sources)


def _dropped(commits: list[ShardCommit]) -> Iterator[StoredObject]:
    for commit in commits:
        if "dropped" in commit.objects:
            yield commit.objects["dropped"]
