"""The linear tagger: L1 regression chooses a few features of one pooling, L2 regression weighs them.

The features that differ most between the labels on discovery documents (ANOVA F) are the ones it chooses from. Pooling,
penalties and number of features are chosen on validation documents. Memory follows the features that are chosen from,
not all that the SAE has.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, LogisticRegression, Ridge

from assay.schemas.evidence import Candidate
from assay.schemas.tagger import FeatureWeight, Pooling
from assay.taggers.matrix import POOLINGS, Matrix, Shaped
from assay.taggers.problem import Fitted, Problem, Rows, answer, rounded
from assay.taggers.screening import Screen, strongest

CHOSEN_FROM = 1024
"""Features of a pooling that the L1 regression sees."""
_TRIAL_DOCUMENTS = 8000
_RIDGE = (0.01, 0.1, 1.0)
_SPARSE = {"binary": (0.03, 0.1, 0.3, 1.0), "multiclass": (0.03, 0.1, 0.3, 1.0), "regression": (0.003, 0.001, 0.0003)}
_CLOSE = 0.002


class Setting(NamedTuple):
    """What a linear tagger is fitted with."""

    pooling: Pooling
    ridge: float
    """C of the L2 regression that weighs the features"""
    sparse: float
    """C of the L1 regression that chooses them; alpha of the lasso for a regression"""
    limit: int


def columns_wanted(screen: Screen) -> NDArray[np.int64]:
    """The features that any pooling is chosen from."""
    return np.unique(np.concatenate([strongest(screen.power(p), CHOSEN_FROM) for p in POOLINGS]))


def candidates(problem: Problem, screen: Screen, matrix: Matrix, limit: int) -> list[Fitted]:
    """Every setting that was tried; the last ones are sparse, and one of those is what is kept (see `best`)."""
    discovery = problem.rows("discovery")
    trial = _thinned(discovery)
    tried: list[Fitted] = []
    for pooling in POOLINGS:
        shaped = matrix.shaped(pooling, strongest(screen.power(pooling), CHOSEN_FROM), discovery)
        for ridge in _RIDGE:
            tried.append(_weigh(problem, shaped, Setting(pooling, ridge, 0.0, CHOSEN_FROM), trial))
    first = max(tried, key=lambda fitted: fitted.candidate.validation)
    chosen = first.setting
    assert isinstance(chosen, Setting)  # noqa: S101 - made above
    shaped = matrix.shaped(chosen.pooling, strongest(screen.power(chosen.pooling), CHOSEN_FROM), discovery)
    for sparse in _SPARSE[problem.target.kind]:
        kept = _support(problem, shaped, sparse, limit, discovery)
        for ridge in (chosen.ridge, 10 * chosen.ridge):
            tried.append(_weigh(problem, shaped.only(kept), Setting(chosen.pooling, ridge, sparse, limit), discovery))
    return tried


def best(tried: Sequence[Fitted]) -> Fitted:
    """Of the sparse settings the one of fewest features whose validation value is within 0.002 of the best."""
    sparse = [f for f in tried if isinstance(f.setting, Setting) and f.setting.sparse]
    top = max(f.candidate.validation for f in sparse)
    close = [f for f in sparse if f.candidate.validation >= top - _CLOSE]
    return min(close, key=lambda f: (f.candidate.features, -f.candidate.validation))


def refit(problem: Problem, setting: Setting, screen: Screen, matrix: Matrix, rows: Rows) -> Fitted:
    """The same setting on other documents: features are screened, chosen and weighed on these alone."""
    shaped = matrix.shaped(setting.pooling, strongest(screen.power(setting.pooling), CHOSEN_FROM), rows)
    sparse = setting.sparse
    if problem.target.kind != "regression":  # C counts documents, alpha is a mean over them
        sparse *= problem.rows("discovery").sum() / rows.sum()
    kept = _support(problem, shaped, sparse, setting.limit, rows)
    return _weigh(problem, shaped.only(kept), setting, rows)


def weigh_all(problem: Problem, shaped: Shaped, ridge: float, rows: Rows) -> Fitted:
    """An L2 regression on all the columns of `shaped`."""
    return _weigh(problem, shaped, Setting(shaped.pooling, ridge, 0.0, len(shaped.columns)), rows)


def _support(problem: Problem, shaped: Shaped, sparse: float, limit: int, rows: Rows) -> NDArray[np.int64]:
    """The places of the columns that an L1 regression gives weight, the heaviest `limit` of them."""
    target, x, weight = problem.target, shaped.x[rows], problem.weight_N[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # which columns matter is settled long before the end
        warnings.filterwarnings("ignore", "The number of unique classes")
        if target.kind == "regression":
            model = Lasso(alpha=sparse, max_iter=300).fit(x.tocsc(), target.y_N[rows], sample_weight=weight)
        elif target.kind == "binary":
            model = LogisticRegression(l1_ratio=1.0, C=sparse, solver="liblinear", max_iter=100, random_state=0)
            model.fit(x, target.stratum_N[rows], sample_weight=weight)
        else:
            model = LogisticRegression(l1_ratio=1.0, C=sparse, solver="saga", max_iter=40, tol=1e-2, random_state=0)
            model.fit(x, target.stratum_N[rows], sample_weight=weight)
    size_F = np.abs(np.atleast_2d(model.coef_)).max(0)
    order = np.argsort(-size_F, kind="stable")[:limit]
    kept = np.sort(order[size_F[order] > 0])
    return kept if len(kept) else np.array([0])


def _weigh(problem: Problem, shaped: Shaped, setting: Setting, rows: Rows) -> Fitted:
    target = problem.target
    weight_FL, bias_L = regress(problem, shaped.x, setting.ridge, rows)
    weight_FL = np.vectorize(rounded, otypes=[float])(weight_FL)
    bias_L = np.array([rounded(b, 4) for b in bias_L])
    output_NL = answer(shaped.x @ weight_FL + bias_L, target.kind)
    stored = problem.stored
    layer_F = [stored.layers[c // stored.d_sae] for c in shaped.columns]
    features = tuple(
        FeatureWeight(layer=layer, feature=int(c % stored.d_sae), scale=float(scale), weights=tuple(map(float, w)))
        for layer, c, scale, w in zip(layer_F, shaped.columns, shaped.scale_F, weight_FL, strict=True)
    )
    name = "alpha" if target.kind == "regression" else "C"
    detail = f"L2 {'1/alpha' if target.kind == 'regression' else 'C'} {setting.ridge:g}"
    candidate = Candidate(
        layers=tuple(sorted(set(layer_F))),
        features=len(features),
        pooling=shaped.pooling,
        detail=f"L1 {name} {setting.sparse:g}, {detail}" if setting.sparse else detail,
        validation=round(problem.value(output_NL, problem.rows("validation")), 4),
    )
    bias = tuple(map(float, bias_L))
    return Fitted("linear", shaped.pooling, shaped.sqrt, bias, features, (), output_NL, candidate, setting)


def regress(problem: Problem, x: object, ridge: float, rows: Rows) -> tuple[NDArray, NDArray]:
    """((F, L) weights, (L,) biases) of an L2 regression of the labels on x, sparse or dense, (N, F)."""
    target, weight = problem.target, problem.weight_N[rows]
    given = x[rows]  # type: ignore[index]
    if target.kind == "regression":
        line = Ridge(alpha=1 / ridge).fit(given, target.y_N[rows], sample_weight=weight)
        return line.coef_.reshape(-1, 1).astype(float), np.array([float(line.intercept_)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")  # a small share of many labels
        model = LogisticRegression(C=ridge, max_iter=200).fit(given, target.stratum_N[rows], sample_weight=weight)
    weight_FL, bias_L = model.coef_.T.astype(float), model.intercept_.astype(float)
    if target.kind == "multiclass" and len(model.classes_) < target.outputs:
        # A share of the documents may lack a class: it then never wins.
        full_FL, full_L = np.zeros((len(weight_FL), target.outputs)), np.full(target.outputs, -30.0)
        if len(model.classes_) == 2:
            weight_FL, bias_L = np.hstack([-weight_FL, weight_FL]) / 2, np.array([-bias_L[0], bias_L[0]]) / 2
        full_FL[:, model.classes_], full_L[model.classes_] = weight_FL, bias_L
        return full_FL, full_L
    return weight_FL, bias_L


def _thinned(rows: Rows) -> Rows:
    """At most 8,000 of the documents, evenly spaced: enough to tell poolings and penalties apart."""
    places = np.flatnonzero(rows)
    thin = np.zeros_like(rows)
    thin[places[np.linspace(0, len(places) - 1, min(len(places), _TRIAL_DOCUMENTS)).astype(int)]] = True
    return thin
