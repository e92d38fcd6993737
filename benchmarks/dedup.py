"""Recall and precision of deduplication on planted copies, and its time beside rivals on the same files.

    python -m benchmarks.dedup /path/to/pages.jsonl.gz --pages 100000 --rival datasketch=/venv/bin/python

Pages are put together from the paragraphs of a file of texts (JSON lines with `text`); no model runs. With
`--groups FILE:COLUMN` and `--store STORE` (a tagged run over that file) features are measured too: documents that share
a value of the column are the same content in other words.
"""

import argparse
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from assay.flows.dedup import find_copies
from assay.schemas.dedup import Dedup, DedupManifest
from assay.schemas.parameters import DedupParameters
from assay.schemas.recipe import TaggedSource
from assay.workers.dedup.words import WordHasher, normalise, runs
from assay.workers.feature_table import iter_parquet
from assay.workers.session import ray_session
from assay.workers.storage.objects import ObjectStore
from benchmarks.machine import describe
from benchmarks.planted import PLANTS, Page, pages, planted, write_store

_RESULTS = Path(__file__).with_name("results")
_METHODS: dict[str, dict[str, Any]] = {
    "exact": {},
    "near 0.8": {"near": {"threshold": 0.8}},
    "near 0.8, 256 values": {"near": {"threshold": 0.8, "permutations": 256}},
    "near 0.5": {"near": {"threshold": 0.5}},
}
_COSINES = (0.75, 0.8, 0.85, 0.9, 0.95)


