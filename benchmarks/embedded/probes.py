"""One task, several ways of telling its labels: the same splits, each way's settings chosen on validation texts."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from assay.schemas.evidence import Figures
from assay.taggers.figures import best_threshold, draw, label_figures, score_figures
from benchmarks.embedded.representations import Pooled
from benchmarks.embedded.tasks import Task

Matrix: TypeAlias = NDArray[np.float64] | sparse.csr_matrix


class Probe(NamedTuple):
    """A fitted probe."""

    model: LogisticRegression
    x: Matrix
    value: float
    """on validation texts: macro-F1, or AUROC of a yes/no task"""
    setting: str


def compare(task: Task, texts: Sequence[str], trained: Pooled, control: Pooled) -> dict[str, dict[str, Any]]:
    """Way -> figures on test texts."""
    splits = np.array([row.split for row in task.rows])
    labels = np.array([row.label for row in task.rows])
    ways = {
        "SAE features": [("", _features(trained, splits))],
        "dense probe": [(f"layer {n}, ", _standard(mean, splits)) for n, mean in trained.mean.items()],
        "TF-IDF": [(f"{kind}, ", _tfidf(texts, splits, kind)) for kind in ("word", "char_wb")],
        "random weights: SAE features": [("", _features(control, splits))],
        "random weights: dense probe": [(f"layer {n}, ", _standard(mean, splits)) for n, mean in control.mean.items()],
    }
    return {
        name: _figures(_best(candidates, labels, splits, task), labels, splits, task)
        for name, candidates in ways.items()
    }


def _features(pooled: Pooled, splits: NDArray) -> sparse.csr_matrix:
    """Square roots of the activations, each feature scaled to at most 1 on discovery texts."""
    return np.sqrt(MaxAbsScaler().fit(pooled.max[splits == "discovery"]).transform(pooled.max)).tocsr()


def _standard(mean_ND: NDArray, splits: NDArray) -> NDArray[np.float64]:
    return StandardScaler().fit(mean_ND[splits == "discovery"]).transform(mean_ND)


def _tfidf(texts: Sequence[str], splits: NDArray, kind: str) -> sparse.csr_matrix:
    ngrams = (1, 2) if kind == "word" else (1, 4)
    vectors = TfidfVectorizer(analyzer=kind, ngram_range=ngrams, max_features=40_000, sublinear_tf=True)
    vectors.fit([text for text, split in zip(texts, splits, strict=True) if split == "discovery"])
    return vectors.transform(texts).tocsr()


def _best(candidates: list[tuple[str, Matrix]], labels: NDArray, splits: NDArray, task: Task) -> Probe:
    train, held = splits == "discovery", splits == "validation"
    probes = []
    for name, x in candidates:
        for penalty in (0.01, 0.1, 1.0, 10.0):
            model = LogisticRegression(C=penalty, max_iter=150, class_weight="balanced").fit(x[train], labels[train])
            if task.positive:
                value = float(roc_auc_score(labels[held] == task.positive, _score(model, x[held], task)))
            else:
                value = float(f1_score(labels[held], model.predict(x[held]), average="macro"))
            probes.append(Probe(model, x, value, f"{name}C = {penalty:g}"))
    return max(probes, key=lambda probe: probe.value)


def _figures(probe: Probe, labels: NDArray, splits: NDArray, task: Task) -> dict[str, Any]:
    held, test = splits == "validation", splits == "test"
    chosen = {"setting": probe.setting, "validation": round(probe.value, 4)}
    draws_BN = draw(np.arange(int(test.sum())))
    if not task.positive:
        classes, truth_N = np.unique(labels[test], return_inverse=True)
        places = {label: place for place, label in enumerate(classes)}
        said_N = np.array([places.get(label, -1) for label in probe.model.predict(probe.x[test])])
        return _flat(label_figures(truth_N, said_N, draws_BN), len(truth_N)) | chosen
    truth, score = labels == task.positive, _score(probe.model, probe.x, task)
    threshold = best_threshold(truth[held], score[held])
    figures = _flat(score_figures(truth[test], score[test], threshold, draws_BN), int(test.sum()))
    sources = np.array([row.source for row in task.rows])
    within = {
        source: round(float(roc_auc_score(truth[chosen_N], score[chosen_N])), 4)
        for source in sorted(set(sources))
        if len(set(sources)) > 1
        for chosen_N in [test & (sources == source)]
    }
    return figures | chosen | ({"auroc_within": within} if within else {})


def _flat(figures: Figures, n: int) -> dict[str, Any]:
    """The figures as the page keeps them: value, low and high of each, and the number of texts."""
    flat: dict[str, Any] = {}
    for name, figure in figures.items():
        flat |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return flat | {"n": n}


def _score(model: LogisticRegression, x: Matrix, task: Task) -> NDArray[np.float64]:
    return model.predict_proba(x)[:, list(model.classes_).index(task.positive)]
