"""Why a document has its tags: the features that made them, and the places in the text where they fired."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assay.sae_runtime.runtime import Runtime
from assay.schemas.base import Model
from assay.schemas.errors import AssayError, inert, printable
from assay.schemas.scope import Scope
from assay.schemas.store import ShardEntry, TagManifest, features_prefix
from assay.workers.corpora.rows import read_rows
from assay.workers.curating import source_shard
from assay.workers.feature_table import iter_parquet
from assay.workers.runs import load_manifest, read_taggers
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagger_set import TaggerSet

_FEATURES_SHOWN = 6
_READ_AHEAD = 16


class FeatureReason(Model):
    """One feature's part in a tag."""

    layer: int
    feature: int
    value: float
    effect: float
    fires_on: tuple[str, ...]
    spans: tuple[tuple[int, int, float], ...]
    """[start, end, act] in code points of the text"""


class TagReason(Model):
    """A tag, and the features that weighed most for it."""

    name: str
    axis: str
    value: str | float | None
    probability: float | None = None
    bias: float
    features: tuple[FeatureReason, ...]


class Explanation(Model):
    """A document's tags with their reasons. Effects add up, with the bias, to the tag's logit."""

    doc_id: str
    run: str
    source: str
    row: int
    n_tokens: int
    tokens_seen: int
    text: str
    tags: tuple[TagReason, ...]


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
    identity = json.loads(store.read(f"{features_prefix(manifest.features)}/identity.json"))
    scope, watched = Scope.model_validate(identity["scope"]), identity["features"]["watched"]
    runtime = Runtime(scope, device=device, watched=[(layer, feature) for layer, feature in watched])
    if runtime.encoder_fingerprint != manifest.encoder:
        raise AssayError(
            f"scope {scope.name!r} has changed: encoder {runtime.encoder_fingerprint}, the run used {manifest.encoder}",
            where=store_uri,
            hint="use the same weights, device and version as the run",
        )
    tagger_set = TaggerSet(read_taggers(store, manifest.tagset), manifest.encoder, runtime.features_identity.watched)
    return [_explain(store, manifest, runtime, tagger_set, entry, row, doc_id) for entry, row in found]


def _explain(
    store: ObjectStore,
    manifest: TagManifest,
    runtime: Runtime,
    taggers: TaggerSet,
    entry: ShardEntry,
    row: int,
    doc_id: str,
) -> Explanation:
    features = _row_of(store, entry, "features", row)
    tags = taggers.apply(features)
    text = _text_of(entry, manifest, row)
    contributions = {n: c[:_FEATURES_SHOWN] for n, c in taggers.contributions(features).items()}
    wanted: dict[int, set[int]] = {}
    for c in (c for parts in contributions.values() for c in parts):
        wanted.setdefault(c.feature.layer, set()).add(c.feature.feature)
    spans: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    for f in runtime.trace(text, wanted):
        spans.setdefault((f.layer, f.feature), []).append((f.start, f.end, round(f.act, 4)))
    reasons = []
    for tagger in taggers.taggers:
        value = tags[tagger.name][0].as_py()
        share = tags[f"{tagger.name}_p"][0].as_py() if tagger.kind == "label" else None
        label = tagger.labels.index(value) if tagger.kind == "label" and value is not None else 0
        reasons.append(
            TagReason(
                name=tagger.name,
                axis=tagger.axis,
                value=value,
                probability=share,
                bias=tagger.bias[label],
                features=tuple(
                    FeatureReason(
                        layer=c.feature.layer,
                        feature=c.feature.feature,
                        value=round(c.value, 4),
                        effect=round(c.effect, 4),
                        fires_on=c.feature.tokens,
                        spans=tuple(spans.get((c.feature.layer, c.feature.feature), ())),
                    )
                    for c in contributions[tagger.name]
                ),
            )
        )
    return Explanation(
        doc_id=doc_id,
        run=manifest.run,
        source=entry.source.uri if entry.source else "",
        row=row,
        n_tokens=features["n_tokens"][0].as_py(),
        tokens_seen=features["tokens_seen"][0].as_py(),
        text=text,
        tags=tuple(reasons),
    )


def as_renderable(explanation: Explanation) -> RenderableType:
    """The explanation for a terminal. Text of the corpus can't move the cursor: control characters are escaped."""
    e = explanation
    head = Text(f"{printable(e.doc_id)} · {printable(e.source, 400)} row {e.row:,} · {e.n_tokens:,} tokens")
    parts: list[RenderableType] = [head]
    for tag in e.tags:
        value = "undecided" if tag.value is None else f"{tag.value:.3f}" if isinstance(tag.value, float) else tag.value
        share = f" (p = {tag.probability:.2f})" if tag.probability is not None else ""
        table = Table(title=Text(f"{tag.name}: {value}{share}, bias {tag.bias:+.2f}"), title_justify="left", box=None)
        for column in ("feature", "effect", "fired on here", "fires on in the fitting data"):
            table.add_column(column, justify="right" if column == "effect" else "left")
        for f in tag.features:
            here = " ".join(_around(e.text, start, end) for start, end, _ in sorted(f.spans, key=lambda s: -s[2])[:3])
            usual = " ".join(inert(token) for token in f.fires_on[:5])
            table.add_row(f"{f.layer}:{f.feature}", f"{f.effect:+.2f}", Text(here), Text(usual))
        parts += [Text(""), table]
    return Group(*parts)


def _around(text: str, start: int, end: int, margin: int = 12) -> str:
    before, after = text[max(0, start - margin) : start], text[end : end + margin]
    return inert(f"…{before}[{text[start:end]}]{after}…")


def _find(store: ObjectStore, manifest: TagManifest, doc_id: str) -> Iterator[tuple[ShardEntry, int]]:
    def rows(entry: ShardEntry) -> list[int]:
        source = pa.BufferReader(store.read_verified(entry.objects["tags"]))
        tables = iter_parquet(source, ["doc_id", "row"])
        return [n for t in tables for n in t.filter(pc.equal(t["doc_id"], doc_id))["row"].to_pylist()]

    readable = [entry for entry in manifest.shards if not entry.unreadable]
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        for entry, found in zip(readable, pool.map(rows, readable), strict=True):
            for row in found:
                yield entry, row


def _row_of(store: ObjectStore, entry: ShardEntry, role: str, row: int) -> pa.Table:
    for table in iter_parquet(pa.BufferReader(store.read_verified(entry.objects[role]))):
        chosen = table.filter(pc.equal(table["row"], row))
        if chosen.num_rows:
            return chosen
    raise AssayError(f"row {row} is missing in {entry.objects[role].key}", where=store.root)


def _text_of(entry: ShardEntry, manifest: TagManifest, row: int) -> str:
    table = next(read_rows(source_shard(entry), manifest.options, [row]))
    value = table[manifest.options.text_column][0].as_py()
    return value.decode() if isinstance(value, bytes) else value
