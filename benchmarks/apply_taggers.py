"""Taggers over stored features on one core, beside Polars' own scan of the same columns of the same files.

The features are drawn: each document has `--features` features a layer, from a Zipf law over the embedded scope's
dictionary, and a floor above 0 at each layer, so that nothing is decided for want of bounds. Two sets of taggers are
applied: the four of the embedded scope, whose features are watched, and the same four moved onto features that aren't,
which costs the bounds too. Every run is a process of its own, bound to one core, the two contestants in turn.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import machine

_SHARD = 8192
_CHUNK = 2048
_POOL = 8192
_SCAN = "polars scan"
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is applied to what."""

    documents: int
    features: int
    """a document and layer"""
    folder: Path
    repeats: int


def write_store(task: Task) -> Path:
    """A store with a finished run of no tags over `task.documents` documents, with real features objects."""
    from assay.flows.scopes import resolve_scope
    from assay.schemas.base import fingerprint
    from assay.schemas.corpus import CorpusPlan, ReadOptions, Shard, SourceObject
    from assay.schemas.store import RunRecord, ShardCommit, features_prefix
    from assay.workers.feature_table import ParquetBuffer
    from assay.workers.shard_tags import TagWriter
    from assay.workers.storage.commits import CommitLog
    from assay.workers.stores import begin_run, open_store, seal, write_identity
    from assay.workers.tagger_set import TaggerSet

    resolved = resolve_scope("embedded", device="cpu")
    features, options = fingerprint(resolved.features), ReadOptions()
    source = SourceObject(uri=str(task.folder / "nowhere.parquet"), size=0, etag="drawn", format="parquet")
    shards = tuple(
        Shard.make(source, first, min(_SHARD, task.documents - first), _SHARD * 1500, options)
        for first in range(0, task.documents, _SHARD)
    )
    corpus = CorpusPlan(corpus="drawn documents", options=options, shard_bytes=_SHARD * 1500, shards=shards)
    store = open_store(str(task.folder / "store"))
    none = TaggerSet((), resolved.features.encoder)
    tagset = none.fingerprint(features)
    record = RunRecord(
        run=fingerprint([corpus.id, tagset]), corpus=corpus.corpus, scope="embedded", plan=corpus.id,
        encoder=resolved.features.encoder, features=features, tagset=tagset,
    )  # fmt: skip
    identity = {name: getattr(resolved, name).model_dump(mode="json") for name in ("encoder", "features", "scope")}
    write_identity(store, f"{features_prefix(features)}/identity.json", identity, "drawn")
    begin_run(store, record, corpus, ())
    draw = Draw(resolved.scope.layers, resolved.encoder.d_sae, task.features)
    log, writer = CommitLog(store, features_prefix(features)), TagWriter(store, none, tagset)
    for shard in shards:
        tags, buffer = writer.new(), None
        assert shard.rows is not None
        for first in range(0, shard.rows, _CHUNK):
            table = draw.table(shard.first_row + first, min(_CHUNK, shard.rows - first))
            buffer = buffer or ParquetBuffer(table.schema)
            buffer.write(table)
            tags.add(none.apply(table))
        assert buffer is not None
        data = buffer.finish()
        stored = store.create_named(
            f"{features_prefix(features)}/data", shard.id, ".parquet", data, buffer.rows, attempt="drawn"
        )
        commit = ShardCommit(
            shard=shard.id, fingerprint=features, rows_in=buffer.rows, rows_kept=buffer.rows,
            objects={"features": stored}, attempt="drawn",
        )  # fmt: skip
        log.commit(commit)
        writer.put(commit, tags, "drawn", time.monotonic())
    seal(store, record, corpus, ())
    return task.folder / "store"


