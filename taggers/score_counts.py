"""Exact order statistics of any number of scores in bounded memory, by counting the bits of float32 twice.

Non-negative floats order as their bits do. A first pass counts the upper 16 bits, which tells in which of 65,536 cells
a wanted rank lies; a second one counts the lower 16 bits inside those cells.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Scores = Callable[[], Iterable[NDArray[np.float32]]]
"""Gives the same scores, 0 to 1 and none missing, each time it is called."""

_CELLS = 2**16


def smallest(scores: Scores, ranks: Sequence[int]) -> list[float]:
    """The scores of these 0-based ranks in ascending order, exactly. IndexError for a rank that no score has."""
    upper = np.zeros(_CELLS, np.int64)
    for part in scores():
        upper += np.bincount(_bits(part) >> 16, minlength=_CELLS)
    total = np.cumsum(upper)
    if any(not 0 <= rank < total[-1] for rank in ranks):
        raise IndexError(f"ranks {list(ranks)} of {total[-1]} scores")
    cells = {int(cell): np.zeros(_CELLS, np.int64) for cell in np.searchsorted(total, ranks, side="right")}
    for part in scores() if cells else ():
        bits = _bits(part)
        for cell, lower in cells.items():
            lower += np.bincount(bits[bits >> 16 == cell] & 0xFFFF, minlength=_CELLS)
    found = []
    for rank in ranks:
        cell = int(np.searchsorted(total, rank, side="right"))
        within = rank - (int(total[cell - 1]) if cell else 0)
        low = int(np.searchsorted(np.cumsum(cells[cell]), within, side="right"))
        found.append(float(np.array([cell << 16 | low], np.uint32).view(np.float32)[0]))
    return found


def count_above(scores: Scores, threshold: float) -> int:
    """How many scores exceed the threshold."""
    return sum(int((part > threshold).sum()) for part in scores())


def _bits(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    return (np.asarray(scores, np.float32) + 0.0).view(np.uint32).astype(np.int64)
