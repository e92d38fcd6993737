"""The dense probe: L2 regression on mean residuals of one layer, the baseline that SAE features must beat.

Residuals are standardised on discovery documents; the file's weights have that folded in, so that a probe is applied to
residuals as they are stored. Layer and penalty are chosen on validation documents.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.schemas.errors import AssayError
from assay.schemas.evidence import Candidate
from assay.schemas.tagger import DenseLayer
from assay.taggers.linear import regress
from assay.taggers.problem import Fitted, Problem, Rows, answer, rounded

_RIDGE = (0.001, 0.01, 0.1)


class Setting(NamedTuple):
    """What a probe is fitted with."""

    layer: int
    ridge: float
    """C of the L2 regression"""


def require_residuals(problem: Problem) -> None:
    """AssayError where the features were stored without residuals."""
    if not problem.stored.has_residuals():
        raise AssayError(
            "these features hold no residuals, which a dense probe reads",
            hint="tag with a scope that says `residuals: true`, or fit from text, which stores them",
        )


def candidates(problem: Problem) -> list[Fitted]:
    """A probe for each layer and penalty."""
    tried = []
    for layer in problem.stored.layers:
        mean_ND = problem.stored.residuals(layer)
        for ridge in _RIDGE:
            tried.append(_fit(problem, mean_ND, Setting(layer, ridge), problem.rows("discovery")))
    return tried


def best(tried: list[Fitted]) -> Fitted:
    """The best on validation documents."""
    return max(tried, key=lambda fitted: fitted.candidate.validation)


def refit(problem: Problem, setting: Setting, rows: Rows) -> Fitted:
    """The same probe on other documents."""
    return _fit(problem, problem.stored.residuals(setting.layer), setting, rows)


def _fit(problem: Problem, mean_ND: NDArray[np.float32], setting: Setting, rows: Rows) -> Fitted:
    centre_D = mean_ND[rows].mean(0, dtype=np.float64)
    spread_D = np.maximum(mean_ND[rows].std(0, dtype=np.float64), 1e-6)
    weight_DL, bias_L = regress(problem, (mean_ND - centre_D) / spread_D, setting.ridge, rows)
    weight_DL = np.vectorize(lambda w: rounded(w, 5), otypes=[float])(weight_DL / spread_D[:, None])
    bias_L = np.array([rounded(b, 7) for b in bias_L - centre_D @ weight_DL])
    output_NL = answer(mean_ND @ weight_DL + bias_L, problem.target.kind)
    candidate = Candidate(
        rule="dense",
        layers=(setting.layer,),
        features=0,
        pooling="mean residual",
        detail=f"dense probe, L2 C {setting.ridge:g}",
        validation=round(problem.value(output_NL, problem.rows("validation")), 4),
    )
    dense = (DenseLayer(layer=setting.layer, weights=tuple(tuple(map(float, row)) for row in weight_DL.T)),)
    return Fitted("dense", "mean", False, tuple(map(float, bias_L)), (), dense, output_NL, candidate, setting)
