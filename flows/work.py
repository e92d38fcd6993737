"""Runs a store's shards in this process, or on Ray actors where several are wanted."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from assay.workers.pool import Unit, Worker


class Ended(NamedTuple):
    """A unit that is done (receipt) or given up (error)."""

    unit: Any
    receipt: Any
    error: str


def run_units(
    make_worker: "Callable[[], Worker]",
    units: "Sequence[Unit]",
    *,
    workers: int,
    ray_address: str | None = None,
    cpus: int = 1,
    gpus: int = 0,
) -> Iterator[Ended]:
    """Each unit as it ends. One worker without a Ray address is this process, and raises what it meets."""
    if workers == 1 and ray_address is None:
        worker = make_worker()
        for unit in units:
            yield Ended(unit, worker.process(unit, uuid.uuid4().hex[:12]), "")
        return
    from assay.workers.pool import PoolOptions, WorkPool
    from assay.workers.session import ray_session

    with ray_session(ray_address, cpus=workers * cpus):
        for outcome in WorkPool(make_worker, PoolOptions(workers=workers, cpus=cpus, gpus=gpus)).run(units):
            yield Ended(*outcome)
