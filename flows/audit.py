"""Audits a tagger on a tagged corpus: what its tag goes with, off stored tags and features; and identity terms."""

import json
import os.path
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath

import pyarrow as pa

from assay.flows.progress import shard_progress
from assay.flows.report import read_taggers
from assay.flows.scopes import CONFIGS, weights_are_here
from assay.flows.stores import load_manifest
from assay.schemas.audit import AuditReport, IdentityAudit, IdentityTerms
from assay.schemas.errors import AssayError, unknown_name
from assay.schemas.scope import Scope
from assay.schemas.store import ShardEntry, TagManifest, features_prefix
from assay.schemas.tagger import Tagger
from assay.schemas.yaml_file import load_yaml
from assay.taggers.audit import audit_findings
from assay.taggers.audit_sums import LENGTH, AuditSums, Chunk
from assay.taggers.audit_words import in_words
from assay.taggers.feature_values import FeatureValues, ValueReader
from assay.taggers.identity import identity_audit
from assay.workers.corpora.reading import Cursors
from assay.workers.corpora.rows import read_rows
from assay.workers.curating import load_tags, source_shard
from assay.workers.feature_table import features_table, iter_parquet
from assay.workers.storage.filesystem import public
from assay.workers.storage.objects import ObjectStore

INPUT, FORMAT = "input", "file format"
IDENTITY_TERMS = CONFIGS / "audit" / "identity_terms.yaml"
_VALUE_CHARACTERS = 80


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
    for column in by:
        if column not in manifest.columns:
            raise unknown_name("column of the corpus", column, manifest.columns, where=f"--by {column}")
    tagger = taggers[name]
    found = audit_findings(_sums(store, manifest, tagger, by))
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


def input_names(uris: Sequence[str]) -> dict[str, str]:
    """What the audit calls each object: its folder below the common one; of one folder its name."""
    paths = {uri: PurePosixPath(public(uri)) for uri in uris}
    parents = {path.parent for path in paths.values()}
    if len(parents) < 2:
        return {uri: path.name for uri, path in paths.items()}
    common = PurePosixPath(os.path.commonpath(parents))
    return {uri: str(path.parent.relative_to(common)) for uri, path in paths.items()}


def _sums(
    store: ObjectStore,
    manifest: TagManifest,
    tagger: Tagger,
    by: Sequence[str],
) -> AuditSums:
    """The sums of the whole run: each shard's own, added up in the manifest's order."""
    tags = [t.name for t in manifest.taggers if t.kind == "label" and t.name != tagger.name]
    taken = {*tags, INPUT, FORMAT, LENGTH}
    columns = {(column if column not in taken else f"column {column}"): column for column in by}
    dimensions = [*tags, INPUT, FORMAT, *columns]
    inputs = input_names([entry.source.uri for entry in manifest.shards if entry.source])
    values, whole = ValueReader(tagger), AuditSums(tagger, dimensions)
    readable = [entry for entry in manifest.shards if not entry.unreadable]
    size = len(readable)
    with (
        closing(Cursors()) as cursors,
        shard_progress("auditing", shards=size, done=0, total_bytes=size, done_bytes=0) as progress,
    ):
        for entry in readable:
            sums = AuditSums(tagger, dimensions)
            for chunk in _chunks(store, manifest, tagger, entry, values, inputs, columns, cursors):
                sums.add(chunk)
            whole.merge(sums)
            progress.advance(size=1, documents=entry.rows_kept, tokens=entry.tokens)
    return whole


def _chunks(
    store: ObjectStore,
    manifest: TagManifest,
    tagger: Tagger,
    entry: ShardEntry,
    values: ValueReader,
    inputs: dict[str, str],
    columns: dict[str, str],
    cursors: Cursors,
) -> Iterator[Chunk]:
    assert entry.source is not None  # noqa: S101 - a tagging run's entries all have one
    tags = load_tags(store, entry)
    given = {name: _source_column(manifest, entry, tags, column, cursors) for name, column in columns.items()}
    features = pa.BufferReader(store.read_verified(entry.objects["features"]))
    at = 0
    for table in iter_parquet(features, ["row", *values.columns]):
        part = tags.slice(at, table.num_rows)
        if not part["row"].equals(table["row"]):
            raise AssayError(f"tags and features of shard {entry.shard} name other rows", where=store.root)
        groups = {name: part[name].combine_chunks() for name in tags.column_names if _is_label(manifest, tagger, name)}
        groups |= {column: whole.slice(at, table.num_rows) for column, whole in given.items()}
        groups[INPUT] = pa.repeat(pa.scalar(inputs[entry.source.uri]), table.num_rows)
        groups[FORMAT] = pa.repeat(pa.scalar(entry.source.format), table.num_rows)
        tag = part[tagger.name].combine_chunks()
        yield Chunk(tag, part["n_tokens"].to_numpy(), groups, values.read(table))
        at += table.num_rows
    if at != tags.num_rows:
        raise AssayError(f"shard {entry.shard} has {tags.num_rows} tags for {at} features", where=store.root)


def _is_label(manifest: TagManifest, tagger: Tagger, name: str) -> bool:
    return any(t.name == name and t.kind == "label" and name != tagger.name for t in manifest.taggers)


def _source_column(manifest: TagManifest, entry: ShardEntry, tags: pa.Table, column: str, cursors: Cursors) -> pa.Array:
    """A column of the shard's documents as text, cut to a length that a report can show."""
    rows, types = tags["row"].to_pylist(), {column: manifest.columns[column]}
    tables = read_rows(source_shard(entry), manifest.options, rows, types, cursors)
    values = (value for table in tables for value in table[column].to_pylist())
    return pa.array([None if v is None else str(v)[:_VALUE_CHARACTERS] for v in values], pa.string())


def _identity(
    store: ObjectStore, manifest: TagManifest, tagger: Tagger, wanted: bool | None, terms: Path, device: str | None
) -> tuple[IdentityAudit | None, list[str]]:
    """The identity terms' audit, or why there is none."""
    if wanted is False:
        return None, []
    if tagger.rule == "dense":
        return None, ["Identity terms weren't tried: a dense probe has no features that could be blamed."]
    identity = json.loads(store.read(f"{features_prefix(manifest.features)}/identity.json"))
    scope = Scope.model_validate(identity["scope"])
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
