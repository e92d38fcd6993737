"""Which features tell labels apart: one pass over stored features, in memory that the documents don't grow."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from assay.schemas.tagger import Pooling
from assay.taggers.stored import Block, Stored

FEWEST_FIRINGS = 3
"""A feature that fires in fewer documents is never chosen."""


class Screen:
    """Sums over chosen documents, by class, from which a feature's power follows.

    `any` counts firings; the other poolings take the square root, as the taggers do.
    """

    def __init__(self, columns: int, stratum_N: NDArray[np.int64], weight_N: NDArray, poolings: Sequence[Pooling]):
        """A document of weight 0 takes no part."""
        self._columns, self._strata = columns, int(stratum_N.max()) + 1
        self._stratum_N, self._weight_N = stratum_N, weight_N.astype(np.float64)
        self.total_C = np.bincount(stratum_N, self._weight_N, minlength=self._strata)
        self._fired_F = np.zeros(columns)
        self._sum_CF = {p: np.zeros((self._strata, columns)) for p in poolings}
        self._square_F = {p: np.zeros(columns) for p in poolings}

    def add(self, block: Block) -> None:
        """Adds a block's entries."""
        weight_E = self._weight_N[block.example_E]
        mine = weight_E > 0
        weight_E, column_E = weight_E[mine], block.column_E[mine]
        cell_E = self._stratum_N[block.example_E[mine]] * self._columns + column_E
        self._fired_F += np.bincount(column_E, minlength=self._columns)
        for pooling, sums in self._sum_CF.items():
            value_E = np.ones(len(cell_E)) if pooling == "any" else block.value_E[pooling][mine].astype(np.float64)
            root_E = value_E if pooling == "any" else np.sqrt(value_E)
            sums += np.bincount(cell_E, weight_E * root_E, minlength=sums.size).reshape(sums.shape)
            self._square_F[pooling] += np.bincount(column_E, weight_E * value_E, minlength=self._columns)

    def power(self, pooling: Pooling) -> NDArray[np.float64]:
        """ANOVA F of each column between the classes; 0 for a column that fires in fewer than three documents."""
        sums, total = self._sum_CF[pooling], self.total_C
        seen = total > 0
        explained = (sums[seen] ** 2 / total[seen, None]).sum(0)
        between = explained - sums.sum(0) ** 2 / total.sum()
        within = np.maximum(self._square_F[pooling] - explained, 1e-9)
        freedom = max(1.0, float((self._weight_N > 0).sum() - seen.sum()))
        power = (between / max(1, int(seen.sum()) - 1)) / (within / freedom)
        return np.where(self._fired_F >= FEWEST_FIRINGS, np.maximum(power, 0.0), 0.0)

    def fires(self) -> NDArray[np.float64]:
        """(C, columns): the share of each class's documents in which a column fires at all (eq. 13 and 14)."""
        return self._sum_CF["any"] / np.maximum(self.total_C, 1e-9)[:, None]

    def seen(self) -> NDArray[np.int64]:
        """The columns that fire in three documents at least."""
        return np.flatnonzero(self._fired_F >= FEWEST_FIRINGS)


def screen(stored: Stored, screens: Iterable[Screen], poolings: Sequence[Pooling]) -> None:
    """Fills all the screens in one pass."""
    screens = list(screens)
    for block in stored.blocks(poolings):
        for one in screens:
            one.add(block)


def strongest(power: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """The columns of largest power, at most n and none of power 0, in ascending order."""
    order = np.argsort(-power, kind="stable")[:n]
    return np.sort(order[power[order] > 0])


def load(stored: Stored, columns: NDArray[np.int64], poolings: Sequence[Pooling]) -> dict[str, sparse.csr_matrix]:
    """Pooling -> (N, len(columns)) pooled values of these columns, float32."""
    layers = [layer for i, layer in enumerate(stored.layers) if (columns // stored.d_sae == i).any()]
    lookup = np.full(stored.columns, -1, np.int32)
    lookup[columns] = np.arange(len(columns), dtype=np.int32)
    n = len(stored.documents.found_N)
    parts: dict[str, list[sparse.csr_matrix]] = {p: [] for p in poolings}
    order: list[NDArray[np.int64]] = []
    for block in stored.blocks(poolings, layers):
        at_E = lookup[block.column_E]
        mine = at_E >= 0
        examples, row_E = np.unique(block.example_E, return_inverse=True)
        order.append(examples)
        shape = (len(examples), len(columns))
        for pooling, found in parts.items():
            value = np.ones(int(mine.sum()), np.float32) if pooling == "any" else block.value_E[pooling][mine]
            found.append(sparse.csr_matrix((value, (row_E[mine], at_E[mine])), shape, dtype=np.float32))
    place = np.concatenate(order) if order else np.zeros(0, np.int64)
    row_of = np.full(n, len(place), np.int64)
    row_of[place] = np.arange(len(place))
    empty = sparse.csr_matrix((1, len(columns)), dtype=np.float32)  # for examples that fired nothing
    return {p: sparse.vstack([*found, empty]).tocsr()[row_of] for p, found in parts.items()}
