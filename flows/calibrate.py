"""Sets a tagger's threshold on a tagged corpus, as an overlay beside the tagger, and draws what has to be labelled."""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.flows.output import write_whole
from assay.schemas.base import canonical_json
from assay.schemas.calibration import Calibration
from assay.schemas.errors import AssayError, printable, unknown_name
from assay.schemas.evidence import Figure
from assay.schemas.parameters import CalibrateParameters
from assay.schemas.store import ShardEntry, TagManifest
from assay.schemas.tagger import Tagger
from assay.taggers.calibration import TOP_SHARES, Labels, choose_threshold, figures_at, quotas, stratum_of, weights
from assay.taggers.score_counts import Scores, count_above, smallest
from assay.workers.corpora.rows import read_rows
from assay.workers.feature_table import iter_parquet
from assay.workers.sealing import source_shard
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import load_manifest, read_taggers

_YES, _NO = {"1", "true", "yes", "positive"}, {"0", "false", "no", "negative"}


class CalibrateReport(NamedTuple):
    """An overlay or a sample, whichever was asked for."""

    calibration: Calibration | None
    sampled: int
    """documents written for labelling"""
    strata: tuple[int, ...]
    """documents of the run in each stratum, lowest scores first"""


class _Run(NamedTuple):
    """A run's scores by one tagger."""

    store: ObjectStore
    manifest: TagManifest
    tagger: Tagger

    def tables(self, *columns: str) -> Iterator[tuple[ShardEntry, pa.Table]]:
        """Columns of the documents that have a score, row group after row group, in the run's order."""
        name = self.tagger.name
        for entry in self.manifest.shards:
            if entry.unreadable:
                continue
            source = pa.BufferReader(self.store.read_verified(entry.objects["tags"]))
            for table in iter_parquet(source, [*columns, name]):
                yield entry, table.filter(table[name].is_valid())

    def scores(self) -> Iterator[NDArray[np.float32]]:
        """The scores, a row group at a time."""
        for _, table in self.tables():
            yield table[self.tagger.name].to_numpy()


def calibrate(parameters: CalibrateParameters) -> CalibrateReport:
    """Sets the threshold by the one rule that is given, or writes a sample to label. The tagger is left as it is.

    Reads tags only, in bounded memory, and for a sample the texts of the documents drawn. AssayError where the labels
    are too few for what is asked of them.
    """
    store = ObjectStore(parameters.store)
    manifest = load_manifest(store, parameters.run)
    taggers = {t.name: t for t in read_taggers(store, manifest.tagset)}
    if parameters.tagger not in taggers:
        raise unknown_name("tagger", parameters.tagger, taggers, where=parameters.store)
    tagger = taggers[parameters.tagger]
    if tagger.kind != "score":
        raise AssayError(f"tagger {tagger.name!r} gives labels", hint="only a score has a threshold")
    run = _Run(store, manifest, tagger)
    unknown = manifest.undecided.get(tagger.name, 0)
    documents = manifest.rows_kept - unknown
    if not documents:
        raise AssayError(
            f"no document of run {manifest.run} has a score by {tagger.name!r}",
            where=parameters.store,
            hint=f"assay recompute {parameters.store} --run {manifest.run} decides them",
        )
    if parameters.sample is not None:
        if parameters.sample_out is not None and parameters.sample_out.exists():
            raise AssayError(
                "there is a file already, which may hold labels", where=str(parameters.sample_out), hint="name another"
            )
        edges = _edges(run.scores, documents)
        found = _sizes(run.scores, edges)
        return CalibrateReport(None, _write_sample(run, parameters, edges, found), found)
    rule, target = parameters.rule
    labelled, digest, figures = 0, None, {}
    sizes: tuple[int, ...] = ()
    if rule == "share":
        rank = documents - int(target * documents) - 1
        [threshold] = smallest(run.scores, [rank])
        if parameters.labels:
            labels, digest, sizes = _labels(run, parameters.labels, documents)
            labelled, figures = len(labels.score), figures_at(labels, threshold)
    else:
        if parameters.labels is None:
            raise AssayError(
                f"--{rule} needs --labels", hint="draw a sample with --sample N --sample-out FILE and label it"
            )
        labels, digest, sizes = _labels(run, parameters.labels, documents)
        labelled = len(labels.score)
        threshold, figures = choose_threshold(labels, rule, target)
    share = count_above(run.scores, threshold) / documents
    calibration = Calibration(
        tagger=tagger.name,
        fingerprint=tagger.fingerprint,
        store=store.root,
        run=manifest.run,
        threshold=threshold,
        rule=rule,
        target=target,
        documents=documents,
        unknown=unknown,
        labelled=labelled,
        labels_sha256=digest,
        figures={"share": Figure(value=share, low=share, high=share), **figures},
    )
    write_whole(parameters.overlay, calibration.model_dump_json(indent=1) + "\n")
    return CalibrateReport(calibration, 0, sizes)


def calibrate_lines(report: CalibrateReport, parameters: CalibrateParameters) -> list[str]:
    """What was set or drawn, in plain lines."""
    if report.calibration is None:
        named = f" --run {parameters.run}" if parameters.run else ""
        strata = ", ".join(f"{n:,}" for n in report.strata)
        return [
            f"wrote {report.sampled:,} documents to label to {parameters.sample_out} (from strata of {strata})",
            "next: put true or false into the label of each line, then: assay calibrate "
            f"{parameters.store}{named} --tagger {parameters.tagger} --fpr 0.01 --labels {parameters.sample_out}",
        ]
    c = report.calibration
    found = [
        f"{name} {figure.value:.4f}" + (f" ({figure.low:.4f} to {figure.high:.4f})" if name != "share" else "")
        for name, figure in c.figures.items()
    ]
    return [
        f"{c.tagger}: positive where the score is above {c.threshold:.6g}, for {c.rule} {c.target:g} on run {c.run}",
        f"on {c.documents:,} documents with a score ({c.unknown:,} undecided), {c.labelled:,} labelled: "
        + ", ".join(found),
        f"wrote {parameters.overlay}",
    ]


