"""diff: what sets one tagged corpus or curated dataset apart from another, by statistics and stored features."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.flows.decided import Curation
from assay.schemas.drift import DriftReport, DriftSide, FeatureDrift
from assay.schemas.errors import AssayError
from assay.schemas.statistics import TagColumn, dimensions, merge
from assay.schemas.store import ShardEntry, StoredObject, TagManifest
from assay.schemas.tagger import Tagger
from assay.workers.comparison import compare
from assay.workers.curate_job import TaggedShard
from assay.workers.feature_drift import Readers, layer_drift
from assay.workers.feature_shares import count_features, sampled_shards
from assay.workers.feature_table import iter_parquet
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import Identity, load_manifest, read_identity, read_taggers

TOP_FEATURES = 10
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


class Subject(NamedTuple):
    """One side of the comparison, with all that is needed to read it."""

    side: DriftSide
    statistics: pa.Table
    stores: tuple[ObjectStore, ...]
    """of the tagging runs behind it; one for a run"""
    runs: tuple[TagManifest, ...]
    units: list[TaggedShard]
    taggers: tuple[Tagger, ...]
    curation: Curation | None
    """of a curated dataset"""

    @property
    def columns(self) -> tuple[TagColumn, ...]:
        return self.runs[0].taggers

    @property
    def identity(self) -> Identity:
        return read_identity(self.stores[0], self.runs[0].features)


def open_subject(uri: str, run: str | None = None) -> Subject:
    """The run of a store or the curated dataset at `uri`; AssayError if it's neither, unfinished or empty."""
    store = ObjectStore(uri)
    subject = _dataset(Curation(uri)) if store.exists("manifest.json") else _run(uri, store, load_manifest(store, run))
    if not subject.side.documents:
        raise AssayError("there is no document in it to compare", where=uri, hint="assay status shows what was read")
    return subject


def _run(uri: str, store: ObjectStore, manifest: TagManifest) -> Subject:
    return Subject(
        DriftSide(
            uri=uri,
            kind="run",
            name=manifest.run,
            corpus=manifest.corpus,
            encoder=manifest.encoder,
            tagset=manifest.tagset,
            documents=manifest.rows_kept,
            tokens=manifest.tokens,
        ),
        read_table(store, manifest.statistics),
        (store,),
        (manifest,),
        [TaggedShard(0, index, entry) for index, entry in enumerate(manifest.shards) if not entry.unreadable],
        tuple(read_taggers(store, manifest.tagset)),
        None,
    )


def _dataset(curation: Curation) -> Subject:
    manifest, first = curation.manifest, curation.runs[0]
    written = manifest.kept + manifest.repeated
    side = DriftSide(
        uri=curation.uri,
        kind="dataset",
        name=manifest.recipe.name,
        corpus=", ".join(lineage.corpus for lineage in manifest.sources),
        encoder=first.encoder,
        tagset=first.tagset,
        documents=written.documents,
        tokens=written.tokens,
    )
    parts = [read_table(curation.store, o) for name, o in manifest.statistics.items() if name in ("kept", "repeated")]
    return Subject(side, merge(parts), curation.stores, curation.runs, curation.units, curation.taggers, curation)


def read_table(store: ObjectStore, stored: StoredObject) -> pa.Table:
    """A stored table, whole and verified."""
    return pa.concat_tables(iter_parquet(pa.BufferReader(store.read_verified(stored))))


def diff(
    a: Subject, b: Subject, *, max_drift: float | None = None, common: bool = False, feature_documents: int = 100_000
) -> DriftReport:
    """What drifted from `a` to `b`; features of some `feature_documents` documents a side, none at 0.

    Subjects with different tag sets are an AssayError, which says what they have in common; with `common` that alone is
    compared. Nothing is written.
    """
    columns, lengths = _comparable(a, b, common=common)
    notes = [*_nested(a, b)]
    if common and len(columns) < max(len(a.columns), len(b.columns)):
        left_out = sorted({c.name for c in (*a.columns, *b.columns)} - {c.name for c in columns})
        notes.append(f"not compared, since it isn't the same tagger on both sides: {', '.join(left_out)}")
    features = None
    if not feature_documents:
        notes.append("features were not compared, as asked")
    elif a.runs[0].features != b.runs[0].features:
        notes.append(
            "features were not compared: they are stored by another encoder, top_m or list of watched features"
        )
    else:
        features = _features(a, b, feature_documents)
    return DriftReport(
        a=a.side,
        b=b.side,
        max_drift=max_drift,
        metrics=compare(a.statistics, b.statistics, columns, lengths=lengths),
        features=features,
        notes=tuple(notes),
    )


