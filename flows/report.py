"""Gathers a finished run's or a curated dataset's numbers into a report."""

from collections.abc import Sequence

import pyarrow as pa

from assay.dashboard.report import Report, RuleLine, TaggerLine, Totals
from assay.schemas.composition import Composition
from assay.schemas.curation import CurationManifest, Tally
from assay.schemas.statistics import TagColumn
from assay.schemas.store import StoredObject, TagManifest
from assay.schemas.tagger import Tagger
from assay.workers.feature_table import iter_parquet
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import load_manifest, read_taggers


def build_report(uri: str, run: str | None = None) -> Report:
    """The report of the store or curated dataset at `uri`; AssayError if it's neither, or not finished."""
    store = ObjectStore(uri)
    if store.exists("manifest.json"):
        return _of_dataset(store, CurationManifest.model_validate_json(store.read("manifest.json")))
    return _of_run(store, load_manifest(store, run))


def _of_run(store: ObjectStore, manifest: TagManifest) -> Report:
    notes = []
    if manifest.unreadable_shards:
        notes.append(f"{manifest.unreadable_shards} shards could not be read; their rows are not counted anywhere.")
    return Report(
        title="Composition of a tagged corpus",
        subject=f"{manifest.rows_in:,} rows in {len(manifest.shards):,} shards, tagged by SAE features",
        corpus=manifest.corpus,
        fingerprints={
            "run": manifest.run,
            "encoder": manifest.encoder,
            "features": manifest.features,
            "tag set": manifest.tagset,
        },
        taggers=tagger_lines(read_taggers(store, manifest.tagset)),
        totals=Totals(
            rows_in=manifest.rows_in,
            rows_kept=manifest.rows_kept,
            rows_quarantined=manifest.rows_quarantined,
            tokens=manifest.tokens,
        ),
        quarantine_reasons=manifest.quarantine_reasons,
        composition=_composition(store, manifest.statistics, manifest.taggers),
        notes=tuple(notes),
    )


def _of_dataset(output: ObjectStore, manifest: CurationManifest) -> Report:
    source = manifest.recipe.sources[0]
    tagging = load_manifest(ObjectStore(source.store), manifest.sources[0].run)
    reasons: dict[str, int] = {}
    for given, lineage in zip(manifest.recipe.sources, manifest.sources, strict=True):
        for reason, n in load_manifest(ObjectStore(given.store), lineage.run).quarantine_reasons.items():
            reasons[reason] = reasons.get(reason, 0) + n
    return Report(
        title=f"Curated dataset {manifest.recipe.name}",
        subject=manifest.recipe.description or "what the recipe kept and dropped",
        corpus=", ".join(lineage.corpus for lineage in manifest.sources),
        fingerprints={
            "curation": manifest.fingerprint,
            "encoder": tagging.encoder,
            "tag set": tagging.tagset,
            "assay": manifest.assay_version,
        },
        taggers=tagger_lines(read_taggers(ObjectStore(source.store), tagging.tagset)),
        totals=Totals(
            rows_in=manifest.rows_in,
            rows_kept=manifest.kept.documents,
            rows_dropped=manifest.dropped.documents,
            rows_quarantined=manifest.rows_quarantined,
            tokens=manifest.kept.tokens,
        ),
        quarantine_reasons=reasons,
        composition=_composition(output, manifest.statistics["kept"], tagging.taggers),
        dropped=_composition(output, manifest.statistics["dropped"], tagging.taggers),
        rules=tuple(
            RuleLine(name=r.name, dropped=r.dropped.documents, tokens=r.dropped.tokens, failed=r.alone)
            for r in manifest.rules
        )
        + tuple(
            RuleLine(name=s.name, dropped=s.dropped.documents, tokens=s.dropped.tokens, failed=s.dropped.documents)
            for s in manifest.stages
        )
        + _takedown_line(manifest),
    )


def _takedown_line(manifest: CurationManifest) -> tuple[RuleLine, ...]:
    """What the takedown list kept out, where the recipe has one: what rules and stages didn't drop."""
    if manifest.takedown is None:
        return ()
    others = sum([r.dropped for r in manifest.rules] + [s.dropped for s in manifest.stages], Tally())
    gone = manifest.dropped - others
    return (RuleLine(name="takedown", dropped=gone.documents, tokens=gone.tokens, failed=gone.documents),)


def tagger_lines(taggers: Sequence[Tagger]) -> tuple[TaggerLine, ...]:
    """The taggers as a report names them, with their held-out figures."""
    return tuple(
        TaggerLine(
            name=t.name,
            axis=t.axis,
            kind=t.kind,
            version=str(t.version),
            held_out={measure: figure.value for measure, figure in t.evidence.test.items()} if t.evidence else {},
            note=t.evidence.summary if t.evidence else "",
        )
        for t in taggers
    )


def _composition(store: ObjectStore, stored: StoredObject, columns: Sequence[TagColumn]) -> Composition:
    table = pa.concat_tables(iter_parquet(pa.BufferReader(store.read_verified(stored))))
    return Composition.of(table, columns)
