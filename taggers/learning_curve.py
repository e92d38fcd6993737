"""How much of the labels a tagger needed: the chosen setting, fitted again on shares of the discovery documents."""

from collections.abc import Sequence

import numpy as np

from assay.schemas.evidence import LearningPoint
from assay.taggers import any_of, dense, figures, linear
from assay.taggers.matrix import Matrix
from assay.taggers.problem import Fitted, Problem, Rows
from assay.taggers.screening import Screen, screen, strongest

SHARES = (0.01, 0.03, 0.1, 0.3)
_FEWEST = 8


def learning_curve(problem: Problem, fitted: Fitted) -> list[LearningPoint]:
    """The headline measure on test documents at 1, 3, 10, 30 and 100 % of the discovery documents.

    Features are screened and chosen again on each share alone. A share of fewer than eight documents, or without two
    classes, has no point.
    """
    shares = [(share, rows) for share in SHARES if _enough(problem, rows := _share(problem, share))]
    points = [
        _point(problem, share, rows, again)
        for (share, rows), again in zip(shares, _again(problem, fitted, [rows for _, rows in shares]), strict=True)
    ]
    return [*points, _point(problem, 1.0, problem.rows("discovery"), fitted)]


def _again(problem: Problem, fitted: Fitted, shares: Sequence[Rows]) -> list[Fitted]:
    setting, stored = fitted.setting, problem.stored
    if isinstance(setting, dense.Setting):
        return [dense.refit(problem, setting, rows) for rows in shares]
    poolings = (fitted.pooling,)
    weight_N = problem.weight_N if fitted.rule == "linear" else np.ones(len(problem.texts))
    screens = [Screen(stored.columns, problem.target.stratum_N, weight_N * rows, poolings) for rows in shares]
    screen(stored, screens, poolings)
    found = []
    if isinstance(setting, any_of.Setting):
        wanted = [any_of.columns_wanted(problem, one) for one in screens]
        matrix = Matrix.load(stored, np.concatenate([np.zeros(1, np.int64), *wanted]), ("any",))
        found = [any_of.refit(problem, setting, one, matrix) for one in screens]
    elif isinstance(setting, linear.Setting):
        wanted = [strongest(one.power(setting.pooling), linear.CHOSEN_FROM) for one in screens]
        matrix = Matrix.load(stored, np.concatenate([np.zeros(1, np.int64), *wanted]), (setting.pooling,))
        for one, rows in zip(screens, shares, strict=True):
            found.append(linear.refit(problem, setting, one, matrix, rows))
    return found


def _share(problem: Problem, share: float) -> Rows:
    """The same share of every class, in whole groups where a class has several; a larger share holds a smaller one."""
    discovery = np.flatnonzero(problem.rows("discovery"))
    rows = np.zeros(len(problem.texts), bool)
    for label in range(problem.target.strata):
        mine = discovery[problem.target.stratum_N[discovery] == label]
        order = np.random.default_rng(0).permutation(problem.group_N.max() + 1)[problem.group_N[mine]]
        rows[mine[np.argsort(order, kind="stable")][: max(1, round(share * len(mine)))]] = True
    return rows


def _enough(problem: Problem, rows: Rows) -> bool:
    return int(rows.sum()) >= _FEWEST and len(set(problem.target.stratum_N[rows])) > 1


def _point(problem: Problem, share: float, rows: Rows, again: Fitted) -> LearningPoint:
    test = problem.rows("test")
    draws_BN = figures.draw(problem.group_N[test])
    threshold = again.threshold or problem.threshold(again.output_NL)
    figure = problem.measured(again.output_NL, test, draws_BN, threshold)[problem.headline]
    return LearningPoint(share=share, documents=int(rows.sum()), figure=figure)
