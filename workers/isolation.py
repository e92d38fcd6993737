"""Finds the row that breaks a worker in at most log2(rows) + 1 trials, and blames none that doesn't do so alone.

What breaks a worker (a crash, no memory left, an endless loop) takes the process with it, so the row can't name
itself. It is found from outside, by bisection over ranges of rows, each tried in a worker of its own.
"""

from assay.workers.corpora.records import BadRecord, bad


class Isolation:
    """A search over the rows first..end-1; says what to try next and is told how it went. Knows nothing of Ray."""

    def __init__(self, first: int, end: int) -> None:
        self.first = first
        self.end = end
        self.trials = 0
        self.culprit: BadRecord | None = None
        self.over = first >= end

    def range(self) -> tuple[int, int]:
        """The rows to try next: the first half of those suspected, or the last suspect alone."""
        size = self.end - self.first
        return self.first, self.first + max(1, size // 2)

    def passed(self) -> None:
        """The worker did these rows. When a lone suspect passes, the search is over without a culprit."""
        self.trials += 1
        _, self.first = self.range()
        self.over = self.first >= self.end

    def broke(self, reason: str, detail: str) -> None:
        """These rows broke the worker. A row that did so alone is the culprit; the first one, if there are several."""
        self.trials += 1
        _, self.end = self.range()
        if self.end - self.first == 1:
            self.culprit = bad(self.first, reason, detail)
            self.over = True
