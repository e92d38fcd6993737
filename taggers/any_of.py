"""Qwen-Scope's rule: a document is positive if any of a few features fires at any token (arXiv 2605.11887, section 5).

h = 1 where a feature's largest activation is above 0 (eq. 13); a feature's Delta = P(h | positive) - P(h | negative) on
discovery documents (eq. 14); any of the K features of largest Delta in a layer decides (eq. 15). The layer is the one
of largest top1-diff, its largest Delta (eq. 16). Over several layers, the best feature of each of the m best layers
decides (eq. 17). K and m are chosen on validation documents, by AUROC, which of a yes or no is the balanced accuracy,
(recall + 1 - false-positive rate) / 2; nothing has a weight or a threshold.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.schemas.errors import AssayError
from assay.schemas.evidence import Candidate
from assay.schemas.tagger import FeatureWeight
from assay.taggers.matrix import Matrix
from assay.taggers.problem import Fitted, Problem
from assay.taggers.screening import Screen
from assay.taggers.target import Target

RANKS = (1, 2, 5, 10)
"""K, the features of a layer."""


class Setting(NamedTuple):
    """Either K features of the best layer, or one of each of the m best layers."""

    k: int
    m: int


def delta(screen: Screen) -> NDArray[np.float64]:
    """Each column's Delta (eq. 14); columns that fire in fewer than three documents have none."""
    fires_CF = screen.fires()
    found = fires_CF[1] - fires_CF[0]
    usable = np.zeros(len(found), bool)
    usable[screen.seen()] = True
    return np.where(usable, found, -1.0)


def columns_wanted(problem: Problem, screen: Screen) -> NDArray[np.int64]:
    """The features that any candidate has: the ten of largest Delta in each layer."""
    delta_F = delta(screen)
    return np.concatenate([_top(problem, delta_F, layer, max(RANKS)) for layer in range(len(problem.stored.layers))])


def candidates(problem: Problem, screen: Screen, matrix: Matrix) -> list[Fitted]:
    """Every layer with every K, for the record, and one feature of each of the m best layers.

    Those that may be kept (see `best`) are of the layer of largest top1-diff, or of several layers.
    """
    delta_F, layers = delta(screen), _by_top1_diff(problem, delta(screen))
    tried = []
    for place in sorted(layers):
        for k in RANKS:
            eligible = place == layers[0]
            setting = Setting(k, 1) if eligible else None
            top1 = float(delta_F[_top(problem, delta_F, place, 1)][0])
            detail = f"K = {k}, top1-diff {top1:.3f}"
            tried.append(_fitted(problem, delta_F, _top(problem, delta_F, place, k), matrix, detail, setting))
    for m in range(2, len(layers) + 1):
        columns = np.concatenate([_top(problem, delta_F, place, 1) for place in layers[:m]])
        detail = f"one feature of each of the {m} best layers"
        tried.append(_fitted(problem, delta_F, columns, matrix, detail, Setting(1, m)))
    return tried


def best(tried: list[Fitted]) -> Fitted:
    """Of the eligible candidates the best on validation documents, with the fewest features where several are."""
    eligible = [f for f in tried if isinstance(f.setting, Setting)]
    return max(eligible, key=lambda f: (f.candidate.validation, -f.candidate.features))


def refit(problem: Problem, setting: Setting, screen: Screen, matrix: Matrix) -> Fitted:
    """The same K or m with the ranking of other documents."""
    delta_F = delta(screen)
    layers = _by_top1_diff(problem, delta_F)[: setting.m]
    columns = np.concatenate([_top(problem, delta_F, place, setting.k) for place in layers])
    return _fitted(problem, delta_F, columns, matrix, "", setting)


def fitted_of(problem: Problem, columns: NDArray[np.int64], matrix: Matrix) -> Fitted:
    """The rule on given columns, whatever their Delta."""
    return _fitted(problem, np.zeros(problem.stored.columns), columns, matrix, "", None)


def require_binary(target: Target) -> None:
    """AssayError for any other kind of label: the rule says yes or no."""
    if target.kind != "binary":
        raise AssayError(
            f"any_of says yes or no, these labels are {target.kind}",
            hint="give --positive LABEL for one label against the others, or --method linear",
        )


def _by_top1_diff(problem: Problem, delta_F: NDArray[np.float64]) -> list[int]:
    """The layers' places, largest top1-diff first (eq. 16)."""
    by_layer = delta_F.reshape(len(problem.stored.layers), -1).max(1)
    return [int(i) for i in np.argsort(-by_layer, kind="stable")]


def _top(problem: Problem, delta_F: NDArray[np.float64], place: int, k: int) -> NDArray[np.int64]:
    d_sae = problem.stored.d_sae
    mine = delta_F[place * d_sae : (place + 1) * d_sae]
    return np.argsort(-mine, kind="stable")[:k] + place * d_sae


def _fitted(
    problem: Problem,
    delta_F: NDArray[np.float64],
    columns: NDArray[np.int64],
    matrix: Matrix,
    detail: str,
    setting: Setting | None,
) -> Fitted:
    stored = problem.stored
    columns = np.sort(columns)
    at = np.searchsorted(matrix.columns, columns)
    fired_N = np.asarray(matrix.pooled["any"][:, at].sum(1)).ravel() > 0
    output_NL = fired_N.astype(float)[:, None]
    features = tuple(
        FeatureWeight(layer=stored.layers[c // stored.d_sae], feature=int(c % stored.d_sae), scale=1.0, weights=(1.0,))
        for c in columns
    )
    candidate = Candidate(
        rule="any_of",
        layers=tuple(sorted({f.layer for f in features})),
        features=len(features),
        pooling="any",
        detail=detail,
        validation=round(problem.value(output_NL, problem.rows("validation")), 4),
    )
    return Fitted("any_of", "any", False, (0.0,), features, (), output_NL, candidate, setting, threshold=0.5)
