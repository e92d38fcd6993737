"""Runs units of work on long-lived Ray actors: bounded in flight, retried, blamed fairly, never lost.

The pool only schedules. Whether a unit is done is decided by its commit in the store, so that a unit which is run
twice (a retry, a second driver, an actor that was thought dead) changes nothing.
"""

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from assay.schemas.errors import AssayError, StorageError, printable

log = logging.getLogger(__name__)

_START_FAILURES = 3
_PATIENCE_S = 30


class Unit(Protocol):
    """A piece of work; its id names it in messages and in the store."""

    @property
    def id(self) -> str: ...


class Worker(Protocol):
    """What an actor holds: loaded once, then called for unit after unit."""

    def process(self, unit: Any, attempt: str) -> Any:
        """Does the unit and commits it, or finds it committed; returns a small receipt."""


class Outcome(NamedTuple):
    """A unit that is done (receipt) or given up (error)."""

    unit: Unit
    receipt: Any
    error: str


class PoolOptions(NamedTuple):
    """How many actors, what each of them holds, and when to give up."""

    workers: int
    cpus: float = 1
    gpus: float = 0
    attempts: int = 3
    max_failed: int = 20
    """stop the run when more units than this were given up"""


@ray.remote(max_restarts=0, max_task_retries=0)
class _Actor:
    """Retries belong to the driver: a restart by Ray could send the same poison to every actor in turn."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._worker: Worker | None = None
        self._failure: Exception | None = None
        try:
            self._worker = make_worker()
        except Exception as e:  # noqa: BLE001 - of what a constructor raises Ray passes on only the text
            self._failure = e

    def ready(self) -> None:
        """Returns once the worker is loaded; raises what kept it from loading."""
        if self._failure is not None:
            raise self._failure

    def process(self, unit: Unit, attempt: str) -> Any:
        assert self._worker is not None  # noqa: S101 - units come after ready()
        return self._worker.process(unit, attempt)


class WorkPool:
    """Yields an Outcome for every unit, in the order in which they end."""

    def __init__(self, make_worker: Callable[[], Worker], options: PoolOptions) -> None:
        """`make_worker` is pickled and called once in each actor."""
        self._make_worker = make_worker
        self._options = options
        self._todo: deque[Unit] = deque()
        self._attempts: dict[str, int] = {}
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Unit]] = {}
        self._start_failures = 0

    def run(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        """Runs `units`; AssayError if no actor can start or more than max_failed units are given up."""
        self._todo.extend(units)
        failed: list[str] = []
        for _ in range(min(self._options.workers, len(units))):
            self._spawn()
        try:
            while self._todo or self._running:
                self._assign()
                for outcome in self._wait():
                    if outcome.error:
                        failed.append(outcome.error)
                    yield outcome
                if len(failed) > self._options.max_failed:
                    raise AssayError(
                        f"{len(failed)} units failed, so the run was stopped; the last one: {failed[-1]}",
                        hint="what was committed is kept: mend the cause and run the same command again",
                    )
        finally:
            for actor in [*self._idle, *(actor for actor, _ in self._running.values()), *self._starting.values()]:
                ray.kill(actor)

    def _spawn(self) -> None:
        options = self._options
        actor = _Actor.options(num_cpus=options.cpus, num_gpus=options.gpus).remote(self._make_worker)  # type: ignore[attr-defined]
        self._starting[actor.ready.remote()] = actor

    def _assign(self) -> None:
        """Gives each idle actor one unit: none waits behind another, so whatever kills an actor is the unit it held."""
        while self._idle and self._todo:
            actor, unit = self._idle.pop(), self._todo.popleft()
            self._running[actor.process.remote(unit, uuid.uuid4().hex[:12])] = actor, unit

    def _wait(self) -> Iterator[Outcome]:
        ready, _ = ray.wait([*self._running, *self._starting], num_returns=1, timeout=_PATIENCE_S)
        if not ready and not self._running:
            options = self._options
            log.warning("no worker has started yet; each needs %s CPUs and %s GPUs", options.cpus, options.gpus)
        for ref in ready:
            if ref in self._starting:
                self._started(ref)
                continue
            actor, unit = self._running.pop(ref)
            try:
                receipt = ray.get(ref)
            except RayActorError as e:
                ray.kill(actor)
                preempted = isinstance(e, ActorDiedError) and e.preempted
                log.warning("a worker died on %s%s", unit.id, " (preempted)" if preempted else "")
                self._spawn()
                if preempted:
                    self._todo.appendleft(unit)
                else:
                    yield from self._retry(unit, e)
                continue
            except RayTaskError as e:
                failure: Exception | None = e.cause if isinstance(e.cause, Exception) else e
            except RayError as e:  # an argument or a result was lost on its way
                failure = e
            else:
                failure = None
            self._idle.append(actor)
            if failure is None:
                yield Outcome(unit, receipt, "")
            else:
                yield from self._retry(unit, failure)

    def _started(self, ref: Any) -> None:
        actor = self._starting.pop(ref)
        try:
            ray.get(ref)
        except (RayActorError, RayTaskError) as e:
            cause = e.cause if isinstance(e, RayTaskError) else e
            ray.kill(actor)
            self._start_failures += 1
            if isinstance(cause, AssayError):
                raise cause from None
            if self._start_failures >= _START_FAILURES:
                raise AssayError(
                    f"workers can't start: {printable(cause, 600)}", hint="`assay doctor` checks the parts"
                ) from e
            self._spawn()
        else:
            self._start_failures = 0
            self._idle.append(actor)

    def _retry(self, unit: Unit, error: Exception) -> Iterator[Outcome]:
        attempts = self._attempts[unit.id] = self._attempts.get(unit.id, 0) + 1
        mendable = not isinstance(error, AssayError) or isinstance(error, StorageError)
        if mendable and attempts < self._options.attempts:
            self._todo.append(unit)
            log.warning("%s failed (attempt %d): %s", unit.id, attempts, printable(error))
            return
        text = str(error) if isinstance(error, AssayError) else f"{type(error).__name__}: {printable(error, 600)}"
        yield Outcome(unit, None, f"{unit.id} after {attempts} attempt(s): {text}")
