"""Poison on real Ray actors: the row that kills, hangs or fails a worker is found, and all others are done."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from assay.schemas.errors import AssayError
from assay.workers.corpora.records import BadRecord
from assay.workers.pool import Outcome, PoolOptions, WorkPool

pytestmark = pytest.mark.usefixtures("cluster")

OPTIONS = PoolOptions(workers=1, cpus=0.1, isolate=True, grace_s=1.5, seconds_per_mb=1)


class Sack(NamedTuple):
    """A unit of `rows` rows, of which the poisoned ones break a worker in the way named."""

    id: str
    rows: int
    poison: tuple[tuple[int, str], ...] = ()
    bytes: int = 1000


class Eater:
    """Notes each of its processes in a folder, and eats row after row."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / f"process.{os.getpid()}").touch()

    def process(self, unit: Sack, attempt: str, skip: tuple[BadRecord, ...] = ()) -> list[int]:
        rows = [row for row in range(unit.rows) if row not in {record.row for record in skip}]
        self._eat(unit, rows)
        (self._folder / f"{unit.id}.skipped").write_text("\n".join(f"{r.row} {r.reason} {r.detail}" for r in skip))
        return rows

    def rows(self, unit: Sack) -> tuple[int, int]:
        return 0, unit.rows

    def probe(self, unit: Sack, first: int, end: int) -> None:
        self._eat(unit, list(range(first, end)))

    def _eat(self, unit: Sack, rows: list[int]) -> None:
        for row, how in unit.poison:
            if row in rows:
                {"kills": kill, "hangs": hang, "raises": fail}[how]()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    while True:
        pass


def fail() -> None:
    raise IndexError(f"no such token at {id(object()):#x}")


def run(units: list[Sack], folder: Path, options: PoolOptions = OPTIONS) -> dict[str, Outcome]:
    return {outcome.unit.id: outcome for outcome in WorkPool(partial(Eater, folder), options).run(units)}


@pytest.mark.parametrize(
    ("how", "reason"),
    [("kills", "kills_worker "), ("hangs", "stalls_worker "), ("raises", "fails_worker IndexError")],
)
def test_the_row_that_breaks_a_worker_is_skipped_with_its_reason_and_all_others_are_done(
    tmp_path: Path, how: str, reason: str
) -> None:
    found = run([Sack("good", 10), Sack("bad", 6, ((4, how),)), Sack("late", 10)], tmp_path)
    assert found["bad"].receipt == [0, 1, 2, 3, 5]
    assert (tmp_path / "bad.skipped").read_text() == f"4 {reason}"
    assert found["good"].receipt == found["late"].receipt == list(range(10))
    assert len(list(tmp_path.glob("process.*"))) <= 1 + 2 + 4  # two whole attempts, log2(6) + 1 probes


def test_two_poisoned_rows_of_a_unit_are_both_found(tmp_path: Path) -> None:
    found = run([Sack("bad", 16, ((3, "kills"), (11, "raises")))], tmp_path)
    assert found["bad"].receipt == [row for row in range(16) if row not in (3, 11)]
    assert (tmp_path / "bad.skipped").read_text() == "3 kills_worker \n11 fails_worker IndexError"


def test_a_run_in_which_every_worker_breaks_is_stopped(tmp_path: Path) -> None:
    units = [Sack(f"bad{n}", 4, tuple((row, "raises") for row in range(4))) for n in range(40)]
    with pytest.raises(AssayError, match="workers broke 5 times in a row, and nothing was done") as caught:
        run(units, tmp_path, OPTIONS._replace(max_broken=4))
    assert "IndexError" in caught.value.what
    assert len(list(tmp_path.glob("process.*"))) <= 6
