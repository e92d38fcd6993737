"""Measures against scikit-learn's, and whether the intervals hold what they claim."""

import numpy as np
import pytest
from scipy.stats import norm, spearmanr
from sklearn.metrics import average_precision_score, f1_score, r2_score, roc_auc_score

from assay.taggers import figures


def a_sample(n: int, seed: int, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    return truth, rng.normal(size=n) + shift * truth


def test_measures_are_those_of_scikit_learn_with_ties_and_without() -> None:
    truth, score = a_sample(500, 0)
    ones = np.ones((1, 500), np.float32)
    for given in (score, np.round(score)):
        assert figures.auroc(truth, given, ones)[0] == pytest.approx(roc_auc_score(truth, given))
        assert figures.auprc(truth, given, ones)[0] == pytest.approx(average_precision_score(truth, given))
    found = figures.decisions(truth, score > 0.5, ones)
    assert found["f1"].value == pytest.approx(f1_score(truth, score > 0.5), abs=1e-4)
    labels, said = np.arange(500) % 3, (np.arange(500) + (score > 1)) % 3
    found = figures.label_figures(labels, said, ones)
    assert found["macro_f1"].value == pytest.approx(f1_score(labels, said, average="macro"), abs=1e-4)
    level = truth * 0.5 + 0.2
    found = figures.regression_figures(level, score, ones, (0, 4))
    assert found["spearman"].value == pytest.approx(spearmanr(level, score)[0], abs=1e-4)
    assert found["r2"].value == pytest.approx(r2_score(level, score), abs=1e-3)
    assert found["mae"].value == pytest.approx(4 * np.abs(level - score).mean(), abs=1e-3)


def test_the_interval_of_an_auroc_holds_the_true_value_about_95_times_in_100() -> None:
    true = norm.cdf(1 / np.sqrt(2))
    held = 0
    for seed in range(200):
        truth, score = a_sample(200, seed)
        found = figures.figure(figures.auroc(truth, score, figures.draw(np.arange(200))))
        assert found is not None
        held += found.low <= true <= found.high
    assert 180 <= held <= 199


def test_documents_that_come_in_groups_have_wider_intervals_which_hold() -> None:
    held = {"by document": 0, "by group": 0}
    for seed in range(150):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(30), 10)
        right = np.repeat(rng.random(30) < 0.7, 10).astype(np.int64)
        for name, codes in (("by document", np.arange(300)), ("by group", groups)):
            found = figures.label_figures(np.ones(300, np.int64), right, figures.draw(codes, 200))["accuracy"]
            held[name] += found.low <= 0.7 <= found.high
    assert held["by group"] >= 132
    assert held["by document"] < 100


def test_a_share_of_one_is_not_claimed_to_be_certain() -> None:
    truth = np.array([True] * 30 + [False] * 30)
    found = figures.score_figures(truth, truth.astype(float), 0.5, figures.draw(np.arange(60)))
    assert found["recall"].value == 1
    assert found["recall"].low == pytest.approx(0.9)


def test_precision_falls_where_positives_are_rare() -> None:
    truth = np.array([True] * 100 + [False] * 100)
    said = truth.copy()
    said[[0, 1, 100, 101]] ^= True
    found = figures.precision_at(0.01, truth, said, figures.draw(np.arange(200)))
    assert found is not None
    assert found.value == pytest.approx(0.01 * 0.98 / (0.01 * 0.98 + 0.99 * 0.02), abs=1e-4)
    perfect = figures.precision_at(0.01, truth, truth, figures.draw(np.arange(200)))
    assert perfect is not None
    assert (perfect.value, perfect.low) == (1, pytest.approx(0.01 / (0.01 + 0.99 * 0.03), abs=1e-3))


def test_a_measure_without_a_value_is_left_out() -> None:
    one_class = np.ones(20, bool)
    assert set(figures.score_figures(one_class, np.ones(20), 0.5, figures.draw(np.arange(20)))) == {
        "auprc", "f1", "precision", "recall",
    }  # fmt: skip


def test_the_best_threshold_has_the_largest_f1() -> None:
    truth, score = np.array([False, False, True, True]), np.array([0.1, 0.3, 0.35, 0.8])
    assert 0.3 <= figures.best_threshold(truth, score) < 0.35