class Draw:
    """Feature tables of documents that nobody wrote, the same for the same numbers."""

    def __init__(self, layers: tuple[int, ...], d_sae: int, features: int) -> None:
        self._layers, self._features = layers, features
        self._rng = np.random.default_rng(0)
        self._ids = {layer: self._drawn_ids(d_sae) for layer in layers}

    def table(self, first: int, documents: int) -> pa.Table:
        """The next `documents` documents, numbered from `first`."""
        from assay.sae_runtime.pooling import SparseFeatures, round_significand
        from assay.sae_runtime.runtime import ChunkFeatures
        from assay.workers.feature_table import features_table

        rng, entries = self._rng, documents * self._features
        tokens_N = rng.integers(50, 900, documents).astype(np.int32)
        layers = {}
        for layer, ids in self._ids.items():
            max_E, count_E = rng.standard_exponential(entries) + 0.2, rng.integers(1, 60, entries).astype(np.int32)
            mean_E = max_E * count_E / np.repeat(tokens_N, self._features)
            layers[layer] = SparseFeatures(
                offsets=np.arange(documents + 1, dtype=np.int64) * self._features,
                ids=ids[rng.integers(0, len(ids), documents)].ravel(),
                max=round_significand(max_E),
                mean=round_significand(mean_E),
                count=count_E,
                floor=round_significand(rng.random(documents) * 0.2 + 0.1),
                outliers=np.zeros(documents, np.int32),
            )
        rows = range(first, first + documents)
        ids_N = [f"{row:016x}-{row % 977:08x}" for row in rows]
        return features_table(rows, ids_N, (tokens_N * 4).tolist(), ChunkFeatures(tokens_N + 1, tokens_N, layers))

    def _drawn_ids(self, d_sae: int) -> np.ndarray:
        """Sets of distinct features by a Zipf law, without replacement (Gumbel top-k), ascending."""
        log_share_F = self._rng.permutation(-0.8 * np.log(np.arange(1, d_sae + 1)))
        sets = []
        for _ in range(0, _POOL, 512):
            keys = self._rng.gumbel(size=(512, d_sae)) + log_share_F
            sets.append(np.sort(np.argpartition(-keys, self._features, axis=1)[:, : self._features], axis=1))
        return np.concatenate(sets).astype(np.int32)


def write_taggers(folder: Path) -> dict[str, Path]:
    """The embedded scope's four taggers, and the same on features that no document is sure to keep."""
    from assay.flows.scopes import CONFIGS
    from assay.schemas.tagger import dump_tagger, load_taggers

    own = CONFIGS / "taggers" / "embedded"
    taggers = load_taggers(own)
    watched = {(f.layer, f.feature) for tagger in taggers for f in tagger.features}
    free = {layer: [n for n in range(2048) if (layer, n) not in watched] for layer in {key[0] for key in watched}}
    moved = folder / "unwatched"
    moved.mkdir(parents=True, exist_ok=True)
    for tagger in taggers:
        left = {layer: iter(ids) for layer, ids in free.items()}
        features = tuple(f.model_copy(update={"feature": next(left[f.layer])}) for f in tagger.features)
        (moved / f"{tagger.name}.json").write_text(dump_tagger(tagger.model_copy(update={"features": features})))
    return {"watched": own, "unwatched": moved}


def measure(task: Task) -> Record:
    """Seconds of both contestants for each set of taggers; the scan is of the columns that applying reads."""
    store, sets = task.folder / "store", write_taggers(task.folder)
    if not store.exists():
        write_store(task)
    size = sum(path.stat().st_size for path in store.glob("features/*/data/*"))
    cells = {}
    for name, taggers in sets.items():
        runs: dict[str, list[Record]] = {"apply": [], _SCAN: []}
        for _ in range(task.repeats):
            with _tags_of_this_run(store):
                runs["apply"].append(_child("apply", store, taggers))
            runs[_SCAN].append(_child("scan", store, taggers))
        seconds = {contestant: [run["seconds"] for run in found] for contestant, found in runs.items()}
        cells[name] = {
            "taggers": runs["apply"][0]["taggers"],
            "undecided": runs["apply"][0]["undecided"],
            "columns": runs["apply"][0]["columns"],
            "seconds": seconds,
            "cpu_seconds": {contestant: [run["cpu_seconds"] for run in found] for contestant, found in runs.items()},
            "documents_a_minute": round(60 * task.documents / median(seconds["apply"])),
            "documents_a_cpu_minute": round(60 * task.documents / median(r["cpu_seconds"] for r in runs["apply"])),
            "ratio_to_scan": _ratios(runs, "seconds"),
            "cpu_ratio_to_scan": _ratios(runs, "cpu_seconds"),
            "peak_rss": {contestant: max(run["peak_rss"] for run in found) for contestant, found in runs.items()},
        }
    return {
        "date": time.strftime("%Y-%m-%d"),
        "documents": task.documents,
        "features_a_document_and_layer": task.features,
        "features_bytes": size,
        "repeats": task.repeats,
        "load_average": os.getloadavg()[0],
        "machine": machine.describe("cpu", 1),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("assay", "numpy", "pyarrow", "polars")},
        "cells": cells,
    }