def main() -> None:
    """Measures and writes the record and its page."""
    options = _arguments()
    record: dict[str, Any] = {
        "date": str(date.today()),
        "command": shlex.join(["python", "-m", "benchmarks.dedup", *(re.sub(r".*/", "", a) for a in sys.argv[1:])]),
        "machine": describe("cpu", 1),
        "versions": {name: version(name) for name in ("assay", "rensa", "numpy", "scipy", "pyarrow", "ray")},
        "load_before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory(dir=options.work) as folder, ray_session("local", cpus=options.workers):
        record["texts"] = _texts(options, Path(folder))
        if options.store:
            record["features"] = _features(options, Path(folder))
    record["load_after"] = os.getloadavg()[0]
    out = options.out or _RESULTS / f"dedup-{record['date']}.json"
    out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    out.with_suffix(".md").write_text("\n".join(_page(record)) + "\n", "utf-8")


def _texts(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    sources = [row["text"] for row in _rows(options.texts)]
    everything = planted(pages(sources, options.pages, seed=1), options.each, seed=2)
    store, _ = write_store(folder, ((page.id, page.text) for page in everything), files=options.files)
    place = {page.id: n for n, page in enumerate(everything)}
    second = {max(page.id, page.of, key=place.__getitem__): page for page in everything if page.of}
    near = _true_similarities(everything)
    record: dict[str, Any] = {
        "documents": len(everything),
        "characters": sum(len(page.text) for page in everything),
        "planted": {kind: sum(page.kind == kind for page in second.values()) for kind in PLANTS},
        "jaccard": {kind: _quantiles([value for page, value in near.values() if page.kind == kind]) for kind in PLANTS},
        "methods": {},
    }
    for name in options.methods:
        started = time.monotonic()
        _, dropped = _search([store], folder / f"out-{len(record['methods'])}", _METHODS[name], options.workers)
        record["methods"][name] = _score(dropped, second, near) | {"seconds": round(time.monotonic() - started, 1)}
        _tell(f"{name}: {record['methods'][name]}")
    for rival in options.rival:
        name, _, python = rival.partition("=")
        out = folder / f"{name}.txt"
        command = [python or sys.executable, "-m", "benchmarks.dedup_rivals", name, str(folder / "corpus"), str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
        *found, seconds = out.read_text("utf-8").split("\n")[:-1]
        record["methods"][name] = _score(set(found), second, near) | {"seconds": float(seconds)}
        _tell(f"{name}: {record['methods'][name]}")
    return record


def _features(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All thresholds on one tagged corpus whose groups of retellings are known."""
    path, _, column = options.groups.rpartition(":")
    group = {row["id"]: re.sub(r"-?(adv|ele|int)\b.*", "", str(row[column]).lower()) for row in _rows(Path(path))}
    pairs = sum(n * (n - 1) // 2 for n in Counter(group.values()).values())
    record: dict[str, Any] = {"documents": len(group), "groups": len(set(group.values())), "pairs": pairs, "layers": {}}
    surplus = len(group) - record["groups"]
    for layer in options.layers:
        for cosine in _COSINES:
            spec = {"features": {"layer": layer, "cosine": cosine}}
            manifest, _ = _search(options.store, folder / f"features-{layer}-{cosine}", spec, options.workers)
            lists = _lists(manifest, folder / f"features-{layer}-{cosine}")
            dropped = [row for row in lists if row["doc_id"] in group]
            right = sum(group[row["doc_id"]] == group.get(row["kept_id"]) for row in dropped)
            record["layers"].setdefault(str(layer), {})[str(cosine)] = {
                "dropped": len(dropped),
                "recall": round(right / surplus, 4),
                "precision": round(right / len(dropped), 4) if dropped else None,
                "others_dropped": len(lists) - len(dropped),
            }
            _tell(f"layer {layer}, cosine {cosine}: {record['layers'][str(layer)][str(cosine)]}")
    near, _ = _search(options.store, folder / "features-near", {"near": {"threshold": 0.5}}, options.workers)
    found = [row for row in _lists(near, folder / "features-near") if row["doc_id"] in group]
    right = sum(group[row["doc_id"]] == group.get(row["kept_id"]) for row in found)
    record["near 0.5"] = {"dropped": len(found), "recall": round(right / surplus, 4)}
    return record


def _search(stores: Sequence[str], output: Path, spec: dict[str, Any], workers: int) -> tuple[DedupManifest, set[str]]:
    report = find_copies.fn(
        DedupParameters(
            sources=tuple(TaggedSource(store=store) for store in stores),
            output=str(output),
            dedup=Dedup.model_validate(spec),
            workers=workers,
        )
    )
    return report.manifest, {row["doc_id"] for row in _lists(report.manifest, output)}


def _lists(manifest: DedupManifest, output: Path) -> list[dict[str, Any]]:
    store = ObjectStore(str(output))
    stored = [shard.copies for shard in manifest.shards if shard.copies]
    tables = [table for one in stored for table in iter_parquet(pa.BufferReader(store.read_verified(one)))]
    return pa.concat_tables(tables).to_pylist() if tables else []


def _score(dropped: set[str], second: dict[str, Page], near: dict[str, tuple[Page, float]]) -> dict[str, Any]:
    """Recall by kind, and precision: of the documents that go, how many are copies.

    `second` is the later one of each planted pair, which has to go; `near` adds its true Jaccard similarity.
    """
    found = {kind: sum(i in dropped for i, page in second.items() if page.kind == kind) for kind in PLANTS}
    reach = {i for i, (_, value) in near.items() if value >= 0.8}
    return {
        "recall": {
            kind: round(count / sum(page.kind == kind for page in second.values()), 4) for kind, count in found.items()
        },
        "recall_at_0.8": round(len(reach & dropped) / max(1, len(reach)), 4),
        "dropped": len(dropped),
        "precision": round(len(dropped & set(second)) / len(dropped), 4) if dropped else None,
        "below_0.8": sum(near[i][1] < 0.8 for i in dropped if i in near),
    }


def _true_similarities(everything: Sequence[Page]) -> dict[str, tuple[Page, float]]:
    """The later one of each planted pair, with the pair's exact Jaccard similarity of 5-word shingles."""
    hasher, place = WordHasher(), {page.id: n for n, page in enumerate(everything)}
    found = {}
    for page in everything:
        if page.of:
            original = everything[place[page.of]]
            one, other = (set(runs(hasher(normalise(p.text)), 5).tolist()) for p in (page, original))
            later = max(page.id, page.of, key=place.__getitem__)
            found[later] = (page, len(one & other) / len(one | other))
    return found


def _quantiles(values: Iterable[float]) -> list[float]:
    ordered = sorted(values)
    return [round(ordered[int(q * (len(ordered) - 1))], 3) for q in (0.05, 0.5, 0.95)]


def _page(record: dict[str, Any]) -> Iterator[str]:
    texts = record["texts"]
    yield from (f"# Deduplication benchmark, {record['date']}", "", f"`{record['command']}`", "")
    machine = record["machine"]
    yield f"- machine: {machine['cpu']}, {machine['cores']} cores"
    yield "- versions: " + ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    yield f"- load average: {record['load_before']:.1f} before, {record['load_after']:.1f} after"
    yield f"- {texts['documents']:,} documents, {texts['characters'] / 1e6:,.0f} M characters"
    yield from ("", "## Planted copies", "")
    names = list(texts["methods"])
    yield from _table(
        ["kind", "planted", "Jaccard (5 %, median, 95 %)", *names],
        [
            [
                kind,
                str(count),
                " ".join(f"{value:.2f}" for value in texts["jaccard"][kind]),
                *(f"{100 * texts['methods'][name]['recall'][kind]:.1f} %" for name in names),
            ]
            for kind, count in texts["planted"].items()
        ],
    )
    yield from ("", "Recall by kind. The same methods over all kinds:", "")
    yield from _table(
        ["method", "recall at Jaccard >= 0.8", "dropped", "precision", "dropped below 0.8", "seconds"],
        [
            [
                name,
                f"{100 * found['recall_at_0.8']:.1f} %",
                f"{found['dropped']:,}",
                f"{100 * (found['precision'] or 0):.2f} %",
                f"{found['below_0.8']:,}",
                f"{found['seconds']:,.0f}",
            ]
            for name, found in texts["methods"].items()
        ],
    )
    if "features" in record:
        yield from ("", "## The same content in other words", "")
        features = record["features"]
        yield f"{features['documents']} documents, {features['groups']} contents. Recall and precision by cosine:"
        yield ""
        yield from _table(
            ["layer", *map(str, _COSINES)],
            [
                [
                    layer,
                    *(f"{100 * v['recall']:.1f} %, {100 * (v['precision'] or 0):.1f} %" for v in values.values()),
                ]
                for layer, values in features["layers"].items()
            ],
        )
        yield ""
        yield f"MinHash at 0.5 finds {100 * features['near 0.5']['recall']:.1f} % of them."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="JSON lines with `text`, plain or .gz")
    parser.add_argument("--pages", type=int, default=100_000)
    parser.add_argument("--each", type=int, default=500, help="copies of each kind")
    parser.add_argument("--files", type=int, default=16, help="files, each a shard")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--methods", nargs="*", default=list(_METHODS), choices=list(_METHODS))
    parser.add_argument("--rival", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--store", nargs="+", help="tagged runs, of which one holds the file of --groups")
    parser.add_argument("--groups", default="", metavar="FILE:COLUMN")
    parser.add_argument("--layers", type=int, nargs="+", default=[3])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
