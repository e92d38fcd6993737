"""Audits a tagger on a tagged corpus: what its tag goes with, off stored tags and features; and identity terms."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from assay.flows.audit_run import TaggedRun
from assay.flows.progress import shard_progress
from assay.flows.scopes import CONFIGS, weights_are_here
from assay.schemas.audit import AuditReport, IdentityAudit, IdentityTerms
from assay.schemas.errors import AssayError, unknown_name
from assay.schemas.store import TagManifest
from assay.schemas.tagger import Tagger
from assay.schemas.yaml_file import load_yaml
from assay.taggers.audit import audit_findings
from assay.taggers.audit_sums import AuditSums
from assay.taggers.audit_words import in_words
from assay.taggers.feature_values import FeatureValues, ValueReader
from assay.taggers.identity import identity_audit
from assay.workers.corpora.reading import Cursors
from assay.workers.feature_table import features_table
from assay.workers.storage.filesystem import public
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import load_manifest, read_identity, read_taggers

IDENTITY_TERMS = CONFIGS / "audit" / "identity_terms.yaml"


def audit_tagger(
    store_uri: str,
    name: str,
    *,
    run: str | None = None,
    by: Sequence[str] = (),
    identity: bool | None = None,
    terms: Path = IDENTITY_TERMS,
    device: str | None = None,
) -> AuditReport:
    """The audit of the tagger called `name` on a finished run; `by` adds columns of the corpus to what is looked at.

    Needs no model but for `identity`, which None does only where the scope's weights are on this machine. Memory
    follows a shard and the number of groups.
    """
    store = ObjectStore(store_uri)
    manifest = load_manifest(store, run)
    taggers = {t.name: t for t in read_taggers(store, manifest.tagset)}
    if name not in taggers:
        raise unknown_name("tagger", name, taggers, where=f"{store_uri}, run {manifest.run}")
    tagger = taggers[name]
    found = audit_findings(_sums(TaggedRun(store, manifest, tagger, by)))
    if found.documents and found.undecided == found.documents:
        raise AssayError(
            f"all {found.documents:,} documents are undecided by {name!r}, so there is nothing to audit",
            where=f"{store_uri}, run {manifest.run}",
            hint=f"assay recompute {store_uri} --run {manifest.run} decides them",
        )
    looked, notes = _identity(store, manifest, tagger, identity, terms, device)
    findings, flagged = in_words(tagger, found, looked)
    return AuditReport(
        tagger=tagger.name,
        version=tagger.version,
        axis=tagger.axis,
        kind=tagger.kind,
        fingerprint=tagger.fingerprint,
        encoder=tagger.encoder,
        threshold=tagger.threshold,
        store=public(store.root),
        run=manifest.run,
        corpus=manifest.corpus,
        documents=found.documents,
        undecided=found.undecided,
        findings=findings,
        flagged=flagged,
        dimensions=found.dimensions,
        length=found.length,
        identity=looked,
        notes=(*_notes(manifest, tagger, by), *notes),
    )


def _sums(run: TaggedRun) -> AuditSums:
    """The sums of the whole run: each shard's own, added up in the manifest's order."""
    readable = [entry for entry in run.manifest.shards if not entry.unreadable]
    size, whole = len(readable), AuditSums(run.tagger, run.dimensions)
    with (
        closing(Cursors()) as cursors,
        shard_progress("auditing", shards=size, done=0, total_bytes=size, done_bytes=0) as progress,
    ):
        for entry in readable:
            sums = AuditSums(run.tagger, run.dimensions)
            for chunk in run.chunks(entry, cursors):
                sums.add(chunk)
            whole.merge(sums)
            progress.advance(size=1, documents=entry.rows_kept, tokens=entry.tokens)
    return whole


def _identity(
    store: ObjectStore, manifest: TagManifest, tagger: Tagger, wanted: bool | None, terms: Path, device: str | None
) -> tuple[IdentityAudit | None, list[str]]:
    """The identity terms' audit, or why there is none."""
    if wanted is False:
        return None, []
    if tagger.rule == "dense":
        return None, ["Identity terms weren't tried: a dense probe has no features that could be blamed."]
    scope = read_identity(store, manifest.features).scope
    if wanted is None and not weights_are_here(scope):
        return None, [f"Identity terms weren't tried: the weights of {scope.backbone} aren't here (--identity)."]
    from assay.sae_runtime.runtime import Runtime

    runtime = Runtime(scope, device=device, watched=[(f.layer, f.feature) for f in tagger.features])
    if runtime.encoder_fingerprint != manifest.encoder:
        said = f"scope {scope.name!r} gives encoder {runtime.encoder_fingerprint} here, the run used {manifest.encoder}"
        if wanted is None:
            return None, [f"Identity terms weren't tried: {said}."]
        raise AssayError(said, where=store.root, hint="use the same weights, device and version as the run")
    reader = ValueReader(tagger)

    def values(texts: Sequence[str]) -> FeatureValues:
        numbers = range(len(texts))
        features = runtime.features(texts)
        return reader.read(features_table(numbers, [str(n) for n in numbers], [len(t) for t in texts], features))

    return identity_audit(tagger, load_yaml(terms, IdentityTerms), values), []


def _notes(manifest: TagManifest, tagger: Tagger, by: Sequence[str]) -> list[str]:
    notes = []
    if tagger.rule == "dense":
        notes.append("A dense probe reads the residual and no features, so there are none to blame.")
    if manifest.unreadable_shards:
        notes.append(f"{manifest.unreadable_shards} shards could not be read and are in none of this.")
    if any(t.kind == "label" and t.name != tagger.name for t in manifest.taggers):
        notes.append("Domain and language are tags themselves, and as good as their taggers.")
    left = [c for c in manifest.columns if c not in (manifest.options.text_column, manifest.options.id_column, *by)]
    if left:
        notes.append(f"Columns of the corpus that --by could add: {', '.join(left[:20])}.")
    return notes
