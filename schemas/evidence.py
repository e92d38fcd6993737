"""The evidence of a tagger: figures on test documents that took no part in fitting it, with baselines beside them.

Every figure comes with its bootstrapped 95 % interval. The same record is in the tagger's file, in the terminal and on
the evidence page.
"""

from typing import Literal

from pydantic import Field, FiniteFloat, model_validator

from assay.schemas.base import Model

Dimension = Literal["language", "source", "length"]


class Figure(Model):
    """A measured value with its 95 % interval, bootstrapped over groups of documents."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat

    @model_validator(mode="after")
    def _ordered(self) -> "Figure":
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.value} isn't within its interval {self.low} to {self.high}")
        return self


Figures = dict[str, Figure]
"""Measure -> figure. A score has auroc, auprc, f1, precision, recall; a label macro_f1, accuracy; a regression
spearman, r2, mae in the labels' unit."""


class Slice(Model):
    """The tagger on one part of the test documents."""

    dimension: Dimension
    value: str = Field(description="a language, a source, or a length quartile such as '120 to 310 tokens'")
    documents: int
    positives: int | None = Field(None, description="of a score; where there is one class only, figures is empty")
    figures: Figures
    mean_score: FiniteFloat | None = None


class AtPrevalence(Model):
    """What the tag means where positives are rare: a balanced test flatters precision, not recall."""

    prevalence: float = Field(gt=0, lt=1)
    precision: Figure


class CalibrationBin(Model):
    """Test documents of similar score: what was predicted and what was so."""

    predicted: FiniteFloat
    observed: FiniteFloat
    documents: int


class LearningPoint(Model):
    """The same fit on a share of the discovery documents."""

    share: float = Field(gt=0, le=1)
    documents: int
    figure: Figure
    """the headline measure on test documents"""


class Candidate(Model):
    """One setting that was tried, with its headline measure on validation documents."""

    rule: Literal["any_of", "linear", "dense"] = Field("linear", description="how features become a score")
    layers: tuple[int, ...]
    features: int
    pooling: str
    detail: str = Field("", description="penalty, rank rule, or what else sets it apart")
    validation: FiniteFloat
    chosen: bool = False


class Evidence(Model):
    """All that was measured of one tagger. A baseline that wins is named first in the summary."""

    summary: str
    headline: str = Field(description="the measure that settings were chosen by and baselines are compared on")
    test: Figures
    labels: dict[str, Figures] = Field(default_factory=dict, description="label -> f1, precision, recall")
    baselines: dict[str, Figures]
    slices: tuple[Slice, ...] = ()
    prevalence: tuple[AtPrevalence, ...] = ()
    calibration: tuple[CalibrationBin, ...] = ()
    learning_curve: tuple[LearningPoint, ...] = ()
    candidates: tuple[Candidate, ...] = ()

    @property
    def winner(self) -> str | None:
        """The baseline with the best headline value, where it beats the tagger."""
        lower_is_better = self.headline == "mae"
        values = {n: f[self.headline].value for n, f in self.baselines.items() if self.headline in f}
        if not values:
            return None
        best = (min if lower_is_better else max)(values, key=lambda name: values[name])
        mine = self.test[self.headline].value
        return best if (values[best] < mine if lower_is_better else values[best] > mine) else None
