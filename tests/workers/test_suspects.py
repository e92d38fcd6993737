"""What happens to a unit that breaks workers, without any: plain bookkeeping, played through."""

from math import ceil, log2
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from assay.workers.corpora.records import REASONS, WORKER_REASONS, BadRecord
from assay.workers.deadlines import Deadlines
from assay.workers.suspects import Suspect, Trial

MB = 2**20


class Bytes(NamedTuple):
    id: str
    bytes: int


class End(NamedTuple):
    skipped: list[int]
    given_up: bool
    broken: int
    """workers that the unit broke"""


def play(rows: int, poison: set[int], max_poison: int = 8, attempts: int = 3, together: bool = False) -> End:
    """Plays a unit of `rows` rows to its end; poison breaks a worker alone, or only all of it `together`."""
    suspect, broken = Suspect(Bytes("u", MB), attempts), 0
    trial: Trial | None = Trial(suspect.unit)
    while trial is not None:
        tried = set(range(*trial.rows)) if trial.call == "probe" else set(range(rows))
        tried -= {record.row for record in trial.skip}
        breaks = poison and (poison <= tried if together else bool(poison & tried))
        if trial.call == "rows":
            trial = suspect.passed(trial, (0, rows), 0.1)
        elif breaks:
            broken += 1
            trial = suspect.broke(trial, "kills_worker", "ActorDiedError: it died", max_poison)
        elif trial.call == "process":
            return End([record.row for record in trial.skip], False, broken)
        else:
            trial = suspect.passed(trial, None, 0.1)
    return End([], True, broken)


@given(st.integers(1, 2000), st.data())
def test_every_poisoned_row_is_found_and_the_rest_is_done(rows: int, data: st.DataObject) -> None:
    poison = data.draw(st.sets(st.integers(0, rows - 1), max_size=8))
    end = play(rows, poison)
    assert end.skipped == sorted(poison)
    assert not end.given_up
    assert end.broken <= 1 + len(poison) * (ceil(log2(rows)) + 2)


def test_a_unit_with_too_many_poisoned_rows_is_given_up_after_a_bounded_number_of_broken_workers() -> None:
    end = play(1024, set(range(1024)), max_poison=3)
    assert end.given_up
    assert end.broken <= 3 + 3 * (10 + 2)


def test_rows_that_only_break_a_worker_together_cost_a_last_attempt_and_nobody_is_quarantined() -> None:
    end = play(64, {10, 50}, together=True)
    assert end.given_up
    assert end.broken == 3


def test_without_a_search_a_unit_has_its_attempts_and_no_more() -> None:
    assert play(64, {3}, max_poison=0) == End([], True, 3)


def test_a_unit_whose_reading_breaks_the_worker_is_given_up() -> None:
    suspect = Suspect(Bytes("u", MB), 3)
    whole = Trial(suspect.unit)
    assert suspect.broke(whole, "kills_worker", "died", 8) == whole
    count = suspect.broke(whole, "kills_worker", "died", 8)
    assert count is not None and count.call == "rows"
    assert suspect.broke(count, "kills_worker", "died", 8) is None


def test_a_raised_error_is_quarantined_with_its_type_and_without_its_words() -> None:
    suspect = Suspect(Bytes("u", MB), 3)
    trial: Trial | None = Trial(suspect.unit)
    for _ in range(2):
        assert trial is not None
        trial = suspect.broke(trial, "fails_worker", "IndexError: at 0x7f12", 8)
    trial = suspect.passed(Trial(suspect.unit, "rows"), (5, 6), 0.1)
    found = suspect.broke(trial, "fails_worker", "IndexError: at 0x7f12", 8)
    assert found is not None
    assert found.skip == (BadRecord(5, "fails_worker", "IndexError"),)


def test_the_reasons_that_are_found_by_trial_are_reasons_for_quarantine() -> None:
    assert set(WORKER_REASONS) < set(REASONS)


def test_a_deadline_is_an_hour_a_megabyte_until_the_run_knows_better() -> None:
    deadlines = Deadlines(120, None)
    assert deadlines.whole(2 * MB) == 120 + 7200
    deadlines.done(1000, 0.001)  # the model saw next to nothing
    deadlines.done(0, 0.001)
    assert deadlines.whole(2 * MB) == 120 + 7200
    deadlines.done(2 * MB, 10)
    deadlines.done(MB, 2)
    assert deadlines.whole(2 * MB) == 120 + 20 * 10
    assert deadlines.part(2 * MB, 0.5, read_s=3) == 120 + 100 + 30


def test_a_deadline_that_was_asked_for_is_kept_whatever_the_run_finds() -> None:
    deadlines = Deadlines(10, 60)
    deadlines.done(MB, 1000)
    assert deadlines.whole(MB) == 70


def test_a_unit_that_tells_no_size_has_no_deadline() -> None:
    class Plain(NamedTuple):
        id: str

    assert Trial(Plain("u")).allowed(Deadlines(0, 1)) == float("inf")
