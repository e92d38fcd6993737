"""A whole search without Ray: what the flow does, in one process and in any order of work."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from assay.flows.dedup import SearchPlan, claim_search, plan_search, seal_search, with_weights
from assay.schemas.dedup import Decontaminate, Dedup, DedupManifest
from assay.schemas.recipe import TaggedSource
from assay.schemas.store import TagManifest
from assay.workers.dedup.copies import COPIES
from assay.workers.dedup.job import SIGNED
from assay.workers.dedup.partitions import PartitionMatcher, PartitionUnit
from assay.workers.dedup.signing import ShardSigner
from assay.workers.feature_table import iter_parquet
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore

Source = tuple[str, TagManifest]


def plan(
    sources: list[Source],
    output: Path | str,
    dedup: dict[str, Any] | None = None,
    decontaminate: dict[str, Any] | None = None,
    *,
    partitions: int = 1,
    **options: Any,
) -> SearchPlan:
    made = plan_search(
        [TaggedSource(store=store) for store, _ in sources],
        [manifest for _, manifest in sources],
        None if dedup is None else Dedup.model_validate(dedup),
        None if decontaminate is None else Decontaminate.model_validate(decontaminate),
        str(output),
        **options,
    )
    return made._replace(job=made.job._replace(partitions=partitions))


def run(made: SearchPlan, *, seed: int | None = None) -> DedupManifest:
    """Signs, matches and seals; with a seed the shards and partitions come in another order."""
    claim_search.fn(made)
    made = made._replace(job=with_weights(made.job, made.units))
    draw = random.Random(seed)

    def order(units: list[Any]) -> list[Any]:
        return units if seed is None else draw.sample(units, len(units))

    for unit in order(list(made.units)):
        ShardSigner(made.job).process(unit, "sign")
    commits = list(CommitLog(ObjectStore(made.job.output), SIGNED).read_many(unit.id for unit in made.units))
    signed = {kind: tuple(commit.objects[kind] for commit in commits) for kind in made.job.kinds}
    for unit in order([PartitionUnit(kind, n) for kind in made.job.kinds for n in range(made.job.partitions)]):
        PartitionMatcher(made.job, signed).process(unit, "match")
    return seal_search.fn(made)


def copies(manifest: DedupManifest, output: Path) -> list[dict[str, Any]]:
    """All lists of a search, in corpus order."""
    store = ObjectStore(str(output))
    rows = []
    for shard in manifest.shards:
        if shard.copies:
            table = pa.concat_tables(iter_parquet(pa.BufferReader(store.read_verified(shard.copies))))
            assert table.schema.equals(COPIES)
            rows += table.to_pylist()
    return rows


def dropped(manifest: DedupManifest, output: Path) -> dict[str, tuple[str, str]]:
    """id -> stage and the id that stays (or the benchmark's item)."""
    return {row["doc_id"]: (row["stage"], row["kept_id"] or row["item"]) for row in copies(manifest, output)}
