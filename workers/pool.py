"""Runs units of work on long-lived Ray actors: bounded in flight, retried, blamed fairly, never lost.

The pool only schedules. Whether a unit is done is decided by its commit in the store, so that a unit which is run
twice (a retry, a second driver, an actor that was thought dead) changes nothing.
"""

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from assay.schemas.errors import AssayError, StorageError, Unfinished, printable
from assay.workers.corpora.records import BadRecord
from assay.workers.deadlines import Deadlines
from assay.workers.suspects import Suspect, Trial

log = logging.getLogger(__name__)

_START_FAILURES = 3
_PATIENCE_S = 30


class Unit(Protocol):
    """A piece of work; its id names it in messages and in the store. One with `bytes` has a deadline."""

    @property
    def id(self) -> str: ...


class Worker(Protocol):
    """What an actor holds: loaded once, then called for unit after unit."""

    def process(self, unit: Any, attempt: str) -> Any:
        """Does the unit and commits it, or finds it committed; returns a small receipt."""


class IsolatingWorker(Worker, Protocol):
    """A worker whose units can be done in parts and without some rows: what `PoolOptions.isolate` asks for."""

    worked: int
    """bytes on which the last unit's time was spent: deadlines follow from it"""

    def process(self, unit: Any, attempt: str, skip: tuple[BadRecord, ...] = ()) -> Any:
        """As a Worker's, with the rows of `skip` quarantined unseen."""

    def rows(self, unit: Any) -> tuple[int, int]:
        """The first row with a document and the row after the last one; reads the unit and does nothing with it."""

    def probe(self, unit: Any, first: int, end: int) -> None:
        """Does the rows first..end-1 and commits nothing."""


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
    max_broken: int = 60
    """stop the run when workers broke more often than this in a row, and nothing was done in between"""
    isolate: bool = False
    """find the rows that break a worker, and do the unit without them"""
    max_poison: int = 8
    """give a unit up when more of its rows than this break workers"""
    grace_s: float = 120
    """seconds that any unit may take"""
    seconds_per_mb: float | None = None
    """seconds more for each MB of a unit; by default 20 times the slowest so far"""


@ray.remote(max_restarts=0, max_task_retries=0)
class _Actor:
    """Retries belong to the driver: a restart by Ray could send the same poison to every actor in turn."""

    def __init__(self, make_worker: Callable[[], Any]) -> None:
        self._worker: Any = None
        self._failure: Exception | None = None
        try:
            self._worker = make_worker()
        except Exception as e:  # noqa: BLE001 - of what a constructor raises Ray passes on only the text
            self._failure = e

    def ready(self) -> None:
        """Returns once the worker is loaded; raises what kept it from loading."""
        if self._failure is not None:
            raise self._failure

    def work(self, trial: Trial, attempt: str) -> tuple[Any, int]:
        """What the trial gives, and the bytes that the worker says it worked on; comes after ready()."""
        result = trial.run(self._worker, attempt)
        return result, getattr(self._worker, "worked", 0)


class _Running(NamedTuple):
    actor: Any
    trial: Trial
    started: float
    allowed: float


