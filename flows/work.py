"""Runs a store's shards in this process, or on Ray actors where several are wanted, and shows how far they are."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from assay.flows.progress import shard_progress
from assay.schemas.corpus import CorpusPlan, Shard
from assay.schemas.errors import AssayError
from assay.schemas.store import ShardCommit
from assay.workers.storage.commits import CommitLog

if TYPE_CHECKING:
    from assay.workers.pool import Worker


class Placement(NamedTuple):
    """Where shards are worked on: this process, if it is one worker and no Ray cluster is named."""

    workers: int = 1
    ray_address: str | None = None
    cpus: int = 1
    gpus: int = 0


def work_through(
    label: str,
    corpus: CorpusPlan,
    log: CommitLog,
    make_worker: "Callable[[], Worker]",
    place: Placement,
    counted: Callable[[ShardCommit], tuple[int, int]],
) -> list[ShardCommit]:
    """Works on every shard without a commit in `log`; returns the commits of these.

    `counted` gives the documents and tokens that a commit adds to the progress. AssayError, once the others are
    committed, if shards were given up.
    """
    done = log.committed()
    todo = [shard for shard in corpus.shards if shard.id not in done]
    commits, failed = [], []
    total, left = (sum(shard.bytes for shard in shards) for shards in (corpus.shards, todo))
    with shard_progress(
        label,
        shards=len(corpus.shards),
        done=len(corpus.shards) - len(todo),
        total_bytes=total,
        done_bytes=total - left,
    ) as progress:
        for shard, commit, error in _run(make_worker, todo, place):
            if commit is None:
                failed.append(error)
                progress.advance(size=shard.bytes, documents=0, tokens=0, failed=True)
                continue
            commits.append(commit)
            documents, tokens = counted(commit)
            progress.advance(size=shard.bytes, documents=documents, tokens=tokens)
    if failed:
        raise AssayError(
            f"{len(failed)} of {len(corpus.shards)} shards failed: " + "; ".join(failed[:5]),
            where=log.store.root,
            hint="the others are committed; mend the cause and run the same command again",
        )
    return commits


def _run(
    make_worker: "Callable[[], Worker]", todo: Sequence[Shard], place: Placement
) -> Iterator[tuple[Shard, ShardCommit | None, str]]:
    """Each shard as it ends, with its commit or why it was given up. In this process errors are raised as they are."""
    if not todo:
        return
    if place.workers == 1 and place.ray_address is None:
        worker = make_worker()
        for shard in todo:
            yield shard, worker.process(shard, uuid.uuid4().hex[:12]), ""
        return
    from assay.workers.pool import PoolOptions, WorkPool
    from assay.workers.session import ray_session

    workers = min(place.workers, len(todo))
    with ray_session(place.ray_address, cpus=workers * place.cpus):
        for outcome in WorkPool(make_worker, PoolOptions(workers=workers, cpus=place.cpus, gpus=place.gpus)).run(todo):
            done = outcome.unit
            assert isinstance(done, Shard)  # noqa: S101 - as they went in
            yield done, outcome.receipt, outcome.error
