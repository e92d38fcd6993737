"""Pass 4: the list of copies of each shard, by row and id, and what it adds up to."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.dedup import STAGES, CopyCluster, CopyList, SearchTally
from assay.schemas.store import ShardCommit
from assay.workers.dedup.copies import COPIES
from assay.workers.dedup.job import DedupJob, SearchUnit, place, read_object
from assay.workers.dedup.resolving import Gone, by_unit
from assay.workers.feature_table import parquet_bytes
from assay.workers.storage.objects import ObjectStore

_LARGEST, _EXAMPLES = 10, 5


class Listed(NamedTuple):
    """All lists of a search."""

    shards: tuple[CopyList, ...]
    stages: tuple[SearchTally, ...]
    clusters: tuple[CopyCluster, ...]


class _Kept(NamedTuple):
    """K documents that stay and have copies, ascending, with their place in the source."""

    document: NDArray[np.int64]
    row: NDArray[np.int64]
    id: list[str]
    copies: NDArray[np.int64]


def write_lists(
    job: DedupJob, units: Sequence[SearchUnit], gone: Gone, signed: Sequence[ShardCommit], attempt: str
) -> Listed:
    """Writes a table for each shard that has copies or contaminated documents; holds one shard's tags at a time."""
    output = ObjectStore(job.output)
    kept = _kept(job, units, gone)
    largest = np.lexsort((kept.document, -kept.copies))[:_LARGEST]
    examples: dict[int, list[str]] = {int(kept.document[at]): [] for at in largest}
    tallies = {stage: np.zeros(3, np.int64) for stage in STAGES}
    lists = []
    edges = np.searchsorted(place(gone.document)[0], np.arange(len(units) + 1))
    for unit, commit in zip(units, signed, strict=True):
        span = slice(edges[unit.number], edges[unit.number + 1])
        mine = Gone._make(column[span] for column in gone)
        table, tags = _table(job, units, unit, mine, kept, commit, output)
        stored = None
        if table.num_rows:
            stage = np.array(table["stage"].to_pylist())
            for name in set(stage):
                at = stage == name
                tallies[name] += [at.sum(), *(int(tags[n].to_numpy()[at].sum()) for n in ("n_tokens", "n_bytes"))]
            for doc_id, into in zip(table["doc_id"].to_pylist(), _kept_in(table, kept, mine), strict=True):
                if into in examples and len(examples[into]) < _EXAMPLES:
                    examples[into].append(doc_id)
            stored = output.create_named(
                "copies", unit.id, ".parquet", parquet_bytes(table), table.num_rows, attempt=attempt
            )
        compared = commit.rows_kept + (commit.objects["contaminated"].rows if "contaminated" in commit.objects else 0)
        lists.append(CopyList(source=unit.source, shard=unit.entry.shard, documents=compared, copies=stored))
    return Listed(
        shards=tuple(lists),
        stages=tuple(
            SearchTally(
                stage=stage, **dict(zip(("documents", "tokens", "bytes"), map(int, tallies[stage]), strict=True))
            )
            for stage in STAGES
        ),
        clusters=tuple(
            CopyCluster(kept=kept.id[at], copies=int(kept.copies[at]), examples=tuple(examples[int(kept.document[at])]))
            for at in largest
        ),
    )


def _kept(job: DedupJob, units: Sequence[SearchUnit], gone: Gone) -> _Kept:
    document, copies = np.unique(gone.kept, return_counts=True)
    rows, ids = [np.zeros(0, np.int64)], []
    for number, index in by_unit(units, document).items():
        unit = units[number]
        tags = read_object(ObjectStore(job.stores[unit.source]), unit.entry.objects["tags"], ["row", "doc_id"])
        tags = tags.take(pa.array(index))
        rows.append(tags["row"].to_numpy())
        ids += tags["doc_id"].to_pylist()
    return _Kept(document, np.concatenate(rows), ids, copies)


def _table(
    job: DedupJob,
    units: Sequence[SearchUnit],
    unit: SearchUnit,
    gone: Gone,
    kept: _Kept,
    commit: ShardCommit,
    output: ObjectStore,
) -> tuple[pa.Table, pa.Table]:
    """The shard's list, in the order of its rows, and the same documents' lines of its tags table."""
    index = place(gone.document)[1]
    item: list[str | None] = [None] * len(index)
    at = np.searchsorted(kept.document, gone.kept)
    source = pa.array([units[n].source for n in place(gone.kept)[0]], pa.int32())
    shard = pa.array([units[n].entry.shard for n in place(gone.kept)[0]], pa.string())
    columns: Mapping[str, pa.Array] = {
        "stage": pa.array(gone.stage.tolist(), pa.string()),
        "similarity": pa.array(gone.similarity, pa.float32()),
        "kept_source": source,
        "kept_shard": shard,
        "kept_row": pa.array(kept.row[at]),
        "kept_id": pa.array([kept.id[n] for n in at], pa.string()),
        "item": pa.array(item, pa.string()),
    }
    body = pa.table(dict(columns)).append_column("index", pa.array(index))
    if "contaminated" in commit.objects:
        found = read_object(output, commit.objects["contaminated"])
        more = pa.table(
            {
                "stage": pa.array(["contaminated"] * found.num_rows),
                "similarity": found["share"].cast(pa.float32()),
                "item": found["item"],
                "index": found["index"],
            }
        )
        body = pa.concat_tables([body, more], promote_options="default").sort_by("index")
    if not body.num_rows:
        return COPIES.empty_table(), COPIES.empty_table()
    names = ["row", "doc_id", "n_tokens", "n_bytes"]
    tags = read_object(ObjectStore(job.stores[unit.source]), unit.entry.objects["tags"], names).take(body["index"])
    for name in ("row", "doc_id"):
        body = body.append_column(name, tags[name])
    return body.select(COPIES.names).cast(COPIES), tags


def _kept_in(table: pa.Table, kept: _Kept, gone: Gone) -> Iterator[int]:
    """For each line of a list the document that stays; -1 for a contaminated one."""
    staying = iter(gone.kept.tolist())
    return (-1 if stage == "contaminated" else next(staying) for stage in table["stage"].to_pylist())
