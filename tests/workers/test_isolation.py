"""The search for the row that breaks a worker: bounded, exact, and blaming nobody who is innocent."""

from math import ceil, log2

from hypothesis import given
from hypothesis import strategies as st

from assay.workers.isolation import Isolation


def search(first: int, end: int, poison: set[int]) -> Isolation:
    """Runs a search over rows of which those in `poison` break a worker."""
    isolation = Isolation(first, end)
    while not isolation.over:
        tried = isolation.range()
        if poison & set(range(*tried)):
            isolation.broke("kills_worker", "")
        else:
            isolation.passed()
    return isolation


@given(st.integers(0, 50), st.integers(1, 3000), st.data())
def test_the_first_poisoned_row_is_found_in_a_logarithm_of_trials(first: int, rows: int, data: st.DataObject) -> None:
    poison = data.draw(st.sets(st.integers(first, first + rows - 1), min_size=1, max_size=4))
    found = search(first, first + rows, poison)
    assert found.culprit is not None
    assert (found.culprit.row, found.culprit.reason) == (min(poison), "kills_worker")
    assert found.trials <= ceil(log2(rows)) + 1


@given(st.integers(0, 3000))
def test_no_row_is_blamed_where_none_breaks_a_worker_alone(rows: int) -> None:
    found = search(7, 7 + rows, set())
    assert found.culprit is None
    assert found.over
    assert found.trials <= ceil(log2(max(rows, 1))) + 1


def test_a_pair_of_rows_that_only_breaks_together_is_blamed_on_neither() -> None:
    isolation = Isolation(0, 8)
    while not isolation.over:
        rows = set(range(*isolation.range()))
        isolation.broke("kills_worker", "") if {2, 3} <= rows else isolation.passed()
    assert isolation.culprit is None
