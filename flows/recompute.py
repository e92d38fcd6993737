"""Decides with the model what a run left undecided, as a new run over the same features."""

import time
from functools import partial
from typing import NamedTuple

from assay.flows.progress import duration
from assay.flows.work import Placement, work_through
from assay.schemas.base import fingerprint
from assay.schemas.errors import AssayError
from assay.schemas.parameters import RecomputeParameters
from assay.schemas.store import RunRecord, ShardCommit, TagManifest, tags_prefix
from assay.workers.recomputing import RecomputeJob, ShardRecomputer
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import begin_run, load_manifest, read_identity, read_plan, read_taggers, seal


class RecomputeReport(NamedTuple):
    """What recomputing did."""

    base: TagManifest
    manifest: TagManifest
    """the base itself where nothing was undecided"""
    store: str
    skipped: int
    """shards that were done before"""
    seconds: float


def recompute(parameters: RecomputeParameters) -> RecomputeReport:
    """Runs the model on the documents that a finished run left undecided; afterwards none is.

    Writes a new run whose tags are the run's, those documents' excepted. Run again, it does only what is missing.
    AssayError if the scope is another one here than when the features were made.
    """
    from assay.flows.scopes import require_device
    from assay.sae_runtime.scope_files import identify

    started = time.monotonic()
    store = ObjectStore(parameters.store)
    base = load_manifest(store, parameters.run)
    if not base.undecided:
        return RecomputeReport(base, base, parameters.store, len(base.shards), time.monotonic() - started)
    corpus, scope = read_plan(store, base.run), read_identity(store, base.features).scope
    device = require_device(parameters.device)
    encoder = fingerprint(identify(scope, device))
    if encoder != base.encoder:
        raise AssayError(
            f"scope {scope.name!r} has changed: encoder {encoder}, the run used {base.encoder}",
            where=parameters.store,
            hint="use the same weights, device and version as the run",
        )
    taggers = read_taggers(store, base.tagset)
    tagset = fingerprint([base.tagset, "recomputed"])
    record = RunRecord(
        run=fingerprint([corpus.id, tagset]),
        corpus=corpus.corpus,
        scope=scope.name,
        plan=corpus.id,
        encoder=base.encoder,
        features=base.features,
        tagset=tagset,
    )
    begin_run(store, record, corpus, taggers)
    workers = parameters.workers or 1
    threads = parameters.threads or (1 if workers > 1 else None)
    job = RecomputeJob(
        parameters.store, corpus.options, scope, taggers, base.tagset, tagset, device=device, threads=threads
    )
    commits = work_through(
        "recomputing",
        corpus,
        CommitLog(store, tags_prefix(tagset)),
        partial(ShardRecomputer, job),
        Placement(workers, parameters.ray_address, threads or 1, int(device.startswith("cuda"))),
        lambda commit: (_documents(commit), commit.recomputed_tokens),
    )
    manifest = seal(store, record, corpus, base.taggers, recomputed_from=base.run)
    seconds = time.monotonic() - started
    return RecomputeReport(base, manifest, parameters.store, len(corpus.shards) - len(commits), seconds)


def recompute_lines(report: RecomputeReport) -> list[str]:
    """What was done, in plain lines."""
    again = report.manifest.recomputed
    if again is None:
        return [f"run {report.base.run} · store {report.store}", "nothing is undecided: there is nothing to recompute"]
    was = ", ".join(f"{name} {n:,}" for name, n in report.base.undecided.items())
    return [
        f"run {report.manifest.run} · store {report.store}",
        f"shards: {len(report.manifest.shards):,} ({report.skipped:,} done before) in {duration(report.seconds)}",
        f"undecided in run {report.base.run}: {was}",
        f"the model ran on {again.documents:,} of {report.manifest.rows_kept:,} documents, {again.tokens:,} of "
        f"{report.manifest.tokens:,} tokens; undecided now: {sum(report.manifest.undecided.values()):,}",
    ]


def _documents(commit: ShardCommit) -> int:
    stored = commit.objects.get("recomputed")
    return stored.rows if stored else 0
