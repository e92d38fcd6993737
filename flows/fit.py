"""Fits the default taggers of a scope: `python -m assay.flows.fit --data FOLDER --work FOLDER --out FOLDER`.

Features come from the tagging flow itself, with every feature kept. A tagger is a logistic regression on the features
that differ most between the labels; pooling, number of features and penalty are chosen on validation texts, and the
figures in the file are of test texts that took no part in either. A TF-IDF regression on the same splits stands
beside them, and the summary says who won. Needs the extra `fit` (scikit-learn) and the labelled sets.
"""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import sklearn
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from assay.flows.engine import run_flow
from assay.flows.labelled import AXES, Labelled
from assay.flows.progress import stderr
from assay.flows.scopes import load_scope
from assay.flows.tag import tag_corpus
from assay.sae_runtime.runtime import Runtime
from assay.schemas.parameters import TagParameters
from assay.schemas.scope import Scope
from assay.schemas.store import TagManifest
from assay.schemas.tagger import FeatureWeight, Pooling, Tagger, dump_tagger
from assay.workers.feature_table import iter_parquet, layer_columns
from assay.workers.storage.objects import ObjectStore

_POOLINGS: list[tuple[Pooling, bool]] = [("any", False), ("max", True), ("mean", True)]
_WIDTHS = {"score": (64, 256), "label": (250, 500)}
_PENALTIES = (0.1, 1.0)
_TRACED_TEXTS = 400
_ALL_FEATURES = 1_000_000
_BOOTSTRAPS = 200

_SPECS: dict[str, dict[str, Any]] = {
    "quality": {
        "axis": "quality",
        "kind": "score",
        "positive": "high",
        "description": "prose worth learning from, against spam, listings, truncated and broken text",
    },
    "toxicity": {
        "axis": "safety",
        "kind": "score",
        "positive": "toxic",
        "description": "insults, abuse and hateful speech",
    },
    "domain": {"axis": "domain", "kind": "label", "description": "topic of a web page, in 24 classes"},
    "language": {"axis": "language", "kind": "label", "description": "language, programming code, or other"},
}


class Matrix(NamedTuple):
    """Features of N texts over all layers: column = layer index * d_sae + feature."""

    pooled: dict[str, sparse.csr_matrix]
    d_sae: int
    layers: tuple[int, ...]


class Shaped(NamedTuple):
    """A pooling scaled to [0, 1], and each column's power to tell the labels apart (ANOVA F on discovery texts)."""

    pooling: Pooling
    sqrt: bool
    x: sparse.csr_matrix
    scale: NDArray[np.float64]
    power: NDArray[np.float64]


class Fitted(NamedTuple):
    """One candidate: a regression on chosen columns."""

    shaped: Shaped
    columns: NDArray[np.int64]
    model: LogisticRegression
    validation: float


