"""audit-recipe: which groups of documents a curation took more than their share of, and by which rule."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from assay.flows.decided import Curation
from assay.flows.diff import tagger_notes
from assay.schemas.drift import LayerDrift
from assay.schemas.errors import AssayError, inert
from assay.schemas.expression import parse_expression
from assay.schemas.loss import LossReport, NearDocument, RuleThreshold
from assay.schemas.statistics import TOKENS
from assay.schemas.store import ShardEntry
from assay.workers.corpora.reading import Cursors
from assay.workers.corpora.records import BadShard
from assay.workers.corpora.rows import read_rows
from assay.workers.curate_job import TaggedShard
from assay.workers.feature_drift import layer_drift
from assay.workers.feature_shares import count_features, sampled_shards
from assay.workers.losses import LossTally
from assay.workers.near_thresholds import Cut, Near, NearestDocuments, cuts_of
from assay.workers.rules import KEPT, names_read
from assay.workers.sealing import source_shard
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import read_identity

NEAREST = 3
TOP_FEATURES = 10
_EXCERPT, _READ = 160, 400


def audit_recipe(uri: str, *, feature_documents: int = 100_000) -> LossReport:
    """The audit of the curated dataset at `uri`: exact for tags, lengths and sources; features by a sample of shards.

    AssayError where the tags that are there now don't give the dataset's own counts. Nothing is written.
    """
    curation = Curation(uri)
    manifest, columns = curation.manifest, curation.runs[0].taggers
    verdicts = manifest.recipe.verdicts
    tally = LossTally(columns, verdicts, _source_names(curation))
    nearest = NearestDocuments(_cuts(curation), NEAREST)
    wanted = {"n_tokens", *(column.name for column in columns), *nearest.columns}
    for unit in curation.units:
        decided = curation.decide(unit, wanted)
        tally.add(unit.source, decided.tags, decided.verdict)
        nearest.add(unit.source, unit.shard, decided.tags, decided.verdict)
    _reconcile(curation, tally)
    notes = []
    features: tuple[LayerDrift, ...] = ()
    held = (0, 0)
    if feature_documents and tally.kept and manifest.dropped.documents:
        features, held, sample = _features(curation, feature_documents)
        notes += [f"features were read in a sample of {sample}"] if sample else []
    excerpts = _excerpts(curation, nearest)
    if any(text is None for text in excerpts.values()):
        notes.append("some source objects can't be read now or have changed: documents near thresholds lack their text")
    return LossReport(
        uri=uri,
        name=manifest.recipe.name,
        fingerprint=manifest.fingerprint,
        documents=manifest.kept.documents + manifest.dropped.documents,
        dropped=manifest.dropped.documents,
        rules=tuple(rule for rule in tally.rules() if rule.dropped or rule.name in _expected(curation)),
        groups=tally.groups(),
        tests=_tests(curation),
        features=features,
        feature_documents=held,
        thresholds=tuple(
            RuleThreshold(
                rule=verdicts[cut.rule],
                column=cut.column,
                value=cut.value,
                below=tuple(_document(verdicts, near, excerpts) for near in nearest.below[cut]),
                above=tuple(_document(verdicts, near, excerpts) for near in nearest.above[cut]),
            )
            for cut in nearest.below
        ),
        notes=tuple(notes),
    )


def _source_names(curation: Curation) -> list[str]:
    """The sources' names, or what was tagged where the recipe gives none."""
    recipe = curation.manifest.recipe
    return [
        source.name or f"{number}: {lineage.corpus}"
        for number, (source, lineage) in enumerate(zip(recipe.sources, curation.manifest.sources, strict=True))
    ]


def _cuts(curation: Curation) -> list[Cut]:
    recipe, known = curation.manifest.recipe, {column.name for column in curation.runs[0].taggers}
    numbers = {"n_tokens", "tokens_seen", "n_bytes", *known, *(f"{name}_p" for name in known)}
    found: dict[Cut, None] = {}
    for index, rule in enumerate(recipe.rules):
        for column, value in cuts_of(parse_expression(rule.drop_if), curation.manifest.thresholds):
            if column in numbers:
                found[Cut(index, column, value)] = None
    return list(found)


