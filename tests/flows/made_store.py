"""A finished run over a real corpus whose features are made up: what a tagger keys on is then known beforehand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from assay.schemas.base import record_json
from assay.schemas.corpus import ReadOptions
from assay.schemas.scope import EncoderIdentity, FeaturesIdentity, Scope
from assay.schemas.statistics import shard_statistics
from assay.schemas.store import ShardEntry, TagManifest
from assay.schemas.tagger import Tagger
from assay.workers.corpora.planning import plan_corpus
from assay.workers.feature_table import parquet_bytes
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import open_store
from assay.workers.tagger_set import TaggerSet
from tests.workers.feature_tables import ENCODER, Doc, table

LAYERS = (2, 4)


class Written(NamedTuple):
    """One document of the made corpus."""

    doc: Doc
    columns: Mapping[str, object] = {}


def made_store(folder: Path, files: Mapping[str, Sequence[Written]], taggers: Sequence[Tagger]) -> Path:
    """Writes `files` (path below the corpus -> documents) as JSONL and a store with one finished run over them."""
    corpus = folder / "corpus"
    for name, documents in files.items():
        path = corpus / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": f"text {i}", **w.columns}) for i, w in enumerate(documents)]
        path.write_text("\n".join(lines) + "\n", "utf-8")
    plan = plan_corpus(str(corpus), ReadOptions(), 2**20)
    store = open_store(str(folder / "store"))
    tagger_set = TaggerSet(taggers, ENCODER)
    by_path = {str((corpus / name).resolve()): documents for name, documents in files.items()}
    entries = []
    for shard in plan.shards:
        entries.append(_entry(store, shard.id, by_path[str(Path(shard.source.uri).resolve())], tagger_set, shard))
    scope = Scope(name="made", backbone="no-such-folder", sae="no-such-folder", layers=LAYERS)
    encoder = EncoderIdentity(
        files={}, layers=LAYERS, activation="topk", k=2, d_model=2, d_sae=64, window=64, overlap=8, max_tokens=None,
        mask_first=True, norm_outlier=None, dtype="float32", encoder_dtype="float32",
    )  # fmt: skip
    features = FeaturesIdentity.of(scope.on("cpu"), ENCODER, ())
    identity = {"encoder": encoder, "features": features, "scope": scope}
    kept = {name: part.model_dump(mode="json") for name, part in identity.items()}
    store.create("features/f/identity.json", json.dumps(kept).encode(), attempt="a")
    store.create(
        "tags/t/taggers.json", json.dumps([t.model_dump(mode="json") for t in taggers]).encode(), attempt="a"
    )  # fmt: skip
    columns = {name: "string" for documents in files.values() for w in documents for name in ("text", *w.columns)}
    rows = sum(e.rows_kept for e in entries)
    manifest = TagManifest(
        run="r", corpus=str(corpus), options=plan.options, plan=plan.id, encoder=ENCODER, features="f", tagset="t",
        taggers=tagger_set.columns, columns=columns, rows_in=rows, rows_kept=rows, rows_quarantined=0,
        tokens=sum(e.tokens for e in entries), quarantine_reasons={}, undecided={}, unreadable_shards=0,
        statistics=entries[0].objects["statistics"], shards=tuple(entries),
    )  # fmt: skip
    store.create("runs/r/manifest.json", record_json(manifest), attempt="a")
    return folder / "store"


def _entry(
    store: ObjectStore, name: str, documents: Sequence[Written], tagger_set: TaggerSet, shard: object
) -> ShardEntry:
    features = table([w.doc for w in documents], LAYERS)
    tags = tagger_set.apply(features)
    parts = {
        "features": ("features/f/data", features),
        "tags": ("tags/t/data", tags),
        "statistics": ("tags/t/statistics", shard_statistics(tags, tagger_set.columns)),
    }
    objects = {
        role: store.create_named(prefix, name, ".parquet", parquet_bytes(part), part.num_rows, attempt="a")
        for role, (prefix, part) in parts.items()
    }
    return ShardEntry(
        shard=name, source=shard.source, source_rows=shard.rows, rows_in=len(documents), rows_kept=len(documents),  # type: ignore[attr-defined]
        tokens=sum(w.doc.tokens for w in documents), objects=objects,
    )  # fmt: skip
