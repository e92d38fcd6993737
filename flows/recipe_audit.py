"""audit-recipe: which groups of documents a curation took more than their share of, and by which rule."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.flows.diff import Subject, open_subject, tagger_notes, watched_of
from assay.schemas.curation import CurationManifest
from assay.schemas.drift import LayerDrift
from assay.schemas.errors import AssayError, inert
from assay.schemas.loss import LossReport, NearDocument, RuleThreshold
from assay.schemas.statistics import TOKENS
from assay.schemas.store import ShardEntry
from assay.workers.corpora.reading import Cursors
from assay.workers.corpora.records import BadShard
from assay.workers.corpora.rows import read_rows
from assay.workers.curating import load_tags, source_shard
from assay.workers.feature_shares import count_features, layer_drift, sampled_shards
from assay.workers.losses import KEPT, LossTally
from assay.workers.near_thresholds import Cut, Near, NearestDocuments
from assay.workers.rules import first_match
from assay.workers.storage.objects import ObjectStore

NEAREST = 3
TOP_FEATURES = 10
_EXCERPT, _READ = 160, 400


class Decided(NamedTuple):
    """A tagged shard and what the recipe does to its documents."""

    source: int
    shard: int
    entry: ShardEntry
    tags: pa.Table
    verdict: NDArray[np.int32]
    """KEPT, or the index of the rule that drops it"""


class Curation:
    """A finished dataset, whose recipe is applied once more to the tags that it was made from."""

    def __init__(self, uri: str) -> None:
        """AssayError if there is no finished dataset, or one of its source stores can't be read."""
        store = ObjectStore(uri)
        if not store.exists("manifest.json"):
            raise AssayError("no curated dataset here", where=uri, hint="`assay curate RECIPE` makes one")
        self.uri = uri
        self.manifest = CurationManifest.model_validate_json(store.read("manifest.json"))
        self.subject: Subject = open_subject(uri, empty=True)
        self.rules = tuple(rule.name for rule in self.manifest.recipe.rules)

    def shards(self) -> Iterator[tuple[int, int, ShardEntry]]:
        """Every shard that was read: index of its source, index in its manifest, entry."""
        for s, (_, manifest) in enumerate(self.subject.sources):
            for i, entry in enumerate(manifest.shards):
                if not entry.unreadable:
                    yield s, i, entry

    def decide(self, source: int, shard: int, entry: ShardEntry) -> Decided:
        """What happened to the documents of a shard."""
        tags = load_tags(self.subject.sources[source][0], entry)
        return Decided(source, shard, entry, tags, first_match(self.manifest.recipe.rules, tags))

    def tests(self) -> dict[str, tuple[str, ...]]:
        """Rule -> the metrics that it tests."""
        metrics = {"n_tokens": TOKENS, **{column.name: column.name for column in self.subject.columns}}
        return {
            rule.name: tuple(sorted({metrics[c.column] for c in rule.drop_if if c.column in metrics}))
            for rule in self.manifest.recipe.rules
        }

    def cuts(self) -> Iterator[Cut]:
        """The numbers that rules compare columns with."""
        for index, rule in enumerate(self.manifest.recipe.rules):
            for condition in rule.drop_if:
                value = condition.below if condition.below is not None else condition.above
                if value is not None:
                    yield Cut(index, condition.column, value)


def audit_recipe(uri: str, *, feature_documents: int = 100_000) -> LossReport:
    """The audit of the curated dataset at `uri`: exact for tags, lengths and sources; features by a sample of shards.

    AssayError where the tags that are there now don't give the dataset's own counts. Nothing is written.
    """
    curation = Curation(uri)
    manifest = curation.manifest
    names = [lineage.corpus for lineage in manifest.sources]
    tally = LossTally(curation.subject.columns, curation.rules, names)
    nearest = NearestDocuments(list(dict.fromkeys(curation.cuts())), NEAREST)
    for source, shard, entry in curation.shards():
        decided = curation.decide(source, shard, entry)
        tally.add(source, decided.tags, decided.verdict)
        nearest.add(source, shard, decided.tags, decided.verdict)
    _reconcile(curation, tally)
    notes = []
    features: tuple[LayerDrift, ...] = ()
    held = (0, 0)
    if feature_documents and tally.kept and manifest.dropped.documents:
        features, held, sampled = _features(curation, feature_documents)
        notes += [f"features were read in a sample of {sampled}"] if sampled else []
    excerpts = _excerpts(curation, nearest)
    if any(text is None for text in excerpts.values()):
        notes.append("some source objects can't be read now or have changed: documents near thresholds lack their text")
    return LossReport(
        uri=uri,
        name=manifest.recipe.name,
        fingerprint=manifest.fingerprint,
        documents=manifest.kept.documents + manifest.dropped.documents,
        dropped=manifest.dropped.documents,
        rules=tally.rules(),
        groups=tally.groups(),
        tests=curation.tests(),
        features=features,
        feature_documents=held,
        thresholds=tuple(
            RuleThreshold(
                rule=curation.rules[cut.rule],
                column=cut.column,
                value=cut.value,
                below=tuple(_document(curation, near, excerpts) for near in nearest.below[cut]),
                above=tuple(_document(curation, near, excerpts) for near in nearest.above[cut]),
            )
            for cut in nearest.below
        ),
        notes=tuple(notes),
    )


