"""What happens next to a unit that broke a worker: another attempt, a search for the row to blame, or giving it up.

Plain bookkeeping without Ray. The number of workers that one unit can break is bounded: `attempts` as a whole, and
for each row that is found log2(rows) + 2 more.
"""

import logging
from typing import Any, Literal, NamedTuple

from assay.workers.corpora.records import BadRecord
from assay.workers.deadlines import Deadlines
from assay.workers.isolation import Isolation

log = logging.getLogger(__name__)

_SEARCH_AFTER = 2
"""whole attempts: one may have died of something else"""


class Trial(NamedTuple):
    """One call of a worker: the whole unit, a count of its rows, or some of its rows."""

    unit: Any
    call: Literal["process", "rows", "probe"] = "process"
    skip: tuple[BadRecord, ...] = ()
    rows: tuple[int, int] = (0, 0)
    share: float = 1.0
    """of the unit's rows"""
    read_s: float = 0.0
    """seconds that reading the unit took"""

    def __str__(self) -> str:
        if self.call == "probe":
            return f"rows {self.rows[0]} to {self.rows[1] - 1} of {self.unit.id}"
        return str(self.unit.id)

    @property
    def size(self) -> int:
        """Bytes of the unit; 0 where it doesn't tell."""
        return int(getattr(self.unit, "bytes", 0))

    def run(self, worker: Any, attempt: str) -> Any:
        """Makes the call; a worker that isn't isolating sees units only."""
        if self.call == "rows":
            return worker.rows(self.unit)
        if self.call == "probe":
            return worker.probe(self.unit, *self.rows)
        return worker.process(self.unit, attempt, self.skip) if self.skip else worker.process(self.unit, attempt)

    def allowed(self, deadlines: Deadlines) -> float:
        """Seconds that the call may take; without end where the unit doesn't tell its size."""
        if not hasattr(self.unit, "bytes"):
            return float("inf")
        if self.call == "probe":
            return deadlines.part(self.size, self.share, self.read_s)
        return deadlines.whole(self.size)


class Suspect:
    """A unit that broke a worker or failed, and what is known of it."""

    def __init__(self, unit: Any, attempts: int) -> None:
        self.unit = unit
        self.attempts = 0
        self._max_attempts = attempts
        self._skip: tuple[BadRecord, ...] = ()
        self._search: Isolation | None = None
        self._rows: tuple[int, int] | None = None
        self._read_s = 0.0
        self._searched_in_vain = False
        self._hiccups = 0

    def again(self, trial: Trial) -> Trial | None:
        """The same call after a failure that another attempt may not meet; None when there were enough."""
        if trial.call == "process":
            self.attempts += 1
            return trial if self.attempts < self._max_attempts else None
        self._hiccups += 1
        return trial if self._hiccups < self._max_attempts else None

    def broke(self, trial: Trial, reason: str, error: str, max_poison: int) -> Trial | None:
        """What to do after `trial` broke a worker; None gives the unit up. `max_poison` 0 searches for no row."""
        if trial.call == "probe" and self._search is not None:
            self._search.broke(reason, error.partition(":")[0] if reason == "fails_worker" else "")
            return self._next()
        self.attempts += 1
        if trial.call == "rows":  # reading alone breaks it: no row can be done without
            return None
        search = max_poison > len(self._skip) and not self._searched_in_vain
        if search and self.attempts >= _SEARCH_AFTER:
            return self._begin()
        log.warning("%s broke a worker (attempt %d): %s", trial, self.attempts, error)
        return trial if self.attempts < self._max_attempts else None

    def passed(self, trial: Trial, receipt: Any, seconds: float) -> Trial:
        """What to do after a count or a search's trial went well."""
        if trial.call == "rows":
            self._rows, self._read_s = receipt, seconds
            self._search = Isolation(*receipt)
        elif self._search is not None:
            self._search.passed()
        return self._next()

    def _begin(self) -> Trial:
        if self._rows is None:
            return Trial(self.unit, "rows")
        self._search = Isolation(self._skip[-1].row + 1 if self._skip else self._rows[0], self._rows[1])
        return self._next()

    def _next(self) -> Trial:
        assert self._search is not None and self._rows is not None  # noqa: S101 - a search runs
        search = self._search
        if not search.over:
            first, end = search.range()
            total = self._rows[1] - self._rows[0]
            return Trial(self.unit, "probe", (), (first, end), (end - first) / total, self._read_s)
        self._search = None
        if search.culprit is None:
            log.warning("no row of %s breaks a worker alone", self.unit.id)
            self._searched_in_vain = True
        else:
            log.warning("row %d of %s %s", search.culprit.row, self.unit.id, search.culprit.reason.replace("_", " a "))
            self._skip = (*self._skip, search.culprit)
            self.attempts = 1
        return Trial(self.unit, "process", self._skip)
