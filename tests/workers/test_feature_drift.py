"""Which features rose or fell: rarely by chance, surely where planted, honestly where the floor hides them."""

import numpy as np
import pytest

from assay.schemas.drift import LayerDrift
from assay.workers.feature_drift import Readers, layer_drift, overlap
from assay.workers.feature_shares import FeatureShares

from .feature_tables import Doc
from .test_feature_shares import D_SAE, add_shard


def simulated(seed: int, documents: int, rates: np.ndarray, shards: int = 1) -> dict[int, FeatureShares]:
    """Counts of layer 2 of documents that store each feature at its own rate, in shards of equal size."""
    draw, shares = np.random.default_rng(seed), FeatureShares(D_SAE)
    for _ in range(shards):
        document, ids = np.nonzero(draw.random((documents // shards, D_SAE)) < rates)
        docs = [Doc({(2, int(f)): (1.0, 1.0, 1) for f in ids[document == d]}) for d in range(documents // shards)]
        add_shard(shares, docs)
    return {2: shares}


def compared(a: dict[int, FeatureShares], b: dict[int, FeatureShares], **more: object) -> LayerDrift:
    given: dict = {"shards_in_all": (1, 1), "watched": {}, "readers": {}, "top": 10, **more}
    return layer_drift(a, b, **given)[0]


def test_features_of_two_halves_are_rarely_said_to_have_moved() -> None:
    rates = np.linspace(0.02, 0.6, D_SAE)
    runs = [compared(simulated(2 * s, 300, rates), simulated(2 * s + 1, 200, rates)) for s in range(30)]
    assert sum(bool(run.changes) for run in runs) <= 4  # 1.5 expected
    assert all(run.tested > 50 for run in runs)


def test_features_that_rose_or_fell_are_found_with_what_taggers_say_of_them() -> None:
    rates = np.full(D_SAE, 0.2)
    moved = rates.copy()
    moved[7], moved[11] = 0.5, 0.02
    readers = {(2, 7): Readers(("quality",), ("spam",))}
    found = compared(simulated(0, 400, rates), simulated(1, 400, moved), readers=readers)
    assert (found.rose, found.fell) == (1, 1)
    rose, fell = found.changes
    assert (rose.feature, fell.feature) == (7, 11)
    assert 0.1 < rose.low < rose.difference < rose.high < 0.4
    assert -0.3 < fell.low < fell.difference < fell.high < -0.1
    assert (rose.read_by, rose.tokens, fell.read_by) == (("quality",), ("spam",), ())
    assert rose.certain and fell.certain  # no document had features cut


def test_a_difference_that_the_floor_could_undo_is_said_to_be_uncertain() -> None:
    def side(stored: int, floor: float) -> dict[int, FeatureShares]:
        shares = FeatureShares(D_SAE)
        docs = [Doc({(2, 1): (1.0, 1.0, 1)} if n < stored else {}, {2: floor}) for n in range(200)]
        add_shard(shares, docs)
        return {2: shares}

    (cut,) = compared(side(20, 0.5), side(120, 0.5)).changes
    assert cut.below_floor == (0.9, 0.4)
    assert not cut.certain
    (whole,) = compared(side(20, 0.0), side(120, 0.0)).changes
    assert whole.below_floor == (0, 0) and whole.certain
    (watched,) = compared(side(20, 0.5), side(120, 0.5), watched={2: {1}}).changes
    assert watched.certain


def test_overlap_is_that_of_the_sets_and_chance_is_what_dealing_out_gives() -> None:
    draw = np.random.default_rng(0)
    rates = np.full(D_SAE, 0.004)
    a, b = simulated(0, 600, rates)[2], simulated(1, 100, rates)[2]
    found = overlap(a, b)
    of_a, of_b = set(np.flatnonzero(a.stored)), set(np.flatnonzero(b.stored))
    assert found.features == (len(of_a), len(of_b))
    assert found.a_in_b == len(of_a & of_b) / len(of_a)
    assert found.b_in_a == found.smaller == len(of_a & of_b) / len(of_b)
    dealt = []
    for _ in range(400):
        in_a = draw.hypergeometric(600, 100, a.stored + b.stored)
        one, other = in_a > 0, in_a < a.stored + b.stored
        both = (one & other).sum()
        dealt.append((both / one.sum(), both / other.sum()))
    assert found.by_chance[:2] == pytest.approx(np.mean(dealt, 0), abs=0.02)
    assert found.a_in_b == pytest.approx(found.by_chance[0], abs=0.15)
