"""The stored features of a table that any of some taggers reads, found once for all of them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Key = tuple[int, int]
"""layer, feature"""


class Hits(NamedTuple):
    """Wanted features that N documents have: hit h is feature `keys[slot[h]]` of document `document[h]`.

    Hits ascend by document, then layer, then feature.
    """

    document: NDArray[np.intp]
    slot: NDArray[np.intp]
    pooled: Mapping[str, NDArray[np.float64]]
    """max, mean and count, those that were asked for"""
    floors: Mapping[int, NDArray[np.float32]]
    """layer -> one a document, of the layers that were asked for"""
    tokens_seen: NDArray[np.int32]


class HitFinder:
    """Looks up a fixed set of features in features tables, reading no column that isn't needed."""

    def __init__(self, keys: Iterable[Key], pooled: Iterable[tuple[int, str]], floors: Iterable[int]) -> None:
        """`pooled` names the columns to gather, as (layer, max | mean | count), and `floors` the layers with floors."""
        self.keys = tuple(sorted(set(keys)))
        self._pooled = frozenset(pooled)
        self._floors = tuple(sorted(set(floors)))
        self._lookups = {layer: self._lookup(layer) for layer in sorted({layer for layer, _ in self.keys})}

    @property
    def columns(self) -> list[str]:
        """The features table's columns that `find` reads."""
        lists = [f"l{layer}_{name}" for layer, name in sorted(self._pooled)]
        ids = [f"l{layer}_ids" for layer in self._lookups]
        return ["tokens_seen", *ids, *lists, *(f"l{layer}_floor" for layer in self._floors)]

    def find(self, features: pa.Table) -> Hits:
        """The hits of a features table's documents; a pooled value that wasn't asked for at its layer is 0."""
        names = sorted({name for _, name in self._pooled})
        parts = [self._find(features, layer, names) for layer in self._lookups]
        if not parts:
            parts = [(np.zeros(0, np.intp), np.zeros(0, np.intp), [np.zeros(0) for _ in names])]
        document, slot = (np.concatenate([part[i] for part in parts]) for i in range(2))
        pooled = [np.concatenate(columns) for columns in zip(*(part[2] for part in parts), strict=True)]
        if len(parts) > 1:
            # numpy sorts 16 bits by radix, several times faster than wider integers.
            narrow = document.astype(np.uint16) if features.num_rows <= 2**16 else document
            order = np.argsort(narrow, kind="stable")
            document, slot, pooled = document[order], slot[order], [column[order] for column in pooled]
        return Hits(
            document,
            slot,
            dict(zip(names, pooled, strict=True)),
            {layer: features[f"l{layer}_floor"].to_numpy() for layer in self._floors},
            features["tokens_seen"].to_numpy(),
        )

    def _find(
        self, features: pa.Table, layer: int, names: list[str]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], list[NDArray[np.float64]]]:
        lists = features[f"l{layer}_ids"].combine_chunks()
        slot_E = self._lookups[layer].take(_flat(lists), mode="clip")
        at = np.flatnonzero(slot_E >= 0)
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
        document = np.repeat(np.arange(len(lists), dtype=np.int32), lengths)[at]
        pooled = [
            _flat(features[f"l{layer}_{name}"].combine_chunks())[at].astype(np.float64)
            if (layer, name) in self._pooled
            else np.zeros(len(at))
            for name in names
        ]
        return document.astype(np.intp), slot_E[at].astype(np.intp), pooled

    def _lookup(self, layer: int) -> NDArray[np.int32]:
        """Feature -> slot, -1 elsewhere, the last entry for every feature above the highest wanted one."""
        mine = [(feature, slot) for slot, (at, feature) in enumerate(self.keys) if at == layer]
        lookup = np.full(mine[-1][0] + 2, -1, np.int32)
        lookup[[feature for feature, _ in mine]] = [slot for _, slot in mine]
        return lookup


def _flat(lists: pa.ListArray) -> NDArray:
    return lists.flatten().to_numpy(zero_copy_only=False)