def fit_axis(name: str, rows: Sequence[Labelled], matrix: Matrix, runtime: Runtime) -> Tagger:
    """The best tagger for one axis by validation texts, with its test figures and the baseline's."""
    spec = _SPECS[name]
    labels = np.array([row.label for row in rows])
    splits = np.array([row.split for row in rows])
    weight = _weights(rows)
    shaped = [_shaped(matrix, pooling, sqrt, labels, splits == "discovery") for pooling, sqrt in _POOLINGS]
    best = max(
        (
            _candidate(one, width, penalty, labels, splits, weight, spec)
            for one in shaped
            for width in _WIDTHS[spec["kind"]]
            for penalty in _PENALTIES
        ),
        key=lambda fitted: fitted.validation,
    )
    model = best.model
    if spec["kind"] == "score":
        classes: tuple[str, ...] = (spec["positive"],)
        sign = 1.0 if model.classes_[1] == spec["positive"] else -1.0
        weights, bias = sign * model.coef_.T, sign * model.intercept_
    else:
        classes, weights, bias = tuple(map(str, model.classes_)), model.coef_.T, model.intercept_
    tokens = _typical_tokens(runtime, matrix, best.columns, [r.text for r in rows if r.split == "discovery"])
    features = tuple(
        FeatureWeight(
            layer=matrix.layers[column // matrix.d_sae],
            feature=int(column % matrix.d_sae),
            scale=float(f"{scale:.4g}"),
            weights=tuple(float(f"{w:.3g}") for w in row),
            tokens=tokens.get(int(column), ()),
        )
        for column, scale, row in zip(best.columns, best.shaped.scale[best.columns], weights, strict=True)
    )
    threshold, evidence = _evidence(best, rows, labels, splits, spec)
    return Tagger(
        name=name,
        axis=spec["axis"],
        kind=spec["kind"],
        description=spec["description"],
        labels=classes,
        encoder=runtime.encoder_fingerprint,
        pooling=best.shaped.pooling,
        sqrt=best.shaped.sqrt,
        bias=tuple(float(f"{b:.4g}") for b in bias),
        features=features,
        threshold=threshold,
        threshold_rule="largest F1 on validation texts" if spec["kind"] == "score" else "",
        method=f"logistic regression, C = {best.model.C}, on the {len(features)} features of largest ANOVA F",
        fitted_on={
            "texts": {s: int((splits == s).sum()) for s in ("discovery", "validation", "test")},
            "sources": sorted({row.source for row in rows}),
            "sha256": hashlib.sha256("".join(f"{r.id}\0{r.label}\0" for r in rows).encode()).hexdigest(),
            "sklearn": sklearn.__version__,
        },
        evidence=evidence,
    )


def _shaped(matrix: Matrix, pooling: Pooling, sqrt: bool, labels: NDArray, train: NDArray) -> Shaped:
    pooled = matrix.pooled[pooling]
    scale = _scales(pooled[train])
    x = pooled.copy()
    x.data = np.minimum(x.data / scale[x.indices], 1.0)
    if sqrt:
        x.data = np.sqrt(x.data)
    seen = np.flatnonzero(np.diff(x[train].tocsc().indptr))
    power = np.zeros(x.shape[1])
    power[seen] = np.nan_to_num(f_classif(x[train][:, seen], labels[train])[0], posinf=0.0)
    return Shaped(pooling, sqrt, x, scale, power)


def _candidate(
    shaped: Shaped,
    width: int,
    penalty: float,
    labels: NDArray,
    splits: NDArray,
    weight: NDArray,
    spec: dict[str, Any],
) -> Fitted:
    train, held = splits == "discovery", splits == "validation"
    columns = np.sort(np.argsort(-shaped.power, kind="stable")[:width])
    x = shaped.x[:, columns]
    model = LogisticRegression(C=penalty, max_iter=200)
    model.fit(x[train].toarray(), labels[train], sample_weight=weight[train])
    if spec["kind"] == "score":
        score = _positive(model, x[held], spec)
        value = float(roc_auc_score(labels[held] == spec["positive"], score, sample_weight=weight[held]))
    else:
        value = float(f1_score(labels[held], model.predict(x[held]), average="macro"))
    return Fitted(shaped, columns, model, value)


def _scales(pooled: sparse.csr_matrix) -> NDArray[np.float64]:
    """For each column the 95th percentile of its non-zero values: the cut keeps one burst from deciding."""
    columns = pooled.tocsc()
    scales = np.ones(columns.shape[1])
    for c in np.flatnonzero(np.diff(columns.indptr)):
        scales[c] = max(1e-6, float(np.quantile(columns.data[columns.indptr[c] : columns.indptr[c + 1]], 0.95)))
    return scales


def _positive(model: LogisticRegression, x: sparse.csr_matrix, spec: dict[str, Any]) -> NDArray[np.float64]:
    return model.predict_proba(x)[:, list(model.classes_).index(spec["positive"])]


def _weights(rows: Sequence[Labelled]) -> NDArray[np.float64]:
    """Each label of each source counts the same in sum: neither a large source nor a lopsided one sets the tag.

    Without it a source's style or language would be as good a sign as what its texts say.
    """
    cells = Counter((row.source, row.label) for row in rows)
    return np.array([len(rows) / len(cells) / cells[row.source, row.label] for row in rows])


def _evidence(
    best: Fitted, rows: Sequence[Labelled], labels: NDArray, splits: NDArray, spec: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    """(threshold, figures on test texts with the baseline's beside them)."""
    x = best.shaped.x[:, best.columns]
    train, held, test = (splits == s for s in ("discovery", "validation", "test"))
    baseline = _tfidf(rows, labels, splits, spec)
    sources = np.array([row.source for row in rows])
    if spec["kind"] == "label":
        predicted = best.model.predict(x[test])
        figures = label_figures(labels[test], predicted)
        rival = label_figures(labels[test], baseline["model"].predict(baseline["x"][test]))
        right = predicted == labels[test]
        by_source = {
            s: {"accuracy": round(float(right[sources[test] == s].mean()), 4)} for s in sorted(set(sources[test]))
        }
        frequent = max(set(labels[train]), key=list(labels[train]).count)
        majority = label_figures(labels[test], np.full(test.sum(), frequent))
        key, threshold = "macro_f1", 0.5
    else:
        truth = labels == spec["positive"]
        score = _positive(best.model, x, spec)
        threshold = best_threshold(truth[held], score[held])
        figures = score_figures(truth[test], score[test], threshold)
        rival_score = _positive(baseline["model"], baseline["x"], spec)
        rival = score_figures(truth[test], rival_score[test], best_threshold(truth[held], rival_score[held]))
        by_source = {s: _source_figure(truth, score, test & (sources == s)) for s in sorted(set(sources[test]))}
        majority = {"f1": round(float(f1_score(truth[test], np.ones(test.sum()))), 4), "auroc": 0.5}
        key = "auroc"
    won = figures[key] >= rival[key]
    summary = (
        f"{'beats' if won else 'LOSES TO'} TF-IDF + logistic regression on test texts: "
        f"{key} {figures[key]:.3f} against {rival[key]:.3f}"
    )
    evidence = {
        "summary": summary,
        "held_out": figures,
        "baselines": {"tfidf_logistic": rival, "majority_class": majority},
        "by_source": by_source,
        "chosen_on_validation": round(best.validation, 4),
    }
    return threshold, evidence


def label_figures(truth: NDArray, predicted: NDArray) -> dict[str, float]:
    """Macro-F1 with its bootstrapped 95 % interval, and accuracy."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(truth), len(truth)) for _ in range(_BOOTSTRAPS)]
    macro = [f1_score(truth[d], predicted[d], average="macro", zero_division=0) for d in draws]
    return {
        "macro_f1": round(float(f1_score(truth, predicted, average="macro", zero_division=0)), 4),
        "macro_f1_low": round(float(np.quantile(macro, 0.025)), 4),
        "macro_f1_high": round(float(np.quantile(macro, 0.975)), 4),
        "accuracy": round(float((truth == predicted).mean()), 4),
        "n": len(truth),
    }


def score_figures(truth: NDArray, score: NDArray, threshold: float) -> dict[str, float]:
    """AUROC with its bootstrapped 95 % interval, average precision, and what a cut at `threshold` gives."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(truth), len(truth)) for _ in range(_BOOTSTRAPS)]
    aurocs = [roc_auc_score(truth[d], score[d]) for d in draws]
    said = score > threshold
    return {
        "auroc": round(float(roc_auc_score(truth, score)), 4),
        "auroc_low": round(float(np.quantile(aurocs, 0.025)), 4),
        "auroc_high": round(float(np.quantile(aurocs, 0.975)), 4),
        "average_precision": round(float(average_precision_score(truth, score)), 4),
        "f1": round(float(f1_score(truth, said)), 4),
        "precision": round(float(precision_score(truth, said, zero_division=0)), 4),
        "recall": round(float(recall_score(truth, said)), 4),
        "false_positive_rate": round(float(said[~truth].mean()), 4),
        "positives": int(truth.sum()),
        "n": len(truth),
    }


def _source_figure(truth: NDArray, score: NDArray, chosen: NDArray) -> dict[str, float]:
    """AUROC within one source, or the mean score where it has one class only."""
    n, positives = int(chosen.sum()), int(truth[chosen].sum())
    if 0 < positives < n:
        return {"auroc": round(float(roc_auc_score(truth[chosen], score[chosen])), 4), "n": n, "positives": positives}
    return {"mean_score": round(float(score[chosen].mean()), 4), "n": n, "positives": positives}


def best_threshold(truth: NDArray, score: NDArray) -> float:
    """The cut from 0.05 to 0.95 with the largest F1."""
    grid = np.linspace(0.05, 0.95, 91)
    return round(float(grid[np.argmax([f1_score(truth, score > t) for t in grid])]), 2)


def _tfidf(rows: Sequence[Labelled], labels: NDArray, splits: NDArray, spec: dict[str, Any]) -> dict[str, Any]:
    """TF-IDF + logistic regression: characters for languages, else words; the penalty is chosen on validation texts."""
    texts = [row.text for row in rows]
    train, held = splits == "discovery", splits == "validation"
    analyzer, ngrams = ("char_wb", (1, 3)) if spec["axis"] == "language" else ("word", (1, 2))
    vectors = TfidfVectorizer(analyzer=analyzer, ngram_range=ngrams, max_features=40_000, sublinear_tf=True)
    vectors.fit([t for t, chosen in zip(texts, train, strict=True) if chosen])
    x = vectors.transform(texts).tocsr()
    found = []
    for penalty in (1.0, 10.0):
        model = LogisticRegression(C=penalty, max_iter=100, class_weight="balanced").fit(x[train], labels[train])
        value = f1_score(labels[held], model.predict(x[held]), average="macro")
        found.append({"x": x, "model": model, "value": value})
    return max(found, key=lambda f: f["value"])


def _typical_tokens(
    runtime: Runtime, matrix: Matrix, columns: NDArray[np.int64], texts: Sequence[str]
) -> dict[int, tuple[str, ...]]:
    """Column -> up to five distinct tokens on which the feature fires most, over a sample of the texts."""
    wanted: dict[int, list[int]] = {}
    for column in columns:
        wanted.setdefault(matrix.layers[column // matrix.d_sae], []).append(int(column % matrix.d_sae))
    strongest: dict[int, dict[str, float]] = {}
    for text in texts[:: max(1, len(texts) // _TRACED_TEXTS)]:
        short = text[:1000]
        for f in runtime.trace(short, wanted):
            column = matrix.layers.index(f.layer) * matrix.d_sae + f.feature
            token = short[f.start : f.end].strip()
            if token:
                seen = strongest.setdefault(column, {})
                seen[token] = max(seen.get(token, 0.0), f.act)
    return {
        column: tuple(t for t, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:5])
        for column, seen in strongest.items()
    }


class Features:
    """Features of every labelled text, each text once whatever the axes that use it; every feature is kept."""

    def __init__(self, rows: Sequence[Labelled], scope: Scope, work: Path) -> None:
        """Runs the tagging flow over the texts: resumable, on all cores."""
        texts = {row.id: row.text for row in rows}
        corpus = work / "texts.jsonl"
        work.mkdir(parents=True, exist_ok=True)
        # In one order whatever the axes, so that their features are found again.
        lines = "".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in sorted(texts.items()))
        if not corpus.exists() or corpus.read_text("utf-8") != lines:
            corpus.write_text(lines, "utf-8")
        whole = work / "scope.yaml"
        changes = {"top_m": _ALL_FEATURES, "taggers": None, "shard_mb": 1.0, "name": f"{scope.name}-whole"}
        whole.write_text(json.dumps(scope.model_copy(update=changes).model_dump(mode="json")), "utf-8")
        self._store = ObjectStore(str(work / "store"))
        parameters = TagParameters(corpus=str(corpus), store=self._store.root, scope=str(whole), id_column="id")
        self._manifest: TagManifest = run_flow(tag_corpus, parameters).manifest
        if self._manifest.rows_kept != len(texts):
            raise ValueError(f"{len(texts)} texts, but {self._manifest.quarantine_reasons} quarantined")
        identity = json.loads(self._store.read(f"features/{self._manifest.features}/identity.json"))
        self._d_sae, self._layers = identity["encoder"]["d_sae"], scope.layers
        self._place: dict[str, int] = {}
        self._pooled = self._load()

    def _load(self) -> dict[str, sparse.csr_matrix]:
        parts: dict[str, list[sparse.csr_matrix]] = {pooling: [] for pooling, _ in _POOLINGS}
        for entry in self._manifest.shards:
            for table in iter_parquet(pa.BufferReader(self._store.read_verified(entry.objects["features"]))):
                for doc_id in table["doc_id"].to_pylist():
                    self._place[doc_id] = len(self._place)
                for pooling, part in _pooled(table, self._layers, self._d_sae).items():
                    if pooling in parts:
                        parts[pooling].append(part)
        return {pooling: sparse.vstack(part).tocsr() for pooling, part in parts.items()}

    def of(self, rows: Sequence[Labelled]) -> Matrix:
        """The rows' features, in their order."""
        places = [self._place[row.id] for row in rows]
        return Matrix({p: m[places] for p, m in self._pooled.items()}, self._d_sae, self._layers)


def _pooled(table: pa.Table, layers: Sequence[int], d_sae: int) -> dict[str, sparse.csr_matrix]:
    by_layer = [layer_columns(table, layer) for layer in layers]
    document = np.concatenate([c.document for c in by_layer])
    column = np.concatenate([c.ids.astype(np.int64) + i * d_sae for i, c in enumerate(by_layer)])
    shape = (table.num_rows, d_sae * len(layers))
    values = {
        "any": np.ones(len(document)),
        "max": np.concatenate([c.max for c in by_layer]),
        "mean": np.concatenate([c.mean for c in by_layer]),
        "count": np.concatenate([c.count for c in by_layer]),
    }
    return {name: sparse.csr_matrix((v.astype(np.float64), (document, column)), shape) for name, v in values.items()}


def main() -> None:
    """Fits every axis and writes one tagger file each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled sets (*.jsonl.gz)")
    parser.add_argument("--work", type=Path, required=True, help="folder for features, kept for the next time")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tagger files")
    parser.add_argument("--scope", default="embedded")
    parser.add_argument("--axes", nargs="*", default=list(AXES), choices=list(AXES))
    args = parser.parse_args()
    scope = load_scope(args.scope)
    runtime = Runtime(scope)
    args.out.mkdir(parents=True, exist_ok=True)
    say = stderr().print
    labelled = {name: [row for row in AXES[name](args.data) if row.text.strip()] for name in args.axes}
    features = Features([row for rows in labelled.values() for row in rows], scope, args.work)
    for name, rows in labelled.items():
        say(f"{name}: {len(rows):,} texts")
        tagger = fit_axis(name, rows, features.of(rows), runtime)
        path = args.out / f"{name}.json"
        path.write_text(dump_tagger(tagger), "utf-8")
        say(f"{name}: {tagger.evidence['summary']} ({tagger.method}, {tagger.pooling}) -> {path}")


if __name__ == "__main__":
    main()