def _edges(scores: Scores, documents: int) -> list[float]:
    """Scores that part the strata, ascending: the highest 0.1 %, 0.3 %, 1 % ... of the documents, and the rest."""
    ranks = [documents - 1 - int(share * documents) for share in sorted(TOP_SHARES, reverse=True)]
    return sorted(set(smallest(scores, ranks)))


def _sizes(scores: Scores, edges: Sequence[float]) -> tuple[int, ...]:
    counts = np.zeros(len(edges) + 1, np.int64)
    for part in scores():
        counts += np.bincount(stratum_of(part, edges), minlength=len(counts))
    return tuple(int(n) for n in counts)


def _write_sample(run: _Run, parameters: CalibrateParameters, edges: Sequence[float], sizes: Sequence[int]) -> int:
    """Writes JSONL to label: of each stratum about as many, those with the smallest hashes of their ids."""
    assert parameters.sample is not None and parameters.sample_out is not None  # noqa: S101 - checked there
    quota = quotas(sizes, parameters.sample)
    best: list[list[tuple[str, str, int, str, float]]] = [[] for _ in sizes]
    for entry, table in run.tables("doc_id", "row"):
        scores = table[run.tagger.name].to_numpy()
        stratum = stratum_of(scores, edges)
        ids, rows = table["doc_id"].to_pylist(), table["row"].to_pylist()
        for at, s in enumerate(stratum.tolist()):
            best[s].append((_draw(ids[at]), entry.shard, rows[at], ids[at], float(scores[at])))
        best = [sorted(found)[:most] for found, most in zip(best, quota, strict=True)]
    chosen = {(shard, row): (s, name, score) for s, found in enumerate(best) for _, shard, row, name, score in found}
    taken = [len(found) for found in best]
    lines = []
    for (shard, row), text in _texts(run, sorted(chosen)):
        s, name, score = chosen[shard, row]
        line = {"id": name, "label": None, "score": score, "stratum": s, "weight": sizes[s] / taken[s]}
        lines.append(json.dumps({**line, "text": text}) + "\n")
    write_whole(parameters.sample_out, "".join(lines))
    return len(chosen)


def _texts(run: _Run, wanted: Sequence[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], str]]:
    options = run.manifest.options
    for entry in run.manifest.shards:
        rows = [row for shard, row in wanted if shard == entry.shard]
        values = (v for t in read_rows(source_shard(entry), options, rows) for v in t[options.text_column].to_pylist())
        for row, value in zip(rows, values, strict=True):
            yield (entry.shard, row), value.decode() if isinstance(value, bytes) else value


def _labels(run: _Run, path: Path, documents: int) -> tuple[Labels, str, tuple[int, ...]]:
    """The labelled documents with their scores and weights, the hash of ids and labels, and the strata's sizes."""
    given = dict(_read_labels(path, run.tagger))
    edges = _edges(run.scores, documents)
    found: dict[str, float] = {}
    wanted = pa.array(list(given), pa.string())
    for _, table in run.tables("doc_id"):
        mine = table.filter(pc.is_in(table["doc_id"], value_set=wanted))
        found.update(zip(mine["doc_id"].to_pylist(), mine[run.tagger.name].to_pylist(), strict=True))
    if missing := sorted(given.keys() - found.keys()):
        raise AssayError(
            f"{len(missing)} labelled documents have no score in run {run.manifest.run}, among them "
            f"{printable(missing[0])!r}",
            where=str(path),
            hint="label documents of this run; what it left undecided has no score",
        )
    names = sorted(given)
    scores = np.array([found[name] for name in names])
    sizes = _sizes(run.scores, edges)
    labels = Labels(scores, np.array([given[n] for n in names]), weights(stratum_of(scores, edges), sizes))
    digest = hashlib.sha256(canonical_json([[n, given[n]] for n in names]).encode()).hexdigest()
    return labels, digest, sizes


def _read_labels(path: Path, tagger: Tagger) -> Iterator[tuple[str, bool]]:
    """(id, positive) of each labelled line of a JSONL or CSV file; lines whose label is null or empty are left out."""
    yes = _YES | {tagger.labels[0].lower()}
    seen: set[str] = set()
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        if not isinstance(row, dict) or "id" not in row or "label" not in row:
            raise AssayError("no id and label here", where=where, hint="each line has an id and a label")
        label, name = str("" if row["label"] is None else row["label"]).strip().lower(), str(row["id"])
        if not label:
            continue
        if label not in yes | _NO:
            raise AssayError(
                f"label {printable(row['label'])!r} says neither yes nor no",
                where=where,
                hint=f"known: {', '.join(sorted(yes | _NO))}",
            )
        if name in seen:
            raise AssayError(f"document {printable(name)!r} is labelled twice", where=where)
        seen.add(name)
        yield name, label in yes
    if not seen:
        raise AssayError("no line is labelled", where=str(path), hint="put true or false into each line's label")


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            if path.suffix == ".csv":
                yield from enumerate(csv.DictReader(lines), 2)
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, json.loads(line)
    except OSError as e:
        raise AssayError(f"can't read labels: {e.strerror}", where=str(path)) from e
    except ValueError as e:
        raise AssayError(f"not a line of JSON: {printable(e)}", where=str(path)) from e


def _draw(name: str) -> str:
    """Orders documents at random, the same way each time."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
