"""Applies taggers to a tagged store: no model and no corpus, and the run that tagging with them would write."""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from assay.flows.progress import duration, shard_progress
from assay.flows.status import undecided_lines
from assay.flows.stores import begin_run, list_runs, load_manifest, read_identity, read_plan, seal
from assay.flows.work import run_units
from assay.schemas.base import fingerprint
from assay.schemas.errors import AssayError
from assay.schemas.parameters import ApplyParameters
from assay.schemas.store import RunRecord, TagManifest, features_prefix, tags_prefix
from assay.schemas.tagger import load_taggers
from assay.workers.applying import ApplyJob, ShardApplier, missing_features
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagger_set import no_residuals


class ApplyReport(NamedTuple):
    """What applying did."""

    manifest: TagManifest
    store: str
    skipped: int
    """shards that were tagged before"""
    documents: int
    """tagged by this command"""
    seconds: float


def apply_taggers(parameters: ApplyParameters) -> ApplyReport:
    """Tags every document of a finished run from its stored features; run again, it does only what is missing.

    The run is the one that `assay tag` with these taggers would make, to the byte. AssayError if a tagger is of
    another encoder, or needs what the features don't hold.
    """
    started = time.monotonic()
    store = ObjectStore(parameters.store)
    base = base_run(store, parameters.run)
    corpus, identity = read_plan(store, base.run), read_identity(store, base.features)
    taggers = load_taggers(Path(parameters.taggers))
    if not identity.features.residuals and (dense := [t for t in taggers if t.dense]):
        raise no_residuals(dense[0])
    job = ApplyJob(parameters.store, taggers, base.encoder, base.features, identity.features.watched)
    tagger_set = job.tagger_set()
    tagset = tagger_set.fingerprint(base.features)
    record = RunRecord(
        run=fingerprint([corpus.id, tagset]),
        corpus=corpus.corpus,
        scope=identity.scope.name,
        plan=corpus.id,
        encoder=base.encoder,
        features=base.features,
        tagset=tagset,
    )
    stored = CommitLog(store, features_prefix(base.features)).committed()
    if missing := {shard.id for shard in corpus.shards} - stored:
        raise missing_features(missing, store.root)
    done = CommitLog(store, tags_prefix(tagset)).committed()
    todo = [shard for shard in corpus.shards if shard.id not in done]
    begin_run(store, record, corpus, taggers)
    documents, failed = 0, []
    sizes = {shard.id: shard.bytes for shard in corpus.shards}
    total, left = sum(sizes.values()), sum(shard.bytes for shard in todo)
    with shard_progress(
        "applying",
        shards=len(corpus.shards),
        done=len(corpus.shards) - len(todo),
        total_bytes=total,
        done_bytes=total - left,
    ) as progress:
        for unit, commit, error in run_units(
            partial(ShardApplier, job),
            todo,
            workers=min(parameters.workers or 1, max(1, len(todo))),
            ray_address=parameters.ray_address,
        ):
            if error:
                failed.append(error)
                progress.advance(size=sizes[unit.id], documents=0, tokens=0, failed=True)
                continue
            documents += commit.rows_kept
            progress.advance(size=sizes[unit.id], documents=commit.rows_kept, tokens=commit.tokens)
    if failed:
        raise AssayError(
            f"{len(failed)} of {len(corpus.shards)} shards failed: " + "; ".join(failed[:5]),
            where=parameters.store,
            hint="the others are committed; mend the cause and run the same command again",
        )
    manifest = seal(store, record, corpus, tagger_set.columns)
    seconds = time.monotonic() - started
    return ApplyReport(manifest, parameters.store, len(corpus.shards) - len(todo), documents, seconds)


def base_run(store: ObjectStore, run: str | None) -> TagManifest:
    """The finished run to start from: the one named, or any where all finished ones are of one corpus and scope."""
    if run is None:
        manifests = [load_manifest(store, name) for name, sealed in list_runs(store) if sealed]
        if manifests and len({(manifest.plan, manifest.features) for manifest in manifests}) == 1:
            return manifests[0]
    return load_manifest(store, run)


def apply_lines(report: ApplyReport) -> list[str]:
    """What was done, in plain lines that reconcile."""
    manifest = report.manifest
    rate = 60 * report.documents / report.seconds if report.seconds else 0.0
    return [
        f"run {manifest.run} · store {report.store}",
        f"shards: {len(manifest.shards):,} ({report.skipped:,} done before) · {report.documents:,} documents in "
        f"{duration(report.seconds)} ({rate:,.0f} a minute, start-up included), from stored features",
        f"rows in {manifest.rows_in:,} = kept {manifest.rows_kept:,} + dropped 0 "
        f"+ quarantined {manifest.rows_quarantined:,}",
        *undecided_lines(manifest, report.store),
    ]