def _tests(curation: Curation) -> dict[str, tuple[str, ...]]:
    """Rule -> the metrics that it tests itself."""
    metrics = {"n_tokens": TOKENS, "source": "source"}
    for column in curation.runs[0].taggers:
        metrics |= {column.name: column.name, f"{column.name}_p": column.name}
    return {
        rule.name: tuple(sorted({metrics[n] for n in names_read([parse_expression(rule.drop_if)]) if n in metrics}))
        for rule in curation.manifest.recipe.rules
    }


def _expected(curation: Curation) -> dict[str, int]:
    """What the manifest says that rules and stages drop."""
    found = {rule.name: rule.dropped.documents for rule in curation.manifest.rules}
    return found | {stage.name: stage.dropped.documents for stage in curation.manifest.stages}


def _reconcile(curation: Curation, tally: LossTally) -> None:
    manifest, expected = curation.manifest, _expected(curation)
    found = {rule.name: rule.dropped for rule in tally.rules()}
    said = (manifest.kept.documents, manifest.dropped.documents, expected)
    if (tally.kept, sum(found.values()), {name: found[name] for name in expected}) != said:
        raise AssayError(
            f"the recipe now keeps {tally.kept} documents and drops {found}; "
            f"the dataset says {manifest.kept.documents} and {expected}",
            where=curation.uri,
            hint="its stores no longer hold the tags that it was made from, or a list that it names has changed: "
            "curate again",
        )


def _features(curation: Curation, documents: int) -> tuple[tuple[LayerDrift, ...], tuple[int, int], str]:
    """Dropped beside kept documents, how many of each were read, and of which sample; empty: of all."""
    identity = read_identity(curation.stores[0], curation.runs[0].features)
    available = sum(1 for unit in curation.units if unit.entry.rows_kept)
    chosen = sampled_shards(curation.units, documents)
    shape = identity.encoder.layers, identity.encoder.d_sae
    sides = [count_features(_chosen(curation, chosen, kept), *shape) for kept in (False, True)]
    dropped, kept = (next(iter(side.values())).documents for side in sides)
    if not dropped or not kept:
        return (), (dropped, kept), ""
    layers = layer_drift(
        sides[0],
        sides[1],
        shards_in_all=(available, available),
        watched=identity.watched,
        readers=tagger_notes(curation.taggers),
        top=TOP_FEATURES,
    )
    sample = f"{len(chosen):,} of {available:,} shards" if len(chosen) < available else ""
    return layers, (dropped, kept), sample


def _chosen(
    curation: Curation, units: Sequence[TaggedShard], kept: bool
) -> Iterator[tuple[ObjectStore, ShardEntry, NDArray[np.int32]]]:
    for unit in units:
        verdict = curation.decide(unit).verdict
        yield curation.stores[unit.source], unit.entry, ((verdict == KEPT) == kept).astype(np.int32)


def _excerpts(curation: Curation, nearest: NearestDocuments) -> dict[tuple[int, int, int], str | None]:
    """Source, shard and row -> how the text begins; None where it can't be read."""
    wanted: dict[tuple[int, int], set[int]] = defaultdict(set)
    for kept in (*nearest.below.values(), *nearest.above.values()):
        for near in kept:
            wanted[near.place[:2]].add(near.row)
    found: dict[tuple[int, int, int], str | None] = {}
    cursors = Cursors()
    for (source, shard), rows in sorted(wanted.items()):
        run = curation.runs[source]
        found.update({(source, shard, row): None for row in rows})
        try:
            at = iter(sorted(rows))
            for table in read_rows(source_shard(run.shards[shard]), run.options, sorted(rows), None, cursors):
                for text in table[run.options.text_column]:
                    found[source, shard, next(at)] = inert(" ".join(str(text)[:_READ].split()))[:_EXCERPT]
        except (AssayError, BadShard):
            continue
    return found


def _document(verdicts: Sequence[str], near: Near, excerpts: dict[tuple[int, int, int], str | None]) -> NearDocument:
    return NearDocument(
        doc_id=near.doc_id,
        value=near.value,
        verdict="" if near.verdict == KEPT else verdicts[near.verdict],
        excerpt=excerpts[(*near.place[:2], near.row)] or "",
    )