def _comparable(a: Subject, b: Subject, *, common: bool) -> tuple[tuple[TagColumn, ...], bool]:
    if a.side.tagset == b.side.tagset:
        return a.columns, True
    theirs = {tagger.name: tagger.fingerprint for tagger in b.taggers}
    same = {tagger.name for tagger in a.taggers if theirs.get(tagger.name) == tagger.fingerprint}
    split_a, split_b = dimensions(a.columns), dimensions(b.columns)
    # A label that splits one side's statistics is a metric of its own on the other: the tables don't match there.
    moved = {c.name for c in (*split_a, *split_b) if c and (c in split_a) != (c in split_b)}
    columns = tuple(column for column in a.columns if column.name in same - moved)
    lengths = _tokenizer(a) == _tokenizer(b)
    shared = [*(["lengths"] if lengths else []), *(column.name for column in columns)]
    if common and shared:
        return columns, lengths
    what = "encoders" if a.side.encoder != b.side.encoder else "taggers"
    advice = "tag both with one scope and one set of taggers"
    raise AssayError(
        f"A and B were tagged by different {what} (tag sets {a.side.tagset} and {b.side.tagset})",
        where=f"{a.side.uri}, {b.side.uri}",
        hint=f"{advice}; or compare what both have in common ({', '.join(shared)}) with --common"
        if shared
        else f"they have nothing in common, not even the tokenizer: {advice}",
    )


def _tokenizer(subject: Subject) -> dict[str, str]:
    return {name: digest for name, digest in subject.identity.encoder.files.items() if name in _TOKENIZER_FILES}


def _nested(a: Subject, b: Subject) -> Iterator[str]:
    runs_a, runs_b = ({manifest.run for manifest in subject.runs} for subject in (a, b))
    if runs_a & runs_b:
        yield (
            "A and B share documents, since they come from the same tagging run. What chance would give is stated for "
            "corpora drawn apart, so here it is rather less"
        )
    for name, subject in (("A", a), ("B", b)):
        version = subject.curation.manifest.version if subject.curation else None
        if version is not None:
            yield f"{name} is what version {version.number} adds; the versions before it are not counted"
        if subject.curation and subject.curation.manifest.repeated.documents:
            yield f"{name} holds documents more than once: what chance would give is rather more than stated"


def _features(a: Subject, b: Subject, documents: int) -> FeatureDrift:
    identity = a.identity
    counts, shards, in_all = [], [], []
    for subject in (a, b):
        tagged = sum(unit.entry.rows_kept for unit in subject.units)
        chosen = sampled_shards(subject.units, documents * tagged // subject.side.documents)
        counts.append(count_features(_copied(subject, chosen), identity.encoder.layers, identity.encoder.d_sae))
        shards.append(len(chosen))
        in_all.append(sum(1 for unit in subject.units if unit.entry.rows_kept))
    held = [next(iter(side.values())).documents for side in counts]
    layers = layer_drift(
        counts[0],
        counts[1],
        shards_in_all=(in_all[0], in_all[1]),
        watched=identity.watched,
        readers=tagger_notes(a.taggers),
        top=TOP_FEATURES,
    )
    return FeatureDrift(
        documents=(held[0], held[1]),
        shards=(shards[0], shards[1]),
        shards_in_all=(in_all[0], in_all[1]),
        layers=layers if all(held) else (),
    )


def _copied(
    subject: Subject, chosen: Sequence[TaggedShard]
) -> Iterator[tuple[ObjectStore, ShardEntry, NDArray[np.int32] | None]]:
    for unit in chosen:
        copies = subject.curation.decide(unit).copies if subject.curation else None
        yield subject.stores[unit.source], unit.entry, copies


def tagger_notes(taggers: Sequence[Tagger]) -> dict[tuple[int, int], Readers]:
    """(layer, feature) -> the taggers that use it, and on which tokens they say that it fires."""
    found: dict[tuple[int, int], Readers] = {}
    for tagger in taggers:
        for weight in tagger.features:
            known = found.get((weight.layer, weight.feature), Readers())
            found[weight.layer, weight.feature] = Readers((*known.taggers, tagger.name), known.tokens or weight.tokens)
    return found
