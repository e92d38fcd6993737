"""Counts in how many documents each SAE feature is stored, and tells two such counts apart.

A feature that isn't stored may have fired below the document's floor. So a count is exact for "stored", that is among
the top_m or watched, and for "fired" it is a lower bound, with the documents in question counted beside it.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.chance import benjamini_hochberg, equal_shares_p, share_difference
from assay.schemas.drift import SIGNIFICANT, FeatureChange, LayerDrift, Overlap
from assay.schemas.store import ShardEntry
from assay.workers.feature_table import iter_parquet
from assay.workers.storage.objects import ObjectStore

FEWEST = 5
"""documents expected to store a feature in the smaller sample for it to be tested"""
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Batch(NamedTuple):
    """One layer of one row group: entry e says that document `document[e]` stores feature `ids[e]`."""

    document: Ints
    ids: NDArray[np.int32]
    max: NDArray[np.float32]
    floor: NDArray[np.float32]
    """one a document"""
    doc_id: pa.ChunkedArray


class Readers(NamedTuple):
    """What taggers say of a feature."""

    taggers: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()


class FeatureShares:
    """One layer's counts over the documents of many shards; memory follows d_sae, not documents."""

    def __init__(self, d_sae: int) -> None:
        self.documents = 0
        self.stored = np.zeros(d_sae, np.int64)
        """documents that store the feature"""
        self.example = np.full(d_sae, "", object)
        """id of the document in which the feature fires most"""
        self._largest = np.zeros(d_sae, np.float32)
        self._stored_of_cut = np.zeros(d_sae, np.int64)
        self._cut = 0
        self._shards: list[int] = []
        self._squares = np.zeros(d_sae)
        self._products = np.zeros(d_sae)

    def add(self, batches: Iterable[Batch]) -> None:
        """Takes one shard, whole."""
        stored, documents = np.zeros(len(self.stored), np.int64), 0
        for batch in batches:
            cut = batch.floor > 0
            stored += np.bincount(batch.ids, minlength=len(stored))
            self._stored_of_cut += np.bincount(batch.ids[cut[batch.document]], minlength=len(stored))
            self._cut += int(cut.sum())
            documents += len(batch.floor)
            self._find_examples(batch)
        self.documents += documents
        self.stored += stored
        self._squares += stored.astype(float) ** 2
        self._products += stored * float(documents)
        self._shards.append(documents)

    def _find_examples(self, batch: Batch) -> None:
        order = np.lexsort((-batch.document, batch.max))
        entry = np.full(len(self.stored), -1)
        entry[batch.ids[order]] = order  # of equal ids the last one stays: the largest
        there = np.flatnonzero(entry >= 0)
        better = there[batch.max[entry[there]] > self._largest[there]]
        self._largest[better] = batch.max[entry[better]]
        if len(better):
            self.example[better] = batch.doc_id.take(pa.array(batch.document[entry[better]])).to_pylist()

    def unknown(self, watched: Collection[int] = ()) -> Ints:
        """Documents in which each feature is not stored and may have fired; none for watched features."""
        found = self._cut - self._stored_of_cut
        found[list(watched)] = 0
        return found

    def sample_size(self, shards_in_all: int) -> Floats:
        """For each feature the independent documents that the sample is worth.

        Documents of one shard are alike. Where shards were left out, the share's variance is that between shards
        (ratio estimator, Cochran 1977, 6.4, with the finite population's correction) on top of the documents' own,
        and never smaller than the documents' own.
        """
        n, m = float(self.documents), len(self._shards)
        size = np.full(len(self.stored), n)
        if m == shards_in_all or m < 2:
            return size
        share = self.stored / n
        own = share * (1 - share) / n
        sizes = np.array(self._shards, float)
        between = self._squares - 2 * share * self._products + share**2 * float((sizes**2).sum())
        between = np.maximum(between, 0) / n**2 * m / (m - 1) * (1 - m / shards_in_all)
        return np.where(own > 0, n * own / np.maximum(own, between), n)


def sampled_shards(entries: Sequence[ShardEntry], documents: int) -> list[ShardEntry]:
    """The shards with the smallest hashes of id that hold `documents` together; all, where there are no more.

    The same corpus gives the same shards, a larger sample holds a smaller one, and at least two are taken.
    """
    readable = [entry for entry in entries if not entry.unreadable and entry.rows_kept]
    chosen: list[ShardEntry] = []
    held = 0
    for entry in sorted(readable, key=lambda e: hashlib.sha256(e.shard.encode()).digest()):
        if held >= documents and len(chosen) > 1:
            break
        chosen.append(entry)
        held += entry.rows_kept
    return chosen


def count_features(
    shards: Iterable[tuple[ObjectStore, ShardEntry, NDArray[np.bool_] | None]], layers: Sequence[int], d_sae: int
) -> dict[int, FeatureShares]:
    """Each layer's counts over shards, one after the other; a mask chooses documents of a shard, None takes all."""
    counts = {layer: FeatureShares(d_sae) for layer in layers}
    for store, entry, mask in shards:
        data = pa.BufferReader(store.read_verified(entry.objects["features"]))
        columns = [f"l{layer}_{name}" for layer in layers for name in ("ids", "max", "floor")]
        groups = list(iter_parquet(data, ["doc_id", *columns]))
        for layer, shares in counts.items():
            shares.add(_batches(groups, layer, mask))
    return counts


