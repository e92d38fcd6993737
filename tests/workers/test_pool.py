"""Work on real Ray actors: every unit ends once, and what a unit breaks stays its own."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray

from assay.schemas.errors import AssayError
from assay.workers.pool import Outcome, PoolOptions, WorkPool

pytestmark = pytest.mark.usefixtures("cluster")

ONE = PoolOptions(workers=1, cpus=0.1)
TWO = PoolOptions(workers=2, cpus=0.1)


class Errand(NamedTuple):
    """A unit that behaves badly on its first `bad` calls."""

    id: str
    how: str = "fine"
    bad: int = 99


class Diligent:
    """Notes each call in a folder, and does what the unit says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def process(self, unit: Errand, attempt: str) -> str:
        calls = len(list(self._folder.glob(f"{unit.id}.begin.*")))
        (self._folder / f"{unit.id}.begin.{time.time_ns()}.{os.getpid()}").touch()
        if calls < unit.bad:
            misbehave(unit.how)
        return f"receipt of {unit.id}"


def misbehave(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raises":
        raise RuntimeError("the disk \x1b[31mhiccuped")
    if how == "mistaken":
        raise AssayError("the text column is missing", where="corpus.parquet", hint="name it")
    if how == "slow":
        time.sleep(0.5)


class Stillborn:
    """Cannot be made: counts its constructions in a folder, and fails in the given ways, one after the other."""

    def __init__(self, folder: Path, fates: tuple[str, ...]) -> None:
        made = len(list(folder.glob("made.*")))
        (folder / f"made.{made}.{os.getpid()}").touch()
        misbehave(fates[min(made, len(fates) - 1)])

    def process(self, unit: Errand, attempt: str) -> str:
        if unit.how == "killed" and unit.bad:
            misbehave("killed")
        return "done"


def run(units: Iterable[Errand], make: Callable[[], Any], options: PoolOptions = TWO) -> dict[str, Outcome]:
    outcomes = list(WorkPool(make, options).run(list(units)))
    found = {outcome.unit.id: outcome for outcome in outcomes}
    assert len(found) == len(outcomes), "a unit ended twice"
    return found


def errands(*count_from: int) -> list[Errand]:
    return [Errand(f"u{i}") for i in range(*count_from)]


def calls(folder: Path, unit: str) -> int:
    return len(list(folder.glob(f"{unit}.begin.*")))


def processes(folder: Path, pattern: str) -> list[int]:
    """The processes that began these calls, earliest first."""
    begun = sorted(file.name.split(".")[-2:] for file in folder.glob(pattern))
    return [int(pid) for _, pid in begun]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_unit_is_done_once_and_gives_its_receipt(tmp_path: Path) -> None:
    found = run(errands(20), partial(Diligent, tmp_path))
    assert {unit: outcome.receipt for unit, outcome in found.items()} == {
        f"u{i}": f"receipt of u{i}" for i in range(20)
    }
    assert not any(outcome.error for outcome in found.values())
    assert all(calls(tmp_path, f"u{i}") == 1 for i in range(20))


def test_no_units_need_no_actor() -> None:
    assert run([], partial(Stillborn, Path("/nowhere"), ("raises",))) == {}


def test_a_unit_that_kills_its_actor_once_is_done_on_another(tmp_path: Path) -> None:
    found = run([*errands(6), Errand("bomb", "killed", bad=1), *errands(6, 12)], partial(Diligent, tmp_path))
    assert len(found) == 13
    assert not any(outcome.error for outcome in found.values())
    assert calls(tmp_path, "bomb") == 2


def test_a_unit_that_always_kills_its_actor_is_given_up_after_three_attempts_and_its_neighbours_are_done(
    tmp_path: Path,
) -> None:
    found = run([*errands(5), Errand("bomb", "killed"), *errands(5, 10)], partial(Diligent, tmp_path))
    assert found.pop("bomb").error.startswith("bomb after 3 attempt(s): ActorDiedError")
    assert calls(tmp_path, "bomb") == 3
    assert len(found) == 10
    assert not any(outcome.error for outcome in found.values())


def test_a_killer_takes_no_other_unit_with_it(tmp_path: Path) -> None:
    slow = [Errand(f"u{i}", "slow") for i in range(8)]
    run([slow[0], Errand("bomb", "killed"), *slow[1:]], partial(Diligent, tmp_path))
    assert [calls(tmp_path, unit.id) for unit in slow] == [1] * 8


def test_units_after_a_killer_are_not_blamed(tmp_path: Path) -> None:
    options = PoolOptions(workers=1, cpus=0.1, attempts=1)
    found = run([Errand("bomb", "killed"), *errands(4)], partial(Diligent, tmp_path), options)
    assert found.pop("bomb").error.startswith("bomb after 1 attempt(s)")
    assert len(found) == 4
    assert not any(outcome.error for outcome in found.values())


def test_an_exception_is_retried_and_then_given_up_in_printable_words(tmp_path: Path) -> None:
    units = [Errand("flaky", "raises", bad=2), Errand("broken", "raises"), *errands(4)]
    found = run(units, partial(Diligent, tmp_path))
    assert found["flaky"].receipt == "receipt of flaky"
    assert found["broken"].error == r"broken after 3 attempt(s): RuntimeError: the disk \x1b[31mhiccuped"
    assert calls(tmp_path, "flaky") == calls(tmp_path, "broken") == 3
    assert sum(bool(outcome.error) for outcome in found.values()) == 1


def test_a_mistake_that_only_a_person_can_mend_is_not_retried(tmp_path: Path) -> None:
    found = run([Errand("wrong", "mistaken"), *errands(2)], partial(Diligent, tmp_path))
    assert found["wrong"].error == (
        "wrong after 1 attempt(s): corpus.parquet: the text column is missing\n  hint: name it"
    )
    assert calls(tmp_path, "wrong") == 1


def test_a_mistake_found_by_the_workers_constructor_reaches_the_caller_whole(tmp_path: Path) -> None:
    with pytest.raises(AssayError) as caught:
        run(errands(4), partial(Stillborn, tmp_path, ("mistaken",)), ONE)
    assert (caught.value.what, caught.value.where, caught.value.hint) == (
        "the text column is missing",
        "corpus.parquet",
        "name it",
    )
    assert len(list(tmp_path.glob("made.*"))) == 1


@pytest.mark.parametrize(("fate", "named"), [("raises", r"the disk \\x1b\[31mhiccuped"), ("killed", "died")])
def test_workers_that_never_start_end_the_run_after_three_trials(tmp_path: Path, fate: str, named: str) -> None:
    with pytest.raises(AssayError, match=f"workers can't start: .*{named}"):
        run(errands(4), partial(Stillborn, tmp_path, (fate,)), ONE)
    assert len(list(tmp_path.glob("made.*"))) == 3


def test_starts_that_fail_now_and_then_do_not_add_up(tmp_path: Path) -> None:
    fates = ("raises", "killed", "fine", "raises", "killed", "fine")
    found = run([Errand("bomb", "killed"), *errands(1)], partial(Stillborn, tmp_path, fates), ONE._replace(attempts=1))
    assert found["bomb"].error
    assert found["u0"].receipt == "done"
    assert len(list(tmp_path.glob("made.*"))) == 6


def test_a_run_stops_when_too_many_units_fail(tmp_path: Path) -> None:
    options = ONE._replace(max_failed=2)
    ended: list[Outcome] = []
    with pytest.raises(AssayError, match=r"3 units failed, so the run was stopped; the last one: bad2"):
        for outcome in WorkPool(partial(Diligent, tmp_path), options).run(
            [*[Errand(f"bad{i}", "mistaken") for i in range(3)], *errands(40)]
        ):
            ended.append(outcome)
    assert [outcome.unit.id for outcome in ended if outcome.error] == ["bad0", "bad1", "bad2"]
    assert len(ended) < 40


@pytest.mark.parametrize("early", [False, True], ids=["read to the end", "left early"])
def test_actors_are_gone_after_the_run(tmp_path: Path, early: bool) -> None:
    pool = WorkPool(partial(Diligent, tmp_path), TWO)  # held, so that no garbage collection ends its actors
    outcomes = pool.run(errands(40))
    if early:
        next(outcomes)
        outcomes.close()  # type: ignore[attr-defined]
    else:
        list(outcomes)
    actors = set(processes(tmp_path, "*.begin.*"))
    assert actors
    deadline = time.monotonic() + 10
    while (alive := [pid for pid in actors if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive == []
    del pool


def test_a_session_that_is_open_is_used_and_left_open() -> None:
    from assay.workers.session import ray_session

    with ray_session("ray://nobody:1"):
        pass
    assert ray.is_initialized()
