"""diff: what sets one tagged corpus or curated dataset apart from another, by statistics and stored features."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.flows.preparation import repeat_job
from assay.flows.stores import load_manifest, read_taggers
from assay.schemas.curation import CurationManifest
from assay.schemas.drift import DriftReport, FeatureDrift, Side
from assay.schemas.errors import AssayError
from assay.schemas.scope import EncoderIdentity, FeaturesIdentity
from assay.schemas.statistics import TagColumn, dimensions
from assay.schemas.store import ShardEntry, StoredObject, TagManifest, features_prefix
from assay.schemas.tagger import Tagger
from assay.workers.comparison import compare
from assay.workers.curate_job import CurateJob, TaggedShard
from assay.workers.feature_shares import Readers, count_features, layer_drift, sampled_shards
from assay.workers.feature_table import iter_parquet
from assay.workers.rules import KEPT, Decider
from assay.workers.storage.objects import ObjectStore

TOP_FEATURES = 10
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


class Subject(NamedTuple):
    """One side of the comparison, with all that is needed to read it."""

    side: Side
    statistics: pa.Table
    sources: tuple[tuple[ObjectStore, TagManifest], ...]
    """the tagging runs behind it; one for a run"""
    curation: tuple[CurateJob, list[TaggedShard]] | None
    """of a curated dataset: what decided which documents of which shards are in it"""
    taggers: tuple[Tagger, ...]

    @property
    def columns(self) -> tuple[TagColumn, ...]:
        return self.sources[0][1].taggers

    @property
    def encoder(self) -> EncoderIdentity:
        return EncoderIdentity.model_validate(self._identity()["encoder"])

    @property
    def features(self) -> FeaturesIdentity:
        return FeaturesIdentity.model_validate(self._identity()["features"])

    def _identity(self) -> dict:
        store, manifest = self.sources[0]
        return json.loads(store.read(f"{features_prefix(manifest.features)}/identity.json"))


def open_subject(uri: str, run: str | None = None) -> Subject:
    """The run of a store or the curated dataset at `uri`; AssayError if it's neither, unfinished or empty."""
    store = ObjectStore(uri)
    if store.exists("manifest.json"):
        subject = _dataset(uri, store, CurationManifest.model_validate_json(store.read("manifest.json")))
    else:
        manifest = load_manifest(store, run)
        subject = Subject(
            Side(
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
            ((store, manifest),),
            None,
            tuple(read_taggers(store, manifest.tagset)),
        )
    if not subject.side.documents:
        raise AssayError("there is no document in it to compare", where=uri, hint="assay status shows what was read")
    return subject


def _dataset(uri: str, store: ObjectStore, manifest: CurationManifest) -> Subject:
    stores = [ObjectStore(source.store) for source in manifest.recipe.sources]
    sources = tuple((s, load_manifest(s, lineage.run)) for s, lineage in zip(stores, manifest.sources, strict=True))
    first = sources[0][1]
    side = Side(
        uri=uri,
        kind="dataset",
        name=manifest.recipe.name,
        corpus=", ".join(lineage.corpus for lineage in manifest.sources),
        encoder=first.encoder,
        tagset=first.tagset,
        documents=manifest.kept.documents,
        tokens=manifest.kept.tokens,
    )
    kept = read_table(store, manifest.statistics["kept"])
    return Subject(side, kept, sources, repeat_job(manifest), tuple(read_taggers(stores[0], first.tagset)))


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
    elif a.sources[0][1].features != b.sources[0][1].features:
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
    return {name: digest for name, digest in subject.encoder.files.items() if name in _TOKENIZER_FILES}


def _nested(a: Subject, b: Subject) -> Iterator[str]:
    runs_a, runs_b = ({manifest.run for _, manifest in subject.sources} for subject in (a, b))
    if runs_a & runs_b:
        yield (
            "A and B share documents, since they come from the same tagging run. What chance would give is stated for "
            "corpora drawn apart, so here it is rather less"
        )


def _features(a: Subject, b: Subject, documents: int) -> FeatureDrift:
    encoder, identity = a.encoder, a.features
    watched: dict[int, set[int]] = {}
    for layer, feature in identity.watched:
        watched.setdefault(layer, set()).add(feature)
    counts, shards, in_all = [], [], []
    for subject in (a, b):
        chosen, available = _sample(subject, documents)
        counts.append(count_features(_masked(subject, chosen), encoder.layers, encoder.d_sae))
        shards.append(len(chosen))
        in_all.append(available)
    held = [next(iter(side.values())).documents for side in counts]
    return FeatureDrift(
        documents=(held[0], held[1]),
        shards=(shards[0], shards[1]),
        shards_in_all=(in_all[0], in_all[1]),
        layers=layer_drift(
            counts[0],
            counts[1],
            shards_in_all=(in_all[0], in_all[1]),
            watched=watched,
            readers=_readers(a.taggers),
            top=TOP_FEATURES,
        )
        if all(held)
        else (),
    )


def _sample(subject: Subject, documents: int) -> tuple[list[tuple[ObjectStore, ShardEntry]], int]:
    store_of = {entry.shard: store for store, manifest in subject.sources for entry in manifest.shards}
    entries = [entry for _, manifest in subject.sources for entry in manifest.shards]
    if subject.curation is not None:
        entries = [unit.entry for unit in subject.curation[1]]
    tagged = sum(entry.rows_kept for entry in entries)
    wanted = documents * tagged // subject.side.documents
    chosen = [(store_of[entry.shard], entry) for entry in sampled_shards(entries, wanted)]
    return chosen, sum(1 for entry in entries if not entry.unreadable and entry.rows_kept)


def _masked(
    subject: Subject, chosen: Sequence[tuple[ObjectStore, ShardEntry]]
) -> Iterator[tuple[ObjectStore, ShardEntry, NDArray[np.bool_] | None]]:
    job, units = subject.curation or (None, [])
    decider, unit_of = Decider(job) if job else None, {unit.entry.shard: unit for unit in units}
    for store, entry in chosen:
        mask = decider.decide(decider.documents(unit_of[entry.shard])).by == KEPT if decider else None
        yield store, entry, mask


def _readers(taggers: Sequence[Tagger]) -> dict[tuple[int, int], Readers]:
    found: dict[tuple[int, int], Readers] = {}
    for tagger in taggers:
        for weight in tagger.features:
            known = found.get((weight.layer, weight.feature), Readers())
            found[weight.layer, weight.feature] = Readers((*known.taggers, tagger.name), known.tokens or weight.tokens)
    return found
