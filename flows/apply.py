"""Applies taggers to a tagged store: no model and no corpus, and the run that tagging with them would write."""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from assay.flows.progress import duration
from assay.flows.status import undecided_lines
from assay.flows.work import Placement, work_through
from assay.schemas.base import fingerprint
from assay.schemas.parameters import ApplyParameters
from assay.schemas.store import RunRecord, TagManifest, features_prefix, tags_prefix
from assay.schemas.tagger import load_taggers
from assay.workers.applying import ApplyJob, ShardApplier, missing_features
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import begin_run, list_runs, load_manifest, read_identity, read_plan, seal
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
    begin_run(store, record, corpus, taggers)
    commits = work_through(
        "applying",
        corpus,
        CommitLog(store, tags_prefix(tagset)),
        partial(ShardApplier, job),
        Placement(parameters.workers or 1, parameters.ray_address),
        lambda commit: (commit.rows_kept, commit.tokens),
    )
    manifest = seal(store, record, corpus, tagger_set.columns)
    documents = sum(commit.rows_kept for commit in commits)
    seconds = time.monotonic() - started
    return ApplyReport(manifest, parameters.store, len(corpus.shards) - len(commits), documents, seconds)


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
