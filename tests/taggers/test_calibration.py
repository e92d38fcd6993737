"""Thresholds from labelled samples: exact ranks, estimates that are right on average, and refusals in numbers."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from assay.schemas.calibration import Calibration, load_calibration
from assay.schemas.errors import AssayError
from assay.taggers.calibration import (
    TOP_SHARES,
    Labels,
    choose_threshold,
    figures_at,
    needed,
    quotas,
    stratum_of,
    weights,
)
from assay.taggers.score_counts import count_above, smallest
from assay.taggers.thresholds import threshold_of
from tests.workers.feature_tables import score

RNG = np.random.default_rng(5)
SCORES = {
    "spread": RNG.random(5000).astype(np.float32),
    "tied": RNG.choice(np.array([0, 0.25, 0.25000003, 1], np.float32), 3000),
    "tiny": (RNG.random(999) * 1e-42).astype(np.float32),
    "one": np.array([0.5], np.float32),
}


@pytest.mark.parametrize("name", SCORES)
def test_ranks_are_exact_whatever_the_scores_and_however_they_come(name: str) -> None:
    values = SCORES[name]
    parts = [part for part in np.array_split(values, 7) if len(part)] + [values[:0]]
    ranks = sorted({0, len(values) - 1, len(values) // 2, len(values) // 3, (len(values) * 999) // 1000})
    assert smallest(lambda: iter(parts), ranks) == np.sort(values)[ranks].tolist()
    middle = float(np.median(values))
    assert count_above(lambda: iter(parts), middle) == (values > middle).sum()


def test_a_rank_that_no_score_has_is_an_error() -> None:
    with pytest.raises(IndexError):
        smallest(lambda: iter([SCORES["one"]]), [1])


def corpus(documents: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and which documents are positive: rare, and more so where the score is low."""
    rng = np.random.default_rng(1)
    scores = rng.beta(0.4, 6, documents).astype(np.float32)
    return scores, rng.random(documents) < scores**1.5


