"""One tagger's labelled documents with their features, and how an answer on them is measured."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.schemas.evidence import Candidate, Figures
from assay.schemas.tagger import DenseLayer, FeatureWeight, Pooling, Rule
from assay.taggers import figures
from assay.taggers.stored import Stored
from assay.taggers.target import Target

Rows = NDArray[np.bool_]


class Problem(NamedTuple):
    """N documents. A mask says which of them a fit may use; those of the test split are for the evidence alone."""

    target: Target
    split_N: NDArray[np.str_]
    weight_N: NDArray[np.float64]
    group_N: NDArray[np.int64]
    source_N: NDArray[np.str_]
    language_N: NDArray[np.str_]
    texts: tuple[str, ...]
    stored: Stored
    headline: str
    """what settings are chosen by: auroc (of a yes or no the balanced accuracy), macro_f1, spearman"""

    def rows(self, split: str) -> Rows:
        """The documents of a split."""
        return self.split_N == split

    def value(self, output_NL: NDArray[np.float64], rows: Rows) -> float:
        """The headline measure of an answer on some documents."""
        found = self.measured(output_NL, rows, np.ones((1, int(rows.sum())), np.float32))
        return found[self.headline].value if self.headline in found else float("-inf")

    def measured(
        self, output_NL: NDArray[np.float64], rows: Rows, draws_BN: figures.Draws, threshold: float = 0.5
    ) -> Figures:
        """All measures of an answer on some documents."""
        target = self.target
        if target.kind == "binary":
            return figures.score_figures(target.y_N[rows] > 0, output_NL[rows, 0], threshold, draws_BN)
        if target.kind == "multiclass":
            return figures.label_figures(target.stratum_N[rows], output_NL[rows].argmax(1), draws_BN)
        return figures.regression_figures(target.y_N[rows], output_NL[rows, 0], draws_BN, target.unit or (0.0, 1.0))

    def threshold(self, output_NL: NDArray[np.float64]) -> float:
        """The cut with the largest F1 on validation documents; 0.5 of what is not a yes or no."""
        if self.target.kind != "binary":
            return 0.5
        held = self.rows("validation")
        return figures.best_threshold(self.target.y_N[held] > 0, output_NL[held, 0])


class Fitted(NamedTuple):
    """One candidate with all that a tagger's file needs, and its answer on every document."""

    rule: Rule
    pooling: Pooling
    sqrt: bool
    bias: tuple[float, ...]
    features: tuple[FeatureWeight, ...]
    dense: tuple[DenseLayer, ...]
    output_NL: NDArray[np.float64]
    """binary: probability; multiclass: (N, C) shares; regression: score from 0 to 1"""
    candidate: Candidate
    setting: object = None
    """what the method needs to fit itself again on fewer documents"""
    threshold: float | None = None
    """where the rule itself sets it"""


def answer(logit_NL: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """What a tagger makes of its sums: sigmoid, softmax, or for a regression the sum itself, cut to [0, 1]."""
    if kind == "regression":
        return np.clip(logit_NL, 0, 1)
    if kind == "binary":
        return 1 / (1 + np.exp(-np.clip(logit_NL, -60, 60)))
    power = np.exp(logit_NL - logit_NL.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


def rounded(value: float, digits: int = 3) -> float:
    """A number as it is written to the file, so that the evidence is of what is written."""
    return float(f"{value:.{digits}g}")