class WorkPool:
    """Yields an Outcome for every unit, in the order in which they end."""

    def __init__(self, make_worker: Callable[[], Worker], options: PoolOptions) -> None:
        """`make_worker` is pickled and called once in each actor; with `isolate` it makes an IsolatingWorker."""
        self._make_worker = make_worker
        self._options = options
        self._deadlines = Deadlines(options.grace_s, options.seconds_per_mb)
        self._todo: deque[Trial] = deque()
        self._suspects: dict[str, Suspect] = {}
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._running: dict[Any, _Running] = {}
        self._start_failures = 0
        self._broken_in_a_row = 0

    def run(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        """Runs `units`; AssayError if no actor can start, Unfinished if too much fails (max_failed, max_broken)."""
        self._todo.extend(Trial(unit) for unit in units)
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
                    raise _stopped(f"{len(failed)} units failed", failed[-1])
        finally:
            for actor in [*self._idle, *(r.actor for r in self._running.values()), *self._starting.values()]:
                ray.kill(actor)

    def _spawn(self) -> None:
        options = self._options
        actor = _Actor.options(num_cpus=options.cpus, num_gpus=options.gpus).remote(self._make_worker)  # type: ignore[attr-defined]
        self._starting[actor.ready.remote()] = actor

    def _assign(self) -> None:
        """Gives each idle actor one trial: none waits behind another, so whatever breaks an actor is what it held."""
        while self._idle and self._todo:
            actor, trial = self._idle.pop(), self._todo.popleft()
            ref = actor.work.remote(trial, uuid.uuid4().hex[:12])
            self._running[ref] = _Running(actor, trial, time.monotonic(), trial.allowed(self._deadlines))

    def _wait(self) -> Iterator[Outcome]:
        now = time.monotonic()
        nearest = min((r.started + r.allowed - now for r in self._running.values()), default=_PATIENCE_S)
        timeout = min(_PATIENCE_S, max(0.0, nearest))
        ready, _ = ray.wait([*self._running, *self._starting], num_returns=1, timeout=timeout)
        if not ready and not self._running:
            options = self._options
            log.warning("no worker has started yet; each needs %s CPUs and %s GPUs", options.cpus, options.gpus)
        for ref in ready:
            if ref in self._starting:
                self._started(ref)
            else:
                yield from self._ended(ref)
        now = time.monotonic()
        for ref in [ref for ref, r in self._running.items() if now > r.started + r.allowed and ref not in ready]:
            running = self._running.pop(ref)
            log.warning("a worker was stopped after %.0f s on %s", running.allowed, running.trial)
            self._replace(running.actor)
            yield from self._broke(running.trial, "stalls_worker", f"it took more than {running.allowed:.0f} s")

    def _ended(self, ref: Any) -> Iterator[Outcome]:
        actor, trial, started, _ = self._running.pop(ref)
        try:
            receipt, worked = ray.get(ref)
        except RayActorError as e:
            preempted = isinstance(e, ActorDiedError) and e.preempted
            log.warning("a worker died on %s%s", trial, " (preempted)" if preempted else "")
            self._replace(actor)
            if preempted:
                self._todo.appendleft(trial)
            else:
                yield from self._broke(trial, "kills_worker", _words(e))
        except RayTaskError as e:
            cause = e.cause if isinstance(e.cause, Exception) else e
            if isinstance(cause, AssayError):
                self._idle.append(actor)
                yield from self._failed(trial, cause)
            else:  # what the error left behind in this process is not known
                self._replace(actor)
                yield from self._broke(trial, "fails_worker", _words(cause))
        except RayError as e:  # an argument or a result was lost on its way
            self._idle.append(actor)
            yield from self._failed(trial, e)
        else:
            self._idle.append(actor)
            if trial.call != "rows":
                self._broken_in_a_row = 0
            yield from self._done(trial, receipt, worked, time.monotonic() - started)

    def _done(self, trial: Trial, receipt: Any, worked: int, seconds: float) -> Iterator[Outcome]:
        if trial.call == "process":
            self._deadlines.done(worked, seconds)
            self._suspects.pop(trial.unit.id, None)
            yield Outcome(trial.unit, receipt, "")
            return
        self._queue(self._suspects[trial.unit.id].passed(trial, receipt, seconds))

    def _broke(self, trial: Trial, reason: str, error: str) -> Iterator[Outcome]:
        """A worker died, stalled, or raised what it was not made to raise."""
        self._broken_in_a_row += 1
        if self._broken_in_a_row > self._options.max_broken:
            what = f"workers broke {self._broken_in_a_row} times in a row, and nothing was done in between"
            raise _stopped(what, error)
        suspect = self._suspects.setdefault(trial.unit.id, Suspect(trial.unit, self._options.attempts))
        follow_up = suspect.broke(trial, reason, error, self._options.max_poison if self._options.isolate else 0)
        if follow_up is None:
            yield self._give_up(suspect, error)
        else:
            self._queue(follow_up)

    def _failed(self, trial: Trial, error: Exception) -> Iterator[Outcome]:
        """The unit failed in a way that leaves the worker sound."""
        suspect = self._suspects.setdefault(trial.unit.id, Suspect(trial.unit, self._options.attempts))
        mendable = not isinstance(error, AssayError) or isinstance(error, StorageError)
        again = suspect.again(trial)
        if mendable and again is not None:
            log.warning("%s failed: %s", trial, _words(error))
            self._queue(again)
        else:
            yield self._give_up(suspect, _words(error))

    def _queue(self, trial: Trial) -> None:
        """A retry waits at the end; the trials of a search go first, so that its unit isn't the last to end."""
        if trial.call == "process" and not trial.skip:
            self._todo.append(trial)
        else:
            self._todo.appendleft(trial)

    def _give_up(self, suspect: Suspect, error: str) -> Outcome:
        return Outcome(suspect.unit, None, f"{suspect.unit.id} after {suspect.attempts} attempt(s): {error}")

    def _replace(self, actor: Any) -> None:
        ray.kill(actor)
        self._spawn()

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


def _stopped(what: str, last: str) -> Unfinished:
    return Unfinished(
        f"{what}, so the run was stopped; the last one: {last}",
        hint="what was committed is kept: mend the cause and run the same command again",
    )


def _words(error: Exception) -> str:
    """The error in a line; what didn't come from Assay is escaped."""
    return str(error) if isinstance(error, AssayError) else f"{type(error).__name__}: {printable(error, 600)}"
