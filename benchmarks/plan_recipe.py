"""How long `assay plan` takes on a store of many tagged documents: rules, a sample and a mixture, all of them exact.

The store is synthetic: tags of random documents without a corpus, in shards and row groups of the size that tagging
writes, with reasons (`_why`), which a plan must not read. Run: python -m benchmarks.plan_recipe --documents 10000000
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from assay.flows.curate import survey
from assay.schemas.base import record_json
from assay.schemas.corpus import ReadOptions
from assay.schemas.parameters import CurateParameters
from assay.schemas.recipe import Recipe
from assay.schemas.statistics import TagColumn
from assay.schemas.store import ShardEntry, StoredObject, TagManifest
from assay.schemas.tagger import FeatureWeight, Tagger
from assay.workers.feature_table import ParquetBuffer
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import STORE_MARKER, write_marker
from benchmarks.machine import describe, peak_rss, versions

_SHARD_DOCUMENTS, _GROUP = 50_000, 2048
_DOMAINS = ("code", "news", "science", "fiction", "shop", "forum")
_RECIPES: dict[str, dict[str, Any]] = {
    "rules": {},
    "rules, sample": {"sample": {"fraction": 0.5}},
    "rules, mixture": {
        "mixture": {"by": "domain", "shares": {"code": 0.5, "science": 0.3, "news": 0.2}, "max_repeat": 2.0}
    },
    "rules, top sample": {"sample": {"tokens": 10**9, "top": "quality", "within": "domain"}},
}


def main() -> None:
    """Makes the store, plans each recipe once, and writes the times."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--documents", type=int, default=1_000_000)
    options.add_argument("--store", type=Path, help="keep the store here; by default it's temporary")
    options.add_argument("--out", type=Path, help="write the result here as JSON")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.store or Path(temporary)
        if not (folder / STORE_MARKER).exists():
            make_store(ObjectStore(str(folder)), given.documents)
        result = {
            "documents": given.documents,
            "load_average": os.getloadavg(),
            "machine": describe("cpu", os.cpu_count() or 1),
            "versions": versions(),
            "plans": dict(plans(folder)),
            "peak_bytes": peak_rss(),
        }
    text = json.dumps(result, indent=1)
    if given.out:
        given.out.write_text(text + "\n", "utf-8")
    print(text)


def plans(folder: Path) -> list[tuple[str, dict[str, float]]]:
    """Each recipe's seconds and what it keeps."""
    found = []
    for name, stages in _RECIPES.items():
        values: dict[str, Any] = {
            "name": "bench",
            "sources": [{"store": str(folder)}],
            "rules": [
                {"name": "short", "reason": "short", "drop_if": "n_tokens < 60"},
                {"name": "poor", "reason": "poor", "drop_if": 'quality < 0.1 and domain not in ["code"]'},
                {"name": "shop", "reason": "shop", "drop_if": 'domain == "shop" and domain_p > 0.5'},
            ],
            "output": {"path": "nowhere"},
            **stages,
        }
        started, used = time.monotonic(), time.process_time()
        preview = survey.fn(CurateParameters(recipe=Recipe.model_validate(values)), statistics=False)
        seconds = round(time.monotonic() - started, 2)
        cpu = round(time.process_time() - used, 2)
        found.append(
            (name, {"seconds": seconds, "cpu_seconds": cpu, "kept": preview.kept.documents, "of": preview.rows_in})
        )
    return found


def make_store(store: ObjectStore, documents: int) -> None:
    """A finished run over documents that never were."""
    taggers = (_tagger("quality", ("good",)), _tagger("domain", _DOMAINS))
    draw, entries = np.random.default_rng(0), []
    for first in range(0, documents, _SHARD_DOCUMENTS):
        count = min(_SHARD_DOCUMENTS, documents - first)
        buffer = None
        for start in range(0, count, _GROUP):
            table = _tags(draw, first + start, min(_GROUP, count - start))
            buffer = buffer or ParquetBuffer(table.schema)
            buffer.write(table)
        assert buffer is not None
        name = f"{first:016x}"
        stored = store.create_named("tags/t/data", name, ".parquet", buffer.finish(), count, attempt="bench")
        entries.append(ShardEntry(shard=name, rows_in=count, rows_kept=count, objects={"tags": stored}))
    columns = tuple(TagColumn(name=t.name, axis=t.axis, kind=t.kind) for t in taggers)
    none = StoredObject(key="none", size=0, sha256="0" * 64, rows=0)
    manifest = TagManifest(
        run="r", corpus="synthetic", options=ReadOptions(), plan="p", encoder="e", features="f", tagset="t",
        taggers=columns, columns={"text": "string"}, rows_in=documents, rows_kept=documents, rows_quarantined=0,
        tokens=0, quarantine_reasons={}, undecided={}, unreadable_shards=0, statistics=none, shards=tuple(entries),
    )  # fmt: skip
    identity = {"encoder": {"layers": [0], "d_sae": 1}, "features": {"watched": []}}
    store.create("tags/t/taggers.json", json.dumps([t.model_dump() for t in taggers]).encode(), attempt="bench")
    store.create("features/f/identity.json", json.dumps(identity).encode(), attempt="bench")
    store.create("runs/r/manifest.json", record_json(manifest), attempt="bench")
    write_marker(store)


def _tags(draw: np.random.Generator, first: int, count: int) -> pa.Table:
    tokens = np.exp(draw.normal(5.5, 1.2, count)).astype(np.int32) + 1
    why = pa.array([f"2:{n}=0.31 4:{n + 7}=0.22 2:{n * 3}=-0.1" for n in draw.integers(0, 3000, count)])
    domains = pa.array(_DOMAINS).take(pa.array(draw.integers(0, len(_DOMAINS), count)))
    return pa.table(
        {
            "row": pa.array(np.arange(first, first + count)),
            "doc_id": pa.array(
                [f"{i * 2654435761 % 2**64:016x}-{first:08x}-{i:x}" for i in range(first, first + count)]
            ),
            "n_bytes": pa.array(tokens.astype(np.int64) * 4),
            "n_tokens": pa.array(tokens),
            "tokens_seen": pa.array(tokens),
            "quality": pa.array(draw.random(count, np.float32), mask=draw.random(count) < 0.01),
            "quality_why": why,
            "domain": domains,
            "domain_p": pa.array(draw.random(count, np.float32)),
            "domain_why": why,
        }
    )


def _tagger(name: str, labels: tuple[str, ...]) -> Tagger:
    one = FeatureWeight(layer=0, feature=0, scale=1.0, weights=(1.0,) * len(labels))
    kind = "score" if len(labels) == 1 else "label"
    return Tagger(
        name=name, axis="quality" if kind == "score" else "domain", kind=kind, description="", labels=labels,
        encoder="e", pooling="max", sqrt=False, bias=(0.0,) * len(labels), features=(one,), method="none",
    )  # fmt: skip


if __name__ == "__main__":
    main()
