"""The evidence of a fitted tagger: its test documents are looked at here, once, and nowhere before."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from assay.schemas.evidence import (
    AtPrevalence,
    CalibrationBin,
    Candidate,
    Evidence,
    Figures,
    LearningPoint,
    Slice,
)
from assay.taggers import figures
from assay.taggers.problem import Fitted, Problem, Rows

PREVALENCES = (0.01, 0.001)
_FEWEST = 10
_BINS = 10
_NAMES = {"tfidf_logistic": "TF-IDF + logistic regression", "dense_probe": "a dense probe on mean residuals"}


def gather(
    problem: Problem,
    fitted: Fitted,
    threshold: float,
    tried: Sequence[Fitted],
    baselines: Mapping[str, NDArray[np.float64]],
    learning_curve: Sequence[LearningPoint] = (),
) -> Evidence:
    """All figures on test documents, each with its interval over groups; baselines are cut where they do best on
    validation documents, as the tagger is."""
    test = problem.rows("test")
    draws_BN = figures.draw(problem.group_N[test])
    kind, truth = problem.target.kind, problem.target.y_N[test] > 0
    score_N = fitted.output_NL[test, 0]
    rivals = {
        name: problem.measured(output, test, draws_BN, problem.threshold(output)) for name, output in baselines.items()
    }
    evidence = Evidence(
        summary="",
        headline=problem.headline,
        test=problem.measured(fitted.output_NL, test, draws_BN, threshold),
        labels=_by_label(problem, fitted, test, draws_BN) if kind == "multiclass" else {},
        baselines=rivals,
        slices=tuple(_slices(problem, fitted, threshold)),
        prevalence=tuple(_prevalence(truth, score_N > threshold, draws_BN)) if kind == "binary" else (),
        calibration=_calibration(problem, fitted, test),
        learning_curve=tuple(learning_curve),
        candidates=_candidates(tried, fitted),
    )
    return evidence.model_copy(update={"summary": summarise(evidence)})


def summarise(evidence: Evidence) -> str:
    """One line: who wins on test documents, a baseline that does first of all."""
    key, mine = evidence.headline, evidence.test[evidence.headline]
    said = f"{key} {mine.value:.3f} ({mine.low:.3f} to {mine.high:.3f})"
    if evidence.winner:
        rival = evidence.baselines[evidence.winner][key]
        name = _NAMES.get(evidence.winner, evidence.winner)
        return f"LOSES TO {name} on test documents: {key} {rival.value:.3f}, the tagger has {said}"
    values = {n: f[key].value for n, f in evidence.baselines.items() if key in f}
    if not values:
        return f"{said} on test documents, with no baseline beside it"
    best = max(values, key=lambda name: values[name])
    beside = f"{said}, the best baseline, {_NAMES.get(best, best)}, {values[best]:.3f}"
    # Better by less than its own interval is no more than level.
    verdict = "beats every baseline" if values[best] < mine.low else "is level with the best baseline"
    return f"{verdict} on test documents: {beside}"


def _by_label(problem: Problem, fitted: Fitted, test: Rows, draws_BN: figures.Draws) -> dict[str, Figures]:
    truth, said = problem.target.stratum_N[test], fitted.output_NL[test].argmax(1)
    return {
        name: figures.decisions(truth == i, said == i, draws_BN)
        for i, name in enumerate(problem.target.classes)
        if (truth == i).any()
    }


def _slices(problem: Problem, fitted: Fitted, threshold: float) -> Iterator[Slice]:
    test = problem.rows("test")
    for dimension, value_N in (("language", problem.language_N), ("source", problem.source_N)):
        values = sorted(set(value_N[test]) - {""})
        if len(values) > 1:
            for value in values:
                yield _slice(problem, fitted, threshold, dimension, value, test & (value_N == value))
    length_N = problem.stored.documents.tokens_N
    edges = np.unique(np.quantile(length_N[test], [0, 0.25, 0.5, 0.75, 1], method="nearest"))
    for i, (low, high) in enumerate(pairwise(edges)):
        low = int(low) if i == 0 else int(low) + 1
        inside = test & (length_N >= low) & (length_N <= high)
        if inside.any():
            yield _slice(problem, fitted, threshold, "length", f"{low:,} to {int(high):,} tokens", inside)


def _slice(problem: Problem, fitted: Fitted, threshold: float, dimension: str, value: str, rows: Rows) -> Slice:
    kind, n = problem.target.kind, int(rows.sum())
    positives = int((problem.target.y_N[rows] > 0).sum()) if kind == "binary" else None
    enough = n >= _FEWEST and (positives is None or 0 < positives < n)
    found = {}
    if enough:
        found = problem.measured(fitted.output_NL, rows, figures.draw(problem.group_N[rows]), threshold)
    mean = None if kind == "multiclass" else round(float(fitted.output_NL[rows, 0].mean()), 4)
    return Slice(dimension=dimension, value=value, documents=n, positives=positives, figures=found, mean_score=mean)


def _prevalence(truth: Rows, said: Rows, draws_BN: figures.Draws) -> Iterator[AtPrevalence]:
    for prevalence in PREVALENCES:
        precision = figures.precision_at(prevalence, truth, said, draws_BN)
        if precision is not None:
            yield AtPrevalence(prevalence=prevalence, precision=precision)


def _calibration(problem: Problem, fitted: Fitted, test: Rows) -> tuple[CalibrationBin, ...]:
    """Ten bins of as many documents each; a rule that only says yes or no has two. Of labels: the chosen label's
    share, and how often it is right."""
    output = fitted.output_NL[test]
    if problem.target.kind == "multiclass":
        predicted, observed = output.max(1), (output.argmax(1) == problem.target.stratum_N[test]).astype(float)
    else:
        predicted, observed = output[:, 0], problem.target.y_N[test]
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bin_N = np.searchsorted(edges, predicted, "right" if len(edges) < _BINS - 1 else "left")
    return tuple(
        CalibrationBin(
            predicted=round(float(predicted[bin_N == b].mean()), 4),
            observed=round(float(observed[bin_N == b].mean()), 4),
            documents=int((bin_N == b).sum()),
        )
        for b in np.unique(bin_N)
    )


def _candidates(tried: Sequence[Fitted], chosen: Fitted) -> tuple[Candidate, ...]:
    return tuple(one.candidate.model_copy(update={"chosen": True}) if one is chosen else one.candidate for one in tried)