def _reconcile(curation: Curation, tally: LossTally) -> None:
    manifest = curation.manifest
    expected = [rule.dropped.documents for rule in manifest.rules]
    found = [rule.dropped for rule in tally.rules()]
    if (found, tally.kept) != (expected, manifest.kept.documents):
        raise AssayError(
            f"the recipe now keeps {tally.kept} documents and its rules drop {found}; "
            f"the dataset says {manifest.kept.documents} and {expected}",
            where=curation.uri,
            hint="its stores no longer hold the tags that it was made from: curate again",
        )


def _features(curation: Curation, documents: int) -> tuple[tuple[LayerDrift, ...], tuple[int, int], str]:
    """Dropped beside kept documents, how many of each were read, and of which sample; empty: of all."""
    places = {entry.shard: (source, shard) for source, shard, entry in curation.shards()}
    available = [entry for _, _, entry in curation.shards() if entry.rows_kept]
    chosen = sampled_shards(available, documents)
    sides = []
    for keep in (False, True):
        sides.append(count_features(_masked(curation, chosen, places, keep), *_shape(curation)))
    dropped, kept = (next(iter(side.values())).documents for side in sides)
    if not dropped or not kept:
        return (), (dropped, kept), ""
    subject = curation.subject
    layers = layer_drift(
        sides[0],
        sides[1],
        shards_in_all=(len(available), len(available)),
        watched=watched_of(subject),
        readers=tagger_notes(subject.taggers),
        top=TOP_FEATURES,
    )
    sample = f"{len(chosen):,} of {len(available):,} shards" if len(chosen) < len(available) else ""
    return layers, (dropped, kept), sample


def _shape(curation: Curation) -> tuple[list[int], int]:
    encoder = curation.subject.encoder
    return list(encoder.layers), encoder.d_sae


def _masked(
    curation: Curation, chosen: list[ShardEntry], places: dict[str, tuple[int, int]], keep: bool
) -> Iterator[tuple[ObjectStore, ShardEntry, NDArray[np.bool_]]]:
    for entry in chosen:
        source, shard = places[entry.shard]
        verdict = curation.decide(source, shard, entry).verdict
        yield curation.subject.sources[source][0], entry, (verdict == KEPT) == keep


def _excerpts(curation: Curation, nearest: NearestDocuments) -> dict[tuple[int, int, int], str | None]:
    """Source, shard and row -> how the text begins; None where it can't be read."""
    wanted: dict[tuple[int, int], set[int]] = defaultdict(set)
    for kept in (*nearest.below.values(), *nearest.above.values()):
        for near in kept:
            wanted[near.place[:2]].add(near.row)
    found: dict[tuple[int, int, int], str | None] = {}
    cursors = Cursors()
    for (source, shard), rows in sorted(wanted.items()):
        manifest = curation.subject.sources[source][1]
        found.update({(source, shard, row): None for row in rows})
        try:
            at = iter(sorted(rows))
            for table in read_rows(source_shard(manifest.shards[shard]), manifest.options, sorted(rows), None, cursors):
                for text in table[manifest.options.text_column]:
                    found[source, shard, next(at)] = inert(" ".join(str(text)[:_READ].split()))[:_EXCERPT]
        except (AssayError, BadShard):
            continue
    return found


def _document(curation: Curation, near: Near, excerpts: dict[tuple[int, int, int], str | None]) -> NearDocument:
    return NearDocument(
        doc_id=near.doc_id,
        value=near.value,
        verdict="" if near.verdict == KEPT else curation.rules[near.verdict],
        excerpt=excerpts[(*near.place[:2], near.row)] or "",
    )
