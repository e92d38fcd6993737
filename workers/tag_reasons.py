"""Why a document has its tag, in a few words: the parts that weighed most."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.workers.tag_rules import Effects

_REASONS = 3


def reasons(effects: Effects, names: Sequence[str], documents: int) -> pa.Array:
    """One string a document: "part=effect ..." of the three largest effects, largest first; effects to 0.01.

    Of equal effects the part that is listed first comes first; what rounds to 0 is left out.
    """
    rounded = np.round(effects.effect, 2) + 0.0
    some = np.flatnonzero(rounded)
    document, part, rounded = effects.document[some], effects.part[some], rounded[some]
    left = np.abs(rounded)
    chosen_NR = np.full((documents, _REASONS), -1)
    for rank in range(_REASONS):
        at = _take_largest(left, document)
        chosen_NR[document[at], rank] = at
    offsets = np.concatenate([[0], np.cumsum((chosen_NR >= 0).sum(1))]).astype(np.int32)
    at = chosen_NR[chosen_NR >= 0]
    words = pc.binary_join_element_wise(
        pa.array(names, pa.string()).take(pa.array(part[at])), pc.cast(pa.array(rounded[at]), pa.string()), "="
    )
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), words), " ")


def _take_largest(left: NDArray[np.float64], document: NDArray[np.intp]) -> NDArray[np.intp]:
    """The place of each document's first largest value, which is then taken out of `left`."""
    if not len(left):
        return np.zeros(0, np.intp)
    begins = np.flatnonzero(np.diff(document, prepend=-1))
    lengths = np.diff(begins, append=len(document))
    largest = np.maximum.reduceat(left, begins)
    at = np.flatnonzero(left == np.repeat(np.where(largest > 0, largest, np.inf), lengths))
    at = at[np.flatnonzero(np.diff(document[at], prepend=-1))]
    left[at] = 0
    return at
