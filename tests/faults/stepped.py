"""An attempt at a shard that takes one storage operation at a time, each of which can be made to go wrong."""

import threading
from collections.abc import Callable
from queue import Queue
from typing import Any, Literal

from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from assay.workers.storage.filesystem import join
from assay.workers.storage.objects import ObjectStore

Order = Literal["go on", "lose the reply", "refuse", "die before", "die after"]
_PATIENCE_S = 60


class Died(BaseException):
    """The process of an attempt is gone."""


class Attempt:
    """Runs `work` in a thread that stops before each storage operation until it is told how that one goes."""

    def __init__(self, work: Callable[["SteppedStore"], Any], root: str) -> None:
        self.ended = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._store = SteppedStore(root, self)
        self._orders: Queue[Order] = Queue()
        self._reports: Queue[bool] = Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._listen()

    def step(self, order: Order) -> None:
        """Lets the next operation happen in this way; returns when the attempt waits again or has ended."""
        self._orders.put(order)
        self._listen()

    def finish(self) -> None:
        """Lets all that is left go well."""
        while not self.ended:
            self.step("go on")

    def ask(self) -> Order:
        """Called by the file system before an operation."""
        self._reports.put(False)
        return self._orders.get(timeout=_PATIENCE_S)

    def _run(self) -> None:
        try:
            self.result = self._work(self._store)
        except BaseException as e:  # noqa: BLE001 - Died is meant to pass every handler but this
            self.error = e
        self._reports.put(True)

    def _listen(self) -> None:
        self.ended = self._reports.get(timeout=_PATIENCE_S)


class SteppedStore(ObjectStore):
    """The store of one attempt."""

    def __init__(self, root: str, attempt: Attempt) -> None:
        super().__init__(root)
        self._fs = SteppedFileSystem(attempt)
        self._base = MemoryFileSystem._strip_protocol(root)

    def _open(self, key: str = "") -> tuple[AbstractFileSystem, str]:
        return self._fs, join(self._base, key) if key else self._base


class SteppedFileSystem(MemoryFileSystem):
    """fsspec's memory file system, which all stores of a process share, with an attempt's operations held up."""

    cachable = False

    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self._attempt = attempt
        self._inside = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._held(lambda: super(SteppedFileSystem, self).pipe_file(path, value, mode=mode, **kwargs))

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        return bytes(self._held(lambda: super(SteppedFileSystem, self).cat_file(path, *args, **kwargs)))

    def info(self, path: str, **kwargs: Any) -> Any:
        return self._held(lambda: super(SteppedFileSystem, self).info(path, **kwargs))

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        return self._held(lambda: super(SteppedFileSystem, self).open(path, mode, **kwargs))

    def _held(self, operation: Callable[[], Any]) -> Any:
        if self._inside:  # an operation that is made of others
            return operation()
        order = self._attempt.ask()
        if order == "die before":
            raise Died
        if order == "refuse":
            raise TimeoutError("no answer")
        self._inside = True
        try:
            result = operation()
        finally:
            self._inside = False
        if order == "die after":
            raise Died
        if order == "lose the reply":
            raise TimeoutError("no answer")
        return result