def _ratios(runs: dict[str, list[Record]], what: str) -> list[float]:
    return [round(a[what] / b[what], 2) for a, b in zip(runs["apply"], runs[_SCAN], strict=True)]


class _tags_of_this_run:
    """Takes away what applying wrote, so that the next repetition has the same work."""

    def __init__(self, store: Path) -> None:
        self._store, self._before = store, set(store.rglob("*"))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for path in sorted(set(self._store.rglob("*")) - self._before, reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def _child(what: str, store: Path, taggers: Path) -> Record:
    """One run in a new process on one core."""
    environment = os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.apply_taggers", "--child", what, str(store), str(taggers)],
        env=environment, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, check=True, encoding="utf-8",
    )  # fmt: skip
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def _work(what: str, store: str, taggers: str) -> Record:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return (_apply if what == "apply" else _scan)(store, taggers)


def _apply(store: str, taggers: str) -> Record:
    from assay.flows.apply import apply_taggers
    from assay.schemas.parameters import ApplyParameters

    with _Clock() as clock:
        report = apply_taggers(ApplyParameters(store=store, taggers=taggers))
    assert report.documents == report.manifest.rows_kept
    columns = _columns(store, taggers)
    return clock.read | {
        "undecided": report.manifest.undecided,
        "columns": columns,
        "taggers": [t.name for t in report.manifest.taggers],
    }


def _scan(store: str, taggers: str) -> Record:
    """Polars reads the columns that applying reads, and adds them up: less can't be done with them."""
    import polars as pl

    columns = _columns(store, taggers)
    with _Clock() as clock:
        frame = pl.scan_parquet(f"{store}/features/*/data/*.parquet")
        sums = [_sum(pl.col(name), frame.collect_schema()[name]) for name in columns]
        frame.select(sums).collect(engine="streaming")
    return clock.read


def _sum(column: Any, kind: Any) -> Any:
    import polars as pl

    if kind == pl.String:
        return column.str.len_bytes().sum()
    return column.list.sum().sum() if kind == pl.List else column.sum()


def _columns(store: str, taggers: str) -> list[str]:
    from assay.flows.apply import base_run
    from assay.schemas.tagger import load_taggers
    from assay.workers.storage.objects import ObjectStore
    from assay.workers.stores import read_identity
    from assay.workers.tagger_set import TaggerSet

    objects = ObjectStore(store)
    run = base_run(objects, None)
    watched = read_identity(objects, run.features).features.watched
    return TaggerSet(load_taggers(Path(taggers)), run.encoder, watched).reads


class _Clock:
    """Wall and CPU seconds of a block, and the process's peak memory after it."""

    read: Record

    def __enter__(self) -> "_Clock":
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        self.read = {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3), "peak_rss": machine.peak_rss()}


def lines(record: Record) -> Iterator[str]:
    """The record for a reader."""
    yield f"{record['documents']:,} documents, {record['features_bytes'] / 2**30:.2f} GiB of features, one core"
    for name, cell in record["cells"].items():
        peak = cell["peak_rss"]["apply"] / 2**20
        speed = f"{cell['documents_a_minute']:,} documents a minute ({cell['documents_a_cpu_minute']:,} a CPU minute)"
        ratio = (
            f"{median(cell['ratio_to_scan'])} times the scan's time ({median(cell['cpu_ratio_to_scan'])} of CPU time)"
        )
        yield f"{name}: {speed}, {ratio}, {peak:.0f} MiB at most"


def main(arguments: list[str] | None = None) -> None:
    """Measures, and writes what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the store for the next run; by default a temporary one")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        sys.stdout.write(json.dumps(_work(*options.child)) + "\n")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        record = measure(Task(options.documents, options.features, folder, options.repeats))
    given = [
        "--documents",
        str(options.documents),
        "--features",
        str(options.features),
        "--repeats",
        str(options.repeats),
    ]
    record = {"command": " ".join(["python -m benchmarks.apply_taggers", *given])} | record
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    sys.stdout.write("\n".join(lines(record)) + "\n")


if __name__ == "__main__":
    main()
