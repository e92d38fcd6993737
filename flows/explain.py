"""Why a document has its tags: the features that made them, and the places in the text where they fired."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from assay.flows.explanation import Explanation, FeatureReason, LayerReason, Span, TagReason
from assay.flows.scopes import require_device
from assay.sae_runtime.runtime import Runtime
from assay.schemas.errors import AssayError, printable
from assay.schemas.store import ShardEntry, TagManifest
from assay.schemas.tagger import Tagger
from assay.workers.corpora.rows import read_rows
from assay.workers.feature_table import iter_parquet
from assay.workers.sealing import source_shard
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import load_manifest, read_identity, read_taggers
from assay.workers.tagger_set import Contribution, TaggerSet

_READ_AHEAD = 16


def explain(store_uri: str, doc_id: str, *, run: str | None = None, device: str | None = None) -> list[Explanation]:
    """An explanation for each document with that id (ids repeat only across shards); AssayError if there is none."""
    store = ObjectStore(store_uri)
    manifest = load_manifest(store, run)
    found = list(_find(store, manifest, doc_id))
    if not found:
        raise AssayError(
            f"no document {printable(doc_id)!r} in run {manifest.run}",
            where=store_uri,
            hint="ids are in the doc_id column of tags/*/data/*.parquet; quarantined records have none",
        )
    identity = read_identity(store, manifest.features)
    watched = identity.features.watched
    runtime = Runtime(identity.scope, device=device and require_device(device), watched=watched)
    if runtime.encoder_fingerprint != manifest.encoder:
        raise AssayError(
            f"scope {identity.scope.name!r} has changed: encoder {runtime.encoder_fingerprint}, the run used "
            f"{manifest.encoder}",
            where=store_uri,
            hint="use the same weights, device and version as the run",
        )
    taggers = read_taggers(store, manifest.tagset)
    explainer = _Explainer(store, manifest, runtime, taggers, watched)
    return [explainer.explain(entry, row, doc_id) for entry, row in found]


class _Explainer(NamedTuple):
    """What the explanations of a run's documents share."""

    store: ObjectStore
    manifest: TagManifest
    runtime: Runtime
    taggers: Sequence[Tagger]
    watched: Sequence[tuple[int, int]]

    def explain(self, entry: ShardEntry, row: int, doc_id: str) -> Explanation:
        features, taggers = self._features(entry, row)
        tags, contributions = taggers.apply(features), taggers.contributions(features)
        text = _text_of(entry, self.manifest, row)
        spans = self._spans(text, contributions)
        return Explanation(
            doc_id=doc_id,
            run=self.manifest.run,
            source=entry.source.uri if entry.source else "",
            row=row,
            n_tokens=features["n_tokens"][0].as_py(),
            tokens_seen=features["tokens_seen"][0].as_py(),
            text=text,
            tags=tuple(_reason(tagger, tags, contributions[tagger.name], spans) for tagger in self.taggers),
        )

    def _features(self, entry: ShardEntry, row: int) -> tuple[pa.Table, TaggerSet]:
        """The document's features, and the taggers as they judged them: where it was recomputed, nothing was cut."""
        again = _row_of(self.store, entry, "recomputed", row) if "recomputed" in entry.objects else None
        if again is not None:
            read = [(f.layer, f.feature) for t in self.taggers for f in t.features]
            return again, TaggerSet(self.taggers, self.manifest.encoder, read)
        stored = _row_of(self.store, entry, "features", row)
        if stored is None:
            raise AssayError(f"row {row} is missing in {entry.objects['features'].key}", where=self.store.root)
        return stored, TaggerSet(self.taggers, self.manifest.encoder, self.watched)

    def _spans(self, text: str, contributions: dict[str, list[Contribution]]) -> dict[tuple[int, int], list[Span]]:
        wanted: dict[int, set[int]] = {}
        for part in (c for parts in contributions.values() for c in parts if c.feature):
            wanted.setdefault(part.layer, set()).add(part.feature.feature)  # type: ignore[union-attr]
        spans: dict[tuple[int, int], list[Span]] = {}
        for f in self.runtime.trace(text, wanted):
            spans.setdefault((f.layer, f.feature), []).append((f.start, f.end, round(f.act, 4)))
        return spans


def _reason(
    tagger: Tagger, tags: pa.Table, parts: Sequence[Contribution], spans: dict[tuple[int, int], list[Span]]
) -> TagReason:
    value = tags[tagger.name][0].as_py()
    label = tagger.labels.index(value) if tagger.kind == "label" and value is not None else 0
    return TagReason(
        name=tagger.name,
        axis=tagger.axis,
        rule=tagger.rule,
        value=value,
        probability=tags[f"{tagger.name}_p"][0].as_py() if tagger.kind == "label" else None,
        threshold=tagger.threshold if tagger.kind == "score" else None,
        bias=tagger.bias[label],
        features=tuple(
            FeatureReason(
                layer=c.layer,
                feature=c.feature.feature,
                weight=c.feature.weights[label],
                value=round(c.value or 0.0, 4),
                effect=round(c.effect, 4),
                fires_on=c.feature.tokens,
                spans=tuple(spans.get((c.layer, c.feature.feature), ())),
            )
            for c in parts
            if c.feature
        ),
        layers=tuple(LayerReason(layer=c.layer, effect=round(c.effect, 4)) for c in parts if not c.feature),
    )


def _find(store: ObjectStore, manifest: TagManifest, doc_id: str) -> Iterator[tuple[ShardEntry, int]]:
    try:
        doc_id.encode()
    except UnicodeEncodeError:
        return  # half a UTF-16 pair, which no document's id holds

    def rows(entry: ShardEntry) -> list[int]:
        source = pa.BufferReader(store.read_verified(entry.objects["tags"]))
        tables = iter_parquet(source, ["doc_id", "row"])
        return [n for t in tables for n in t.filter(pc.equal(t["doc_id"], doc_id))["row"].to_pylist()]

    readable = [entry for entry in manifest.shards if not entry.unreadable]
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        for entry, found in zip(readable, pool.map(rows, readable), strict=True):
            for row in found:
                yield entry, row


def _row_of(store: ObjectStore, entry: ShardEntry, role: str, row: int) -> pa.Table | None:
    for table in iter_parquet(pa.BufferReader(store.read_verified(entry.objects[role]))):
        chosen = table.filter(pc.equal(table["row"], row))
        if chosen.num_rows:
            return chosen
    return None


def _text_of(entry: ShardEntry, manifest: TagManifest, row: int) -> str:
    table = next(read_rows(source_shard(entry), manifest.options, [row]))
    value = table[manifest.options.text_column][0].as_py()
    return value.decode() if isinstance(value, bytes) else value
