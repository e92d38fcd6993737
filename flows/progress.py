"""Progress of a long run: a live bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_S = 20.0


class ShardProgress(Protocol):
    """Told of each shard that ends; tokens and documents are of this run only."""

    def advance(self, *, size: int, documents: int, tokens: int, failed: bool = False) -> None:
        """One more shard of `size` bytes is done (or given up)."""


class _Counter:
    def __init__(self, label: str, shards: int, done: int, total: int, done_bytes: int) -> None:
        self.label, self.shards, self.done = label, shards, done
        self.total_bytes, self.done_bytes = max(total, 1), done_bytes
        self.documents = self.tokens = self.failed = self.fresh_bytes = 0
        self.started = time.monotonic()

    def add(self, size: int, documents: int, tokens: int, failed: bool) -> None:
        self.done += 1
        self.done_bytes += size
        self.fresh_bytes += size
        self.documents += documents
        self.tokens += tokens
        self.failed += failed

    def seconds_left(self) -> float:
        rate = self.fresh_bytes / max(time.monotonic() - self.started, 1e-9)
        return max(0.0, (self.total_bytes - self.done_bytes) / rate) if rate else 0.0

    def numbers(self) -> str:
        rate = self.tokens / max(time.monotonic() - self.started, 1e-9)
        failed = f" · {self.failed} failed" if self.failed else ""
        return f"{self.done:,}/{self.shards:,} shards · {self.documents:,} docs · {rate:,.0f} tokens/s{failed}"


class _Lines:
    """One line a change of state at most every 20 s, and the last one always."""

    def __init__(self, counter: _Counter, console: Console) -> None:
        self._counter, self._console = counter, console
        self._last = time.monotonic()

    def advance(self, *, size: int, documents: int, tokens: int, failed: bool = False) -> None:
        counter = self._counter
        counter.add(size, documents, tokens, failed)
        now = time.monotonic()
        if now - self._last >= _LINE_EVERY_S or counter.done == counter.shards:
            self._last = now
            share = 100 * counter.done / max(counter.shards, 1)
            left = f" · {duration(counter.seconds_left())} left" if counter.done < counter.shards else ""
            self._console.print(f"{counter.label} {share:.0f} % · {counter.numbers()}{left}")


class _Bar:
    def __init__(self, counter: _Counter, progress: Progress) -> None:
        self._counter, self._progress = counter, progress
        self._task = progress.add_task(
            counter.label, total=counter.total_bytes, completed=counter.done_bytes, numbers=counter.numbers()
        )

    def advance(self, *, size: int, documents: int, tokens: int, failed: bool = False) -> None:
        self._counter.add(size, documents, tokens, failed)
        self._progress.update(self._task, completed=self._counter.done_bytes, numbers=self._counter.numbers())


@contextmanager
def shard_progress(label: str, *, shards: int, done: int, total_bytes: int, done_bytes: int) -> Iterator[ShardProgress]:
    """Shows the progress of `shards` shards, of which `done` were finished by earlier runs."""
    counter = _Counter(label, shards, done, total_bytes, done_bytes)
    console = stderr()
    if not console.is_terminal:
        yield _Lines(counter, console)
        return
    numbers = TextColumn("{task.fields[numbers]}")
    columns = (TextColumn("{task.description}"), BarColumn(), numbers, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(counter, progress)


def stderr() -> Console:
    """Where progress and messages go; data goes to stdout."""
    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def size(count: int) -> str:
    """1.2 GB, 3.4 MB or 56 kB, of 1,000 each."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.0f} kB"


def duration(seconds: float) -> str:
    """1h 04m, 3m 20s or 12s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 60}m {whole % 60:02d}s" if whole >= 60 else f"{whole}s"
