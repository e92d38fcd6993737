"""A document goes only for one that stays and that it is similar to itself; which one is stated and unique."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from assay.workers.dedup.clusters import choose, gather
from assay.workers.dedup.matching import Matches


def part(pairs: list[tuple[int, int]]) -> Matches:
    document, root = (
        (np.array(side, np.int64) for side in zip(*pairs, strict=True)) if pairs else (np.zeros(0, np.int64),) * 2
    )
    return Matches(document, root, -document.astype(np.float64), np.stack([document, document], 1).astype(np.uint8))


def test_components_join_over_partitions_in_any_order() -> None:
    parts = [part([(1, 1), (2, 1)]), part([]), part([(5, 5), (9, 5)]), part([(2, 2), (5, 2)]), part([(7, 7), (8, 7)])]
    first = gather(parts)
    assert first is not None
    assert first.document.tolist() == [1, 2, 5, 7, 8, 9]
    assert first.component.tolist() == [1, 1, 1, 7, 7, 1]
    assert first.rank.tolist() == [-1, -2, -5, -7, -8, -9]
    for order in ([4, 3, 2, 1, 0], [3, 0, 4, 2, 1]):
        again = gather([parts[n] for n in order])
        assert again is not None
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert gather([part([]), part([])]) is None


def on_a_line(places: list[float]):  # type: ignore[no-untyped-def]
    at = np.array(places)
    return lambda a, b: 1 - np.abs(at[a] - at[b])


def test_a_chain_of_small_differences_drops_nothing_at_its_far_end() -> None:
    places = [0.0, 0.1, 0.2, 0.3, 0.4]
    index, kept, similar = choose(np.zeros(5, np.int64), np.zeros(5), on_a_line(places), 0.85)
    assert dict(zip(index.tolist(), kept.tolist(), strict=True)) == {1: 0, 3: 2}
    assert np.allclose(similar, 0.9)


def test_the_copy_of_highest_rank_stays_and_the_first_of_several() -> None:
    index, kept, _ = choose(np.zeros(4, np.int64), np.array([1.0, 3.0, 3.0, 2.0]), on_a_line([0.0] * 4), 0.9)
    assert index.tolist() == [0, 2, 3]
    assert set(kept.tolist()) == {1}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(0, 2)), min_size=0, max_size=40))
def test_what_goes_is_similar_to_what_stays_and_what_stays_is_unlike_the_better_ones(
    documents: list[tuple[int, int, float]],
) -> None:
    component = np.array([c for c, _, _ in documents], np.int64)
    rank = np.array([r for _, r, _ in documents], np.float64)
    compare = on_a_line([p for _, _, p in documents])
    index, kept, similar = choose(component, rank, compare, 0.7)
    gone = set(index.tolist())
    assert len(gone) == len(index)
    for one, other, value in zip(index.tolist(), kept.tolist(), similar.tolist(), strict=True):
        assert other not in gone
        assert component[one] == component[other]
        assert value >= 0.7
        assert (-rank[other], other) < (-rank[one], one)
    staying = [n for n in range(len(documents)) if n not in gone]
    for one in staying:
        for other in staying:
            if one < other and component[one] == component[other]:
                assert compare(np.array([one]), np.array([other]))[0] < 0.7
