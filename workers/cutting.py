"""Finds the key up to which documents fill a quota, exactly, in bounded memory and a few passes.

Radix selection: a pass counts what lies in each of 2**16 ranges of keys; the range in which the quota is reached is
split again, or collected and sorted once it holds few documents. Documents of equal key are taken together or not at
all, so a quota is missed by less than one document, or by less than a group of documents with one id.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.workers.ranking import Keys

_BITS = 16
_COLLECT = 2**20
ALL = 2**64 - 1


class Ranked(NamedTuple):
    """Documents of a shard as a cut sees them."""

    stratum: NDArray[np.int32]
    key: Keys
    weight: NDArray[np.int64]
    """1, or its tokens"""


class Histogram:
    """Documents and weight by stratum and range of keys, added up over shards."""

    def __init__(self, strata: int) -> None:
        self.documents = np.zeros((strata, 2**_BITS), np.int64)
        self.weight = np.zeros((strata, 2**_BITS), np.int64)

    def add(self, ranked: Ranked, bits: int = 0) -> None:
        """Counts documents by the 16 bits of their keys that follow the first `bits`."""
        shift = np.uint64(64 - bits - _BITS)
        ranges = (ranked.key >> shift) & np.uint64(2**_BITS - 1)
        cell = ranked.stratum.astype(np.int64) * 2**_BITS + ranges.astype(np.int64)
        np.add.at(self.documents.reshape(-1), cell, 1)
        np.add.at(self.weight.reshape(-1), cell, ranked.weight)


@dataclass
class _Search:
    """One stratum's search: what is below the prefix is taken for certain."""

    extra: Fraction
    bits: int = 0
    prefix: int = 0
    taken: int = 0
    cut: int | None = None
    done: bool = False
    collect: bool = False
    keys: list[Keys] = field(default_factory=list)
    weights: list[NDArray[np.int64]] = field(default_factory=list)

    def narrow(self, documents: NDArray[np.int64], weight: NDArray[np.int64]) -> None:
        """Takes the ranges that fit whole, and looks on in the next one."""
        reached = self.taken + np.cumsum(weight)
        at = int(np.searchsorted(reached, np.int64(self.extra.__floor__()), side="right"))
        if at == len(reached):
            self._take_to((self.prefix + 1 << 64 - self.bits) - 1)
            return
        self.taken = int(reached[at] - weight[at])
        self.prefix, self.bits = (self.prefix << _BITS) | at, self.bits + _BITS
        if self.bits == 64:
            self._take_to(self.prefix - 1)
        self.collect = int(documents[at]) <= _COLLECT

    def inside(self, ranked: Ranked, stratum: int) -> NDArray[np.bool_]:
        """Which documents are in the range that is looked into."""
        mask = ranked.stratum == stratum
        return mask & (ranked.key >> np.uint64(64 - self.bits) == np.uint64(self.prefix)) if self.bits else mask

    def settle(self) -> None:
        """Sorts what was collected and cuts where the next group of equal keys wouldn't fit."""
        keys = np.concatenate(self.keys)
        order = np.argsort(keys, kind="stable")
        keys, reached = keys[order], self.taken + np.cumsum(np.concatenate(self.weights)[order])
        ends = np.flatnonzero(np.append(keys[1:] != keys[:-1], True))
        fits = ends[reached[ends] <= self.extra.__floor__()]
        self._take_to(int(keys[fits[-1]]) if len(fits) else (self.prefix << 64 - self.bits) - 1)

    def _take_to(self, cut: int) -> None:
        self.cut, self.done = (cut if cut >= 0 else None), True


def find_cuts(
    first: Histogram, extras: Sequence[Fraction | None], again: Callable[[], Iterator[Ranked]]
) -> list[int | None]:
    """For each stratum the largest key that may still be taken; None: no document.

    `first` is the histogram over the first 16 bits, `extras` the weight that may be taken of each stratum (None:
    nothing), and `again` goes over all shards once more, as often as it is called.
    """
    searches = {s: _Search(extra) for s, extra in enumerate(extras) if extra is not None and extra > 0}
    for s, search in searches.items():
        search.narrow(first.documents[s], first.weight[s])
    while open_ := {s: search for s, search in searches.items() if not search.done}:
        finer = {s: Histogram(1) for s, search in open_.items() if not search.collect}
        for ranked in again():
            for s, search in open_.items():
                mask = search.inside(ranked, s)
                if search.collect:
                    search.keys.append(ranked.key[mask])
                    search.weights.append(ranked.weight[mask])
                elif mask.any():
                    part = Ranked(np.zeros(int(mask.sum()), np.int32), ranked.key[mask], ranked.weight[mask])
                    finer[s].add(part, search.bits)
        for s, search in open_.items():
            if search.collect:
                search.settle()
            else:
                search.narrow(finer[s].documents[0], finer[s].weight[0])
    return [searches[s].cut if s in searches else None for s in range(len(extras))]
