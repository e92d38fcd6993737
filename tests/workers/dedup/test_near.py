"""Signatures estimate the Jaccard similarity of sets, and bands find the pairs that reach the threshold."""

import numpy as np
import pytest

from assay.schemas.dedup import NearCopies
from assay.workers.dedup.near import band_keys, near_bands, signatures, similarity, sketches


def pairs(jaccard: float, count: int = 400, size: int = 300) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """`count` pairs of sets of about this similarity."""
    draw = np.random.default_rng(1)
    shared = round(2 * size * jaccard / (1 + jaccard))
    left = [draw.integers(0, 2**63, size, dtype=np.uint64) for _ in range(count)]
    right = [np.concatenate([part[:shared], draw.integers(0, 2**63, size - shared, dtype=np.uint64)]) for part in left]
    return left, right


@pytest.mark.parametrize("jaccard", [0.1, 0.5, 0.8, 0.95])
def test_sketches_estimate_the_similarity_without_bias_and_with_the_error_of_minhash(jaccard: float) -> None:
    left, right = (sketches(signatures(side, 128)) for side in pairs(jaccard))
    found = similarity(left, right)
    expected = (jaccard * (1 - jaccard) / 128) ** 0.5
    assert abs(found.mean() - jaccard) < 4 * expected / 20 + 0.004
    assert found.std() < 1.4 * expected


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_bands_find_95_percent_of_the_pairs_at_the_threshold_and_few_unlike_ones(threshold: float) -> None:
    spec = NearCopies(threshold=threshold)
    cut = near_bands(spec)
    assert cut.number * cut.rows <= 128

    def share(jaccard: float) -> float:
        left, right = (band_keys(signatures(side, 128), cut) for side in pairs(jaccard))
        return float((left == right).any(1).mean())

    assert share(threshold) >= 0.92
    assert share(threshold) == pytest.approx(cut.chance(threshold), abs=0.04)
    assert share(max(0.0, threshold - 0.4)) < 0.35


def test_signatures_are_those_that_stored_results_were_made_with() -> None:
    rows = signatures([np.arange(1, 40, dtype=np.uint64)], 16)
    assert rows.tolist() == [[213916464, 586901633, 387528749, 345700909, 161991935, 55935229, 694078435, 56318009,
                              747997872, 187365265, 47228523, 1004078055, 464370929, 460755514, 423925298,
                              753109395]]  # fmt: skip


def test_a_set_in_other_order_and_with_repeats_has_the_same_signature() -> None:
    left, _ = pairs(0.5, 3)
    other = [np.concatenate([part[::-1], part[:9]]) for part in left]
    assert np.array_equal(signatures(left, 128), signatures(other, 128))
