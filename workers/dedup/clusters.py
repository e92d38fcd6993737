"""Which copy stays: clusters from all partitions' matches, and in each of them the best document, again and again."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.workers.dedup.matching import Matches, components

Compare = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]

_AT_ONCE = 1 << 13


class Copies(NamedTuple):
    """C documents that go, ascending, each with the one that stays in its place."""

    document: NDArray[np.int64]
    kept: NDArray[np.int64]
    similarity: NDArray[np.float64]


class Cluster(NamedTuple):
    """N documents that have a copy somewhere, ascending, and the component that each belongs to."""

    document: NDArray[np.int64]
    component: NDArray[np.int64]
    rank: NDArray[np.float64]
    sketch: NDArray[np.uint8]


def gather(matches: Iterable[Matches]) -> Cluster | None:
    """The matches of all partitions as one; None if there are none.

    Holds each document that has a copy once, and as much again while it adds: some 100 bytes and two sketches.
    """
    found: Cluster | None = None
    waiting: list[Cluster] = []
    for part in matches:
        waiting.append(Cluster(part.document, part.root, part.rank, part.sketch))
        if found is None or sum(len(w.document) for w in waiting) >= len(found.document):
            found, waiting = _join([*([found] if found else []), *waiting]), []
    found = _join([*([found] if found else []), *waiting]) if waiting else found
    return found if found is not None and len(found.document) else None


def _join(parts: list[Cluster]) -> Cluster:
    """One cluster: a document's link to its root in a part is an edge of the graph of them all."""
    linked, root, rank, sketch = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    documents, first = np.unique(linked, return_index=True)
    label = components(len(documents), np.searchsorted(documents, linked), np.searchsorted(documents, root))
    _, smallest = np.unique(label, return_index=True)
    return Cluster(documents, documents[smallest][label], rank[first], sketch[first])


def choose(
    component: NDArray[np.int64], rank: NDArray[np.float64], compare: Compare, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Of N documents, in corpus order, which go, for which one, and how similar the two are.

    In each component the document of the highest rank stays, the first of several. What is at least `threshold`
    similar to it goes. Of the others the best stays again, and so on: a document goes only for one that stays and
    that it was compared with itself, so that a chain of small differences drops nothing at its far end.
    `compare` takes two lists of indices and gives their similarities.
    """
    left = np.lexsort((np.arange(len(rank)), -rank, component))
    gone: list[tuple[NDArray, NDArray, NDArray]] = []
    while len(left):
        begins = np.diff(component[left], prepend=component[left[:1]] - 1) != 0
        leader = left[begins][np.cumsum(begins) - 1]
        left, leader = left[~begins], leader[~begins]
        pieces = [compare(left[at : at + _AT_ONCE], leader[at : at + _AT_ONCE]) for at in range(0, len(left), _AT_ONCE)]
        similar = np.concatenate([np.zeros(0), *pieces])
        close = similar >= threshold
        gone.append((left[close], leader[close], similar[close]))
        left = left[~close]
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    index, kept, similarity = (np.concatenate(parts) for parts in zip(empty, *gone, strict=True))
    order = np.argsort(index)
    return index[order], kept[order], similarity[order]
