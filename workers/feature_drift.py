"""Tells the features of two corpora apart: which rose or fell beyond chance, and how far their sets coincide."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from assay.schemas.chance import benjamini_hochberg, equal_shares_p, share_difference
from assay.schemas.drift import SIGNIFICANT, FeatureChange, FeatureOverlap, LayerDrift
from assay.workers.feature_shares import FeatureShares, Floats, Ints

FEWEST = 5
"""documents expected to store a feature in the smaller sample for it to be tested"""


class Readers(NamedTuple):
    """What taggers say of a feature."""

    taggers: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()


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


def overlap(a: FeatureShares, b: FeatureShares) -> FeatureOverlap:
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
    return FeatureOverlap(
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