def drawn(scores: np.ndarray, positive: np.ndarray, count: int, seed: int) -> Labels:
    """A stratified sample with its labels, as the command draws it."""
    ranks = [len(scores) - 1 - int(share * len(scores)) for share in sorted(TOP_SHARES, reverse=True)]
    edges = np.sort(scores)[ranks].tolist()
    stratum = stratum_of(scores, edges)
    sizes = np.bincount(stratum, minlength=len(edges) + 1)
    rng, chosen = np.random.default_rng(seed), []
    for s in range(len(sizes)):
        here = np.flatnonzero(stratum == s)
        chosen += rng.choice(here, min(len(here), count // len(sizes)), replace=False).tolist()
    at = np.array(chosen)
    return Labels(scores[at].astype(float), positive[at], weights(stratum[at], sizes.tolist()))


def truth(scores: np.ndarray, positive: np.ndarray, threshold: float) -> dict[str, float]:
    above = scores > threshold
    return {
        "fpr": float(above[~positive].mean()),
        "precision": float(positive[above].mean()),
        "recall": float(above[positive].mean()),
    }


def test_weighted_figures_are_right_on_average_and_their_intervals_hold() -> None:
    scores, positive = corpus()
    exact = truth(scores, positive, 0.2)
    found: dict[str, list[Any]] = {name: [] for name in exact}
    for seed in range(200):
        for name, figure in figures_at(drawn(scores, positive, 1400, seed), 0.2).items():
            found[name].append(figure)
    for name, figures in found.items():
        values = np.array([f.value for f in figures])
        assert values.mean() == pytest.approx(exact[name], rel=0.05), name
        held = np.mean([f.low <= exact[name] <= f.high for f in figures])
        assert held >= 0.9, f"{name}: {held:.0%} of the 95 % intervals hold"


@pytest.mark.parametrize(("rule", "target"), [("fpr", 0.02), ("precision", 0.3)])
def test_the_threshold_is_the_lowest_that_meets_the_target(rule: Literal["fpr", "precision"], target: float) -> None:
    scores, positive = corpus()
    labels = drawn(scores, positive, 3500, 0)
    chosen = choose_threshold(labels, rule, target)
    reached = chosen.figures[rule].value
    assert reached <= target if rule == "fpr" else reached >= target
    lower = np.unique(labels.score)
    lower = lower[lower < chosen.threshold]
    for below in lower[-50:].tolist():
        value = figures_at(labels, below)[rule].value
        assert value > target if rule == "fpr" else value < target
    assert truth(scores, positive, chosen.threshold)[rule] == pytest.approx(target, rel=0.4)


def test_too_few_labels_are_refused_with_the_number_that_would_do() -> None:
    scores, positive = corpus()
    few = drawn(scores, positive, 140, 0)
    with pytest.raises(AssayError, match=r"an fpr of 0.001 takes 3,688 negatives, the labels have \d+ \(weighted\)"):
        choose_threshold(few, "fpr", 0.001)
    with pytest.raises(AssayError, match=r"a precision of 0.99 takes 368 documents above the threshold"):
        choose_threshold(few, "precision", 0.99)
    unsure = Labels(np.linspace(0, 1, 1000), np.arange(1000) % 2 == 0, np.ones(1000))
    with pytest.raises(AssayError, match=r"no threshold has a precision of 0.9 by these labels"):
        choose_threshold(unsure, "precision", 0.9)


@pytest.mark.parametrize(("rule", "target"), [("fpr", 0.01), ("fpr", 0.1), ("precision", 0.9), ("precision", 0.5)])
def test_what_is_needed_is_the_least_for_which_a_flawless_sample_holds_the_target(
    rule: Literal["fpr", "precision"], target: float
) -> None:
    for count, holds in ((needed(rule, target), True), (needed(rule, target) - 1, False)):
        flawless = Labels(
            np.full(count, 0.9 if rule == "precision" else 0.1), np.full(count, rule == "precision"), np.ones(count)
        )
        figure = figures_at(flawless, 0.5)[rule]
        assert (figure.high <= target if rule == "fpr" else figure.low >= target) == holds


@pytest.mark.parametrize(
    ("sizes", "documents", "drawn_of_each"),
    [([100, 100, 100], 30, [10, 10, 10]), ([1000, 3, 0, 1], 24, [20, 3, 0, 1]), ([5, 1, 2], 50, [5, 1, 2])],
)
def test_what_a_small_stratum_lacks_is_drawn_of_the_others(
    sizes: list[int], documents: int, drawn_of_each: list[int]
) -> None:
    assert quotas(sizes, documents) == drawn_of_each


def test_a_stratum_without_labels_is_refused() -> None:
    assert weights(np.array([0, 0, 2]), [10, 0, 5]).tolist() == [5, 5, 5]
    with pytest.raises(AssayError, match="no labelled document in stratum 1 of 3"):
        weights(np.array([0, 2]), [10, 1, 5])


def overlay(**changes: Any) -> Calibration:
    tagger = score({(2, 1): (1.0, 1.0)})
    fields = {
        "tagger": "quality", "fingerprint": tagger.fingerprint, "store": "s", "run": "r", "threshold": 0.7,
        "rule": "share", "target": 0.1, "documents": 10, "unknown": 0,
    }  # fmt: skip
    return Calibration.model_validate(fields | changes)


def test_an_overlay_sets_the_threshold_of_its_tagger_alone(tmp_path: Path) -> None:
    tagger = score({(2, 1): (1.0, 1.0)}, threshold=0.4)
    assert threshold_of(tagger) == 0.4
    assert threshold_of(tagger, [overlay(), overlay(tagger="other", fingerprint="0" * 16)]) == 0.7
    (tmp_path / "o.json").write_text(json.dumps(overlay().model_dump(mode="json")))
    assert threshold_of(tagger, [load_calibration(tmp_path / "o.json")]) == 0.7


def test_an_overlay_of_another_fit_and_two_overlays_are_refused() -> None:
    tagger = score({(2, 1): (1.0, 1.0)})
    with pytest.raises(AssayError, match="is of tagger 0000000000000000, this one is"):
        threshold_of(tagger, [overlay(fingerprint="0" * 16)])
    with pytest.raises(AssayError, match="two calibrations of 'quality'"):
        threshold_of(tagger, [overlay(), overlay(threshold=0.2)])