def _batches(groups: Sequence[pa.Table], layer: int, mask: NDArray[np.bool_] | None) -> Iterator[Batch]:
    at = 0
    for group in groups:
        chosen = group if mask is None else group.filter(pa.array(mask[at : at + group.num_rows]))
        at += group.num_rows
        ids = chosen[f"l{layer}_ids"].combine_chunks()
        lengths = ids.value_lengths().to_numpy(zero_copy_only=False)
        yield Batch(
            document=np.repeat(np.arange(chosen.num_rows), lengths),
            ids=ids.flatten().to_numpy(zero_copy_only=False),
            max=chosen[f"l{layer}_max"].combine_chunks().flatten().to_numpy(zero_copy_only=False),
            floor=chosen[f"l{layer}_floor"].to_numpy(),
            doc_id=chosen["doc_id"],
        )


def layer_drift(
    a: Mapping[int, FeatureShares],
    b: Mapping[int, FeatureShares],
    *,
    shards_in_all: tuple[int, int],
    watched: Mapping[int, Collection[int]],
    readers: Mapping[tuple[int, int], Readers],
    top: int,
) -> tuple[LayerDrift, ...]:
    """Features that rose or fell from `a` to `b` beyond chance, all layers' tests adjusted together.

    Of each layer the `top` that rose most and the `top` that fell most are listed.
    """
    tested: dict[int, Ints] = {}
    p: list[Floats] = []
    for layer, shares in a.items():
        tested[layer] = _frequent(shares, b[layer])
        p.append(equal_shares_p(*_effective(shares, b[layer], tested[layer], shards_in_all)))
    q = np.split(benjamini_hochberg(np.concatenate(p)), np.cumsum([len(found) for found in p])[:-1])
    return tuple(
        _layer(layer, a[layer], b[layer], tested[layer], adjusted, shards_in_all, watched.get(layer, ()), readers, top)
        for layer, adjusted in zip(a, q, strict=True)
    )


def overlap(a: FeatureShares, b: FeatureShares) -> Overlap:
    """How far the sets of stored features coincide, beside what mixing both corpora's documents would give.

    Larger corpora fire more features, whatever they hold. So every document of both is thought dealt out at random
    in these sizes: a feature stored x times in all is missing from A with probability (n_B / n)^x.
    """
    in_a, in_b = a.stored > 0, b.stored > 0
    times, n = a.stored + b.stored, a.documents + b.documents
    held = times > 0
    without_a, without_b = (
        np.power(side / n, times[held], dtype=float) for side in (float(b.documents), float(a.documents))
    )
    chance_a, chance_b = float((1 - without_a).sum()), float((1 - without_b).sum())
    chance = float((1 - without_a - without_b).clip(min=0).sum())
    shared = int((in_a & in_b).sum())
    sizes = int(in_a.sum()), int(in_b.sum())
    return Overlap(
        features=sizes,
        shared=shared,
        a_in_b=_ratio(shared, sizes[0]),
        b_in_a=_ratio(shared, sizes[1]),
        smaller=_ratio(shared, min(sizes)),
        by_chance=(
            _ratio(chance, chance_a),
            _ratio(chance, chance_b),
            _ratio(chance, min(chance_a, chance_b)),
        ),
    )


def _ratio(part: float, whole: float) -> float:
    return min(part / whole, 1.0) if whole else 0.0


def _frequent(a: FeatureShares, b: FeatureShares) -> Ints:
    smaller = min(a.documents, b.documents) / (a.documents + b.documents)
    return np.flatnonzero((a.stored + b.stored) * smaller >= FEWEST)


def _effective(
    a: FeatureShares, b: FeatureShares, features: Ints, shards_in_all: tuple[int, int]
) -> tuple[Floats, Floats, Floats, Floats]:
    n_a, n_b = (side.sample_size(m)[features] for side, m in zip((a, b), shards_in_all, strict=True))
    return a.stored[features] / a.documents * n_a, n_a, b.stored[features] / b.documents * n_b, n_b


def _layer(
    layer: int,
    a: FeatureShares,
    b: FeatureShares,
    tested: Ints,
    q: Floats,
    shards_in_all: tuple[int, int],
    watched: Collection[int],
    readers: Mapping[tuple[int, int], Readers],
    top: int,
) -> LayerDrift:
    low, high = share_difference(*_effective(a, b, tested, shards_in_all))
    share_a, share_b = a.stored[tested] / a.documents, b.stored[tested] / b.documents
    difference = share_b - share_a
    moved = q < SIGNIFICANT
    unknown_a, unknown_b = a.unknown(watched) / a.documents, b.unknown(watched) / b.documents
    order = [i for i in np.lexsort((tested, -np.abs(difference))) if moved[i]]
    shown = {*[i for i in order if difference[i] > 0][:top], *[i for i in order if difference[i] < 0][:top]}
    changes = []
    for i in [i for i in order if i in shown]:
        feature = int(tested[i])
        read = readers.get((layer, feature), Readers())
        changes.append(
            FeatureChange(
                feature=feature,
                share=(float(share_a[i]), float(share_b[i])),
                difference=float(difference[i]),
                low=float(low[i]),
                high=float(high[i]),
                q=float(q[i]),
                below_floor=(float(unknown_a[feature]), float(unknown_b[feature])),
                example=(b if difference[i] > 0 else a).example[feature],
                read_by=read.taggers,
                tokens=read.tokens,
            )
        )
    return LayerDrift(
        layer=layer,
        tested=len(tested),
        rose=int((moved & (difference > 0)).sum()),
        fell=int((moved & (difference < 0)).sum()),
        changes=tuple(changes),
        overlap=overlap(a, b),
    )
