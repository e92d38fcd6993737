"""Finds the copies in one partition: documents that share a key, judged by their sketches."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from assay.workers.dedup.records import Records

Judge = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float64]]

_ALL_PAIRS = 32
_LEADERS = 32
_PAIRS_AT_ONCE = 1 << 17


class Matches(NamedTuple):
    """M documents of a partition that have a copy in it. Documents of one root belong together."""

    document: NDArray[np.int64]
    root: NDArray[np.int64]
    rank: NDArray[np.float64]
    sketch: NDArray[np.uint8]


def match(records: Records, judge: Judge, threshold: float, *, one_a_text: bool) -> Matches:
    """The documents that agree in a key and, by their sketches, reach the threshold.

    With `one_a_text` exact copies stand aside for the one of them that stays. Documents of a key with up to 32 of
    them are compared each with each. Of a larger one (boilerplate that everybody copies) the best document is
    compared with all others, then the best of what is left, 32 times at most: the time a key takes grows with its
    documents and not with their square. The result does not depend on the order of the records.
    """
    records = records.take(np.lexsort((records.document, -records.rank, records.key)))
    if one_a_text:
        records = records.take(_first_of_each_text(records))
    starts = np.flatnonzero(np.diff(records.key, prepend=~records.key[:1]))
    sizes = np.diff(starts, append=len(records.key))
    left, right = [], []
    for pairs in (_small(starts, sizes), _large(starts, sizes, records, judge, threshold)):
        for a, b in pairs:
            close = judge(records.sketch[a], records.sketch[b]) >= threshold
            left.append(records.document[a[close]])
            right.append(records.document[b[close]])
    edges = np.stack([np.concatenate([np.zeros(0, np.int64), *side]) for side in (left, right)])
    documents, places = np.unique(edges, return_inverse=True)
    labels = components(len(documents), *places.reshape(2, -1))
    _, first = np.unique(labels, return_index=True)  # documents ascend, so the first is a component's smallest
    at = _place(records.document, documents)
    return Matches(documents, documents[first][labels], records.rank[at], records.sketch[at])


def components(count: int, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """The connected component of each of `count` nodes, given edges between them."""
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _first_of_each_text(records: Records) -> NDArray[np.int64]:
    """Of records sorted by key, rank and document: the first of each text within its key."""
    by_text = np.lexsort((np.arange(len(records.key)), records.text, records.key))
    same = (np.diff(records.key[by_text]) == 0) & (np.diff(records.text[by_text]) == 0)
    return np.sort(by_text[np.concatenate([[True], ~same])]) if len(by_text) else by_text


def _small(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[tuple[NDArray, NDArray]]:
    """All pairs within the keys of 2 to 32 documents, in bounded pieces."""
    small = (sizes > 1) & (sizes <= _ALL_PAIRS)
    starts, sizes = starts[small], sizes[small]
    for offset in range(1, int(sizes.max(initial=1))):
        long = sizes > offset
        counts = sizes[long] - offset
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        first = np.repeat(starts[long], counts) + within
        for at in range(0, len(first), _PAIRS_AT_ONCE):
            piece = first[at : at + _PAIRS_AT_ONCE]
            yield piece, piece + offset


def _large(
    starts: NDArray[np.int64], sizes: NDArray[np.int64], records: Records, judge: Judge, threshold: float
) -> Iterator[tuple[NDArray, NDArray]]:
    """Stars within the keys of more documents."""
    for start, size in zip(starts[sizes > _ALL_PAIRS], sizes[sizes > _ALL_PAIRS], strict=True):
        left = np.arange(start, start + size)
        for _ in range(_LEADERS):
            if len(left) < 2:
                break
            leader, left = left[0], left[1:]
            far = []
            for at in range(0, len(left), _PAIRS_AT_ONCE):
                piece = left[at : at + _PAIRS_AT_ONCE]
                leaders = np.full(len(piece), leader)
                yield leaders, piece
                far.append(piece[judge(records.sketch[leaders], records.sketch[piece]) < threshold])
            left = np.concatenate(far)


def _place(documents: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of `wanted` stands in `documents`, one of its places if it has several."""
    order = np.argsort(documents, kind="stable")
    return order[np.searchsorted(documents, wanted, sorter=order)] if len(wanted) else wanted
